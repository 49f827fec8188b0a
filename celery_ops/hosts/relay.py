"""Talks to a supervisord from the machine it runs on; its source is sent there and run with `-c`.

Knows nothing of XML-RPC but where a number stands: requests come ready-made, answers go back as
they came, and are read where the rest of celery-ops is. Needs nothing but the standard library of
Python 3.6, and imports little of it, since it is started anew for every question.

The job comes on stdin, never in the argv that everybody on the machine can read. The answer is a
list of parts, `kind length\\n` and so many bytes each, compressed as a whole.
"""

import glob
import json
import os
import socket
import sys
import time
import zlib

MARK = b"\ncelery-ops-relay\n"
SOCKET_TIMEOUT = 8.0
WANTED = ("files", "programs", "process_name", "autorestart", "stopasgroup")


def main() -> None:
    """Ask `first`; if its answer passes the guard ask `then`, else `otherwise`.

    `guard` is None or (identity, state): go on only with that identity (empty: any), and not in
    that state. `wants_config`: the answer to `then` is supervisord's pid, read its configuration.
    """
    places, first, guard, then, otherwise, wants_config = json.load(sys.stdin)
    parts = []  # type: list[tuple[str, bytes]]
    try:
        place, answer = ask(places, first)
        parts.append(("answer", answer))
        if passes(answer, guard):
            parts.append(("answer", ask([place], then)[1]))
        else:
            parts.append(("held", ask([place], otherwise)[1]))
        if wants_config:
            parts.append(configuration(between(parts[-1][1], b"<int>", b"</int>").decode()))
    except (OSError, ValueError) as error:
        parts.append(("failed", failure(error).encode()))
    framed = b"".join(b"%s %d\n%s" % (kind.encode(), len(part), part) for kind, part in parts)
    # Login shells may print something of their own before.
    sys.stdout.buffer.write(MARK + zlib.compress(framed))


def ask(places: "list[str]", request: str) -> "tuple[str, bytes]":
    """The first place that can be connected to, and what it answered, until it hung up."""
    failures = []  # type: list[OSError]
    for place in places:
        try:
            connection = connected(place)
        except OSError as error:
            error.filename = place
            failures.append(error)
            continue
        try:
            connection.sendall(request.encode())
            return place, received(connection)
        except OSError as error:
            error.filename = place
            raise
        finally:
            connection.close()
    # Of several, one that is there and refuses says more than one that is not there.
    raise next((e for e in failures if not isinstance(e, FileNotFoundError)), failures[0])


def received(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def connected(place: str) -> socket.socket:
    scheme, _, where = place.partition("://")
    if scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SOCKET_TIMEOUT)
        try:
            connection.connect(where)
        except OSError:
            connection.close()
            raise
        return connection
    host, _, port = where.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), SOCKET_TIMEOUT)


def failure(error: Exception) -> str:
    """One line: the kind of error, the place, and the system's words."""
    if not isinstance(error, OSError):
        return "ValueError\t\t" + str(error)
    kind = "TimeoutError" if isinstance(error, socket.timeout) else type(error).__name__
    return "\t".join((kind, str(error.filename or ""), error.strerror or str(error)))


def between(text: bytes, before: bytes, after: bytes) -> bytes:
    return text.partition(before)[2].partition(after)[0]


def passes(answer: bytes, guard: "tuple[str, str] | None") -> bool:
    """Whether the process that a getProcessInfo describes is the one that is meant."""
    if guard is None:
        return True
    start, pid, state = (
        between(answer.partition(b"<name>" + name + b"</name>")[2], b"<int>", b"</int>").decode()
        for name in (b"start", b"pid", b"state")
    )
    identity, forbidden = guard
    return bool(state) and state != forbidden and identity in ("", start + ":" + pid)


def configuration(pid: str) -> "tuple[str, bytes]":
    """The lines that tell what XML-RPC does not, if its files can be found and read.

    Nothing else leaves the machine: passwords stand in these files. They count as `changed` if one
    was written after supervisord had started, which may then know other values.
    """
    try:
        paths = config_files(int(pid))
        with open(f"/proc/{pid}/stat") as stat, open("/proc/uptime") as uptime:
            started_ticks = int(stat.read().rpartition(")")[2].split()[19])
            age = float(uptime.read().split()[0]) - started_ticks / os.sysconf("SC_CLK_TCK")
        kept = [wanted_lines(path) for path in paths]
        written = max(os.stat(path).st_mtime for path in paths)
    except (OSError, ValueError) as error:
        return "unread", failure(error).encode()
    kind = "changed" if written > time.time() - age + 0.5 else "config"
    return kind, "\n".join(line for lines in kept for line in lines).encode()


def config_files(pid: int) -> "list[str]":
    """The file supervisord was started with, or finds by itself, and those that it includes."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        argv = [os.fsdecode(word) for word in file.read().split(b"\0")]
    here = os.readlink(f"/proc/{pid}/cwd")
    script = next((word for word in argv if word.endswith("supervisord")), "")
    prefix = os.path.dirname(os.path.dirname(script))
    named = named_file(argv)
    # The order of supervisor.options.Options.
    usual = [os.path.join(prefix, "etc/supervisord.conf"), os.path.join(prefix, "supervisord.conf")]
    usual += ["supervisord.conf", "etc/supervisord.conf"]
    usual += ["/etc/supervisord.conf", "/etc/supervisor/supervisord.conf"]
    found = [os.path.join(here, path) for path in ([named] if named else usual)]
    main_file = next((path for path in found if os.path.exists(path)), found[0])
    return [main_file, *included(main_file)]


def named_file(argv: "list[str]") -> str:
    """What `-c` says, in any of the ways getopt allows."""
    for position, word in enumerate(argv):
        following = "".join(argv[position + 1 : position + 2])
        if word.startswith("--configuration="):
            return word.partition("=")[2]
        if word == "--configuration" or (word[:1] == "-" != word[1:2] and word[-1:] == "c"):
            return following
        if word.startswith("-c"):
            return word[2:]
    return ""


def included(path: str) -> "list[str]":
    patterns = []  # type: list[str]
    section = ""
    for line in wanted_lines(path):
        if line.startswith("["):
            section = line.strip()
        elif section == "[include]":
            value = line if line[:1].isspace() else line.replace(":", "=", 1).partition("=")[2]
            patterns.extend(value.split(";")[0].split())
    folder = os.path.dirname(path)
    found = []  # type: list[str]
    for pattern in patterns:
        full = os.path.join(folder, pattern.replace("%(here)s", folder))
        if "%(" in full:
            raise ValueError("cannot tell what is included by " + pattern)
        found.extend(sorted(glob.glob(full)))
    return found


def wanted_lines(path: str) -> "list[str]":
    """Section headers and the keys in WANTED, with the lines that continue them."""
    lines = []  # type: list[str]
    keeps = False
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line[:1].isspace():
                key = line.partition("=")[0].partition(":")[0].strip().lower()
                keeps = line.startswith("[") or key in WANTED
            if keeps:
                lines.append(line.rstrip("\n"))
    return lines


if __name__ == "__main__":
    main()
