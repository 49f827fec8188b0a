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
import time

from celery_ops.hosts.relay import ask, between, connected, failure

# --- from here on it is sent ---

FAILED, NO_ANSWER, NO_LOG, HUNG_UP = 1, 3, 4, 5
"""Exit codes. stderr says for the first what failed, for the next two what supervisord answered."""
HEAD = 1024
"""Bytes that supervisord begins with."""
FIRST_WAIT = 0.5
REOPEN_PAUSE = 0.2
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


class Log:
    """One log as it comes: in HTTP's chunks, since supervisord holds back what goes without."""

    def __init__(self, connection: socket.socket, requests: "list[str]") -> None:
        self.connection = connection
        self.requests = requests
        self.ended = False
        self.raw = b""
        self.left = 0
        self.partial = b""

    def has_answered(self) -> bool:
        """Read the head of the answer; whether there is a log."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = self.connection.recv(1)
            if not data:
                return False
            head += data
        return b" 200 " in head.partition(b"\r\n")[0]

    def read(self) -> bytes:
        """What was added; nothing if that is not known yet."""
        data = self.connection.recv(65536)
        self.ended = self.ended or not data
        self.raw += data
        found = []  # type: list[bytes]
        while self.raw and not self.ended:
            if self.left:
                found.append(self.raw[: self.left])
                self.raw = self.raw[self.left :]
                self.left -= len(found[-1])
                continue
            size, newline, rest = self.raw.lstrip(b"\r\n").partition(b"\r\n")
            if not newline:
                break
            self.left, self.raw = int(size, 16), rest
            self.ended = not self.left
        return b"".join(found)

    def whole_lines(self, data: bytes) -> bytes:
        """Keep back what has no end yet: two logs are not to be mixed within a line."""
        whole, newline, rest = (self.partial + data).rpartition(b"\n")
        if len(rest) > MAX_PARTIAL:
            whole, newline, rest = whole + newline + rest, b"", b""
        self.partial = rest
        return whole + newline


class Follower:
    """Some logs, whose lines go to stdout in the order they come."""

    def __init__(self, place: str, logs: "list[list[str]]", most: int) -> None:
        self.place = place
        self.waiting = logs
        self.most = most
        self.logs = {}  # type: dict[int, Log]
        self.pending = bytearray()
        self.skipped = 0
        self.poller = select.poll()

    def run(self) -> int:
        """Until supervisord hangs up, or nobody reads any more."""
        os.set_blocking(1, False)
        self.poller.register(1, 0)
        self.open_waiting()
        if self.waiting and not self.logs:
            self.emit(b"(there is no log file yet: was it never started?)\n")
        while self.logs or self.waiting or self.pending:
            self.poller.modify(1, select.POLLOUT if self.pending else 0)
            for fd, event in self.poller.poll(RETRY_EVERY * 1000 if self.waiting else None):
                if fd != 1:
                    self.receive(fd)
                elif event & ~select.POLLOUT:
                    return 0
                else:
                    self.send()
            self.open_waiting()
        return HUNG_UP

    def open_waiting(self) -> None:
        """Open the logs that are there by now."""
        self.waiting = [requests for requests in self.waiting if not self.opened(requests)]

    def opened(self, requests: "list[str]") -> bool:
        """Follow a log, if it is there."""
        log = Log(connected(self.place), requests)
        log.connection.sendall(requests[0].encode())
        if not log.has_answered():
            log.connection.close()
            return False
        self.emit(log.whole_lines(self.beginning(log, requests[1:])))
        log.connection.setblocking(False)
        self.logs[log.connection.fileno()] = log
        self.poller.register(log.connection, select.POLLIN)
        return True

    def again(self, log: Log) -> None:
        """supervisord hangs up (seen in 4.3.0) when a log was made shorter; or because it ends."""
        time.sleep(REOPEN_PAUSE)
        try:
            there = self.opened(log.requests[:1])
        except OSError:
            self.waiting = []
            return
        if there:
            self.emit(b"(the log was truncated, or begun anew)\n")
        else:
            self.waiting.append(log.requests[:1])

    def beginning(self, log: Log, history: "list[str]") -> bytes:
        """The last lines, as many as are wanted."""
        log.connection.settimeout(FIRST_WAIT)
        first = b""
        try:
            while len(first) < HEAD and not log.ended:
                first += log.read()
        except OSError:
            pass  # its time is over, or the connection: that is seen when it is read again
        if len(first) >= HEAD:
            first = before(self.place, history, first[:HEAD]) + first
            first = first.partition(b"\n")[2] or first
        return b"\n".join(first.split(b"\n")[-self.most - 1 :])

    def receive(self, fd: int) -> None:
        log = self.logs[fd]
        try:
            self.emit(log.whole_lines(log.read()))
        except BlockingIOError:
            return
        except OSError:
            log.ended = True
        if log.ended:
            self.emit(log.partial)
            self.poller.unregister(fd)
            self.logs.pop(fd).connection.close()
            self.again(log)

    def emit(self, data: bytes) -> None:
        if len(self.pending) > MAX_PENDING:
            self.skipped += len(data)
            return
        if self.skipped and data:
            self.pending += b"\n(%d bytes are left out: they came too fast)\n" % self.skipped
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
