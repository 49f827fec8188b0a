"""What goes wrong with machines and the ways to them: on real parts, and taken back at the end."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig import wait_until
from tests.rig.missing import missing
from tests.rig.systemd_hosts import freeze

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.systemd_hosts import SystemdHost

_CHUNK = 65_536


@contextlib.contextmanager
def cut_off(host: SystemdHost) -> Iterator[None]:
    """Its cable is out, at its end: nobody says that it is gone."""
    _link(host, "down")
    try:
        yield
    finally:
        _link(host, "up")


@contextlib.contextmanager
def frozen(host: SystemdHost) -> Iterator[None]:
    """Nothing in it runs any more, but its kernel: connections are accepted and stay silent."""
    _freeze(host, frozen=True)
    try:
        yield
    finally:
        _freeze(host, frozen=False)


def power_off(host: SystemdHost) -> None:
    """All of it is gone at once, and no connection is closed."""
    _link(host, "down")
    status = Path(f"/proc/{host.init}/status").read_text()
    (nspawn,) = [line.split()[1] for line in status.splitlines() if line.startswith("PPid:")]
    # The first process of its namespace: the kernel ends all others with it.
    os.kill(int(nspawn), signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{host.init}").exists(), what=f"{host.name} is off")


def fill_disk(host: SystemdHost) -> None:
    """Not a byte is left on the host's file system."""
    host.run("sh", "-c", "cat /dev/zero >/filled", check=False)
    left = host.run("df", "--output=avail", "/").split()[-1]
    assert left == "0", left


@contextlib.contextmanager
def crowd(host: SystemdHost, many: int) -> Iterator[None]:
    """So many connections to its sshd that never log in."""
    with contextlib.ExitStack() as stack:
        for _ in range(many):
            one = stack.enter_context(socket.create_connection((host.address, 22), timeout=5))
            one.recv(64)  # sshd has counted it
        yield


@dataclass(slots=True)
class _Pipe:
    """One direction of a connection; what came is due some time later."""

    source: socket.socket
    target: socket.socket
    due: deque[tuple[float, bytes]] = field(default_factory=deque)


class Proxy:
    """Stands between us and a host's sshd, in a thread. `delay` is in seconds, each way."""

    def __init__(self, host: SystemdHost, *, delay: float = 0.0) -> None:
        self._there = (host.address, 22)
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._pipes: dict[socket.socket, _Pipe] = {}
        self._wake, self._woken = socket.socketpair()
        self._over = False
        self._cut = threading.Event()
        self._was_cut = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.connections = 0

    def __enter__(self) -> Proxy:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._wake.send(b"x")
        self._thread.join()
        for one in (self._listener, self._wake, self._woken):
            one.close()
        self._selector.close()

    def cut(self) -> None:
        """Reset all connections there are, on both sides; new ones are taken."""
        self._was_cut.clear()
        self._cut.set()
        self._wake.send(b"x")
        assert self._was_cut.wait(60)

    def _run(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(self._until_due()):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one is self._listener:
                    self._connect()
                elif one is self._woken:
                    one.recv(_CHUNK)
                elif one in self._pipes:
                    self._receive(self._pipes[one])
            if self._cut.is_set():
                self._reset()
                self._cut.clear()
                self._was_cut.set()
            self._deliver()
        self._reset()

    def _until_due(self) -> float:
        heads = [pipe.due[0][0] for pipe in self._pipes.values() if pipe.due]
        return max(0.0, min([*(at - time.monotonic() for at in heads), 1.0]))

    def _connect(self) -> None:
        here, _ = self._listener.accept()
        self.connections += 1
        there = socket.create_connection(self._there, timeout=5)
        for one in (here, there):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ)
        self._pipes[here] = _Pipe(here, there)
        self._pipes[there] = _Pipe(there, here)

    def _receive(self, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(_CHUNK)
        except OSError:
            data = b""
        pipe.due.append((time.monotonic() + self._delay, data))
        if not data:
            self._selector.unregister(pipe.source)

    def _deliver(self) -> None:
        for pipe in list(self._pipes.values()):
            while pipe.due and pipe.due[0][0] <= time.monotonic():
                _, data = pipe.due.popleft()
                if not (data and _sent(pipe.target, data)):
                    self._end(pipe)
                    break

    def _end(self, pipe: _Pipe) -> None:
        """Close both ends."""
        for one in (pipe.source, pipe.target):
            if self._pipes.pop(one, None) is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()

    def _reset(self) -> None:
        at_once = struct.pack("ii", 1, 0)
        for one in self._pipes:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        for pipe in list(self._pipes.values()):
            self._end(pipe)


def _sent(target: socket.socket, data: bytes) -> bool:
    try:
        target.sendall(data)
    except OSError:
        return False
    return True


def _link(host: SystemdHost, state: str) -> None:
    command = ["ip", "-n", host.namespace, "link", "set", "eth0", state]
    subprocess.run(command, check=True, capture_output=True)


def _freeze(host: SystemdHost, *, frozen: bool) -> None:
    # With version 1 of control groups the freezer is a hierarchy of its own.
    if not any(freeze(group, frozen=frozen) for group in host.groups):
        missing("a freezer: control groups of version 2, or that controller of version 1")
