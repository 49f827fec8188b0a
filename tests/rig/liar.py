"""A supervisord's socket that passes everything on, and claims to have done what it did not.

To an operator it is a supervisord that answers "done" to a stop, and stops nothing.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import xmlrpc.client
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.supervisord import Rig

_BODY = xmlrpc.client.dumps((True,), methodresponse=True).encode()
_DONE = b"HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


@contextlib.contextmanager
def liar(rig: Rig, *methods: str) -> Iterator[str]:
    """The address of a server before this supervisord that only pretends to obey these methods."""
    behind = rig.folder / "s"
    claims = [f"<methodName>{method}</methodName>".encode() for method in methods]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b"".join(iter(self.rfile.readline, b"\r\n"))
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            body = self.rfile.read(length)
            if any(claim in body for claim in claims):
                self.wfile.write(_DONE)
                return
            with socket.socket(socket.AF_UNIX) as real:
                real.connect(str(behind))
                real.sendall(head + b"\r\n" + body)
                while piece := real.recv(65536):
                    self.wfile.write(piece)

    place = rig.folder / "liar"
    with socketserver.ThreadingUnixStreamServer(str(place), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"unix://{place}"
        finally:
            server.shutdown()
            thread.join()
            place.unlink()
