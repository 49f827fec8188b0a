"""Follows the log of a supervisord's program, on the machine it runs on. Sent there behind the
relay (`celery_ops.hosts.relay`), whose functions it uses, and run with `-c` as that is.

supervisord itself pushes what is added to a log (`/logtail`, what `supervisorctl tail -f` reads):
raw bytes, rotated and truncated files included, and no question every second. It begins with the
last 1,024 bytes; what comes before is read once, by XML-RPC.

supervisord keeps in its memory what its reader does not take. So everything is taken at once, and
left out, which is said, if it cannot be handed on.
"""

import json
import os
import select
import socket
import sys

from celery_ops.hosts.relay import ask, between, connected, failure

# --- from here on it is sent ---

FAILED, NO_ANSWER, NO_LOG, HUNG_UP = 1, 3, 4, 5
"""Exit codes. stderr says for the first what failed, for the next two what supervisord answered."""
HEAD = 1024
"""Bytes that supervisord begins with."""
FIRST_WAIT = 0.5
RETRY_EVERY = 2.0
"""Seconds; a program that was never started has no file yet."""
MAX_PENDING = 1_000_000
MAX_PARTIAL = 65_536
"""Bytes of a line whose end is waited for."""


def follow() -> int:
    """The job: places, the request for getProcessInfo, per channel its requests, and the lines."""
    places, about, channels, most = json.load(sys.stdin)
    try:
        place, answer = ask(places, about)
    except (OSError, ValueError) as error:
        sys.stderr.write(failure(error))
        return FAILED
    if b"<name>statename</name>" not in answer:
        sys.stderr.buffer.write(answer)
        return NO_ANSWER
    files = {}  # type: dict[str, list[str]]
    for name, requests in channels:
        part = answer.partition(b"<name>" + name.encode() + b"_logfile</name>")[2]
        file = between(part.partition(b"</member>")[0], b"<string>", b"</string>").decode()
        # What supervisord passes on to its own stdout (in containers) is no file to be read.
        if file and not file.startswith("/dev/"):
            files.setdefault(file, requests)
    if not files:
        sys.stderr.buffer.write(answer)
        return NO_LOG
    try:
        return Follower(place, list(files.values()), most).run()
    except (OSError, ValueError) as error:
        sys.stderr.write(failure(error))
        return FAILED


class Follower:
    """Some logs, whole lines of which go to stdout in the order they come."""

    def __init__(self, place: str, logs: "list[list[str]]", most: int) -> None:
        self.place = place
        self.waiting = logs
        self.most = most
        self.open = {}  # type: dict[int, socket.socket]
        self.partial = {}  # type: dict[int, bytes]
        self.pending = bytearray()
        self.skipped = 0
        self.poller = select.poll()

    def run(self) -> int:
        """Until supervisord hangs up, or nobody reads any more."""
        os.set_blocking(1, False)
        self.poller.register(1, 0)
        while True:
            self.open_waiting()
            if not self.open and not self.waiting and not self.pending:
                return HUNG_UP
            self.poller.modify(1, select.POLLOUT if self.pending else 0)
            for fd, event in self.poller.poll(RETRY_EVERY * 1000 if self.waiting else None):
                if fd != 1:
                    self.receive(fd)
                elif event & ~select.POLLOUT:
                    return 0
                else:
                    self.send()

    def open_waiting(self) -> None:
        still = []  # type: list[list[str]]
        for requests in self.waiting:
            tail, history = requests[0], requests[1:]
            connection = connected(self.place)
            connection.sendall(tail.encode())
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(1)
                if not data:
                    break
                head += data
            if b" 200 " not in head.partition(b"\r\n")[0]:
                connection.close()
                still.append(requests)
                continue
            fd = connection.fileno()
            self.open[fd] = connection
            self.partial[fd] = b""
            self.hand_on(fd, self.beginning(connection, history))
            connection.setblocking(False)
            self.poller.register(fd, select.POLLIN)
        if still and len(still) == len(self.waiting) and not self.skipped and self.most:
            self.emit(b"(there is no log file yet: was it never started?)\n")
        self.waiting, self.most = still, 0 if still else self.most

    def beginning(self, connection: socket.socket, history: "list[str]") -> bytes:
        """The last lines, as many as are wanted."""
        connection.settimeout(FIRST_WAIT)
        first = b""
        try:
            while len(first) < HEAD:
                data = connection.recv(65536)
                if not data:
                    break
                first += data
        except socket.timeout:
            pass
        if len(first) >= HEAD:
            first = before(self.place, history, first[:HEAD]) + first
            first = first.partition(b"\n")[2] or first
        lines = first.split(b"\n")
        return b"\n".join(lines[-self.most - 1 :]) if self.most else first

    def receive(self, fd: int) -> None:
        try:
            data = self.open[fd].recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.hand_on(fd, data)
            return
        self.emit(self.partial.pop(fd))
        self.poller.unregister(fd)
        self.open.pop(fd).close()

    def hand_on(self, fd: int, data: bytes) -> None:
        """Whole lines: two logs are not to be mixed within one."""
        whole, newline, rest = (self.partial[fd] + data).rpartition(b"\n")
        if len(rest) > MAX_PARTIAL:
            whole, newline, rest = whole + newline + rest, b"", b""
        self.partial[fd] = rest
        self.emit(whole + newline)

    def emit(self, data: bytes) -> None:
        if len(self.pending) > MAX_PENDING:
            self.skipped += len(data)
            return
        if self.skipped and data:
            self.pending += b"(%d bytes are left out: they came too fast)\n" % self.skipped
            self.skipped = 0
        self.pending += data

    def send(self) -> None:
        try:
            sent = os.write(1, self.pending[:MAX_PARTIAL])
        except BlockingIOError:
            return
        del self.pending[:sent]


def before(place: str, requests: "list[str]", head: bytes) -> bytes:
    """What stands in a log before what is known of it; nothing if that cannot be told.

    supervisord fails where the range begins within a character: there are several requests, one
    byte apart.
    """
    for request in requests:
        answer = ask([place], request)[1]
        if b"<string>" in answer and b"<fault>" not in answer:
            text = answer.partition(b"<string>")[2].rpartition(b"</string>")[0]
            for entity, character in ((b"&lt;", b"<"), (b"&gt;", b">"), (b"&amp;", b"&")):
                text = text.replace(entity, character)
            at = text.rfind(head)
            return text[:at] if at > 0 else b""
    return b""


if __name__ == "__main__":
    try:
        sys.exit(follow())
    except BrokenPipeError:
        os._exit(0)
