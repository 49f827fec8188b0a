"""The line that runs a command on a host, and the frame its output comes in. Pure.

sshd hands the line to the login shell, which may print what it likes before (`.bashrc`). A small
script for the POSIX shell is put in front of the command: it prints a random mark, with it the
number of its process group, and then becomes the command. sshd makes a session for each command,
so that the command leads a process group of its own.
"""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE = 120_000
"""Bytes; Linux takes 131,072 for one argument (MAX_ARG_STRLEN)."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_BANNER = 65_536
"""Bytes of what comes before the mark that are kept, for error messages."""

# `group` is 0 where the command does not lead its group, which then is not ours to signal.
# `read` takes one line and not a byte more: the rest of stdin is the command's.
# It ends if the mark cannot be written: nobody is there any more who wants the command.
_SCRIPT = """\
mark=$1 lines=$2 code=; shift 2
read -r _ _ _ _ group _ </proc/$$/stat || group=0
[ "$group" = $$ ] || group=0
while [ "$lines" -gt 0 ]; do IFS= read -r line || exit 126; code="$code$line
"; lines=$((lines - 1)); done
eval "$code"
unset code line lines
printf '\\n%s %s\\n' "$mark" "$group" || exit 126
printf '\\n%s %s\\n' "$mark" "$group" >&2 || exit 126
unset mark group
exec "$@"
"""

# Politely first; all of it in the host's own time, so that a slow line does not make it rude.
# A group that may not be signalled (sudo's) looks gone to `kill`, but its leader is still to be
# seen. This way of writing `kill` is the one that dash and bash both understand.
_END = """\
is_there() { kill -s 0 -- "-$group" 2>/dev/null || [ -d "/proc/$group" ]; }
end() {
    kill -s "$1" -- "-$group" 2>/dev/null
    left=$2
    while is_there && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
}
group=$1
end TERM "$2"
is_there && end KILL 20
! is_there
"""


@dataclass(frozen=True, slots=True)
class Remote:
    """`line` for the login shell, `stdin` to send, and the `mark` that its output begins with."""

    line: bytes
    stdin: bytes
    mark: bytes


def remote(command: Command) -> Remote:
    """How to run a command. The environment goes through stdin: an argv can be read by everybody.

    Raise CommandFailed if it cannot be written as one.
    """
    if not command.argv:
        raise CommandFailed("An empty command cannot be run.")
    words = (*command.argv, *(text for pair in command.env for text in pair))
    if any("\0" in word for word in words):
        raise CommandFailed(f"{command} cannot be run: there is a null character in it.")
    if command.argv[0].startswith("-"):
        raise CommandFailed(f"{command} cannot be run: no program's name begins with a dash.")
    if wrong := [name for name, _ in command.env if not _NAME.fullmatch(name)]:
        raise CommandFailed(f"{command} cannot be run: {wrong[0]!r} is no variable's name.")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in command.env)
    mark = secrets.token_hex(16)
    script = ("exec", "sh", "-c", _SCRIPT, "sh", mark, str(exports.count("\n")), *command.argv)
    line = _encoded(shlex.join(script))
    if len(line) > MAX_LINE:
        raise CommandFailed(f"{str(command)[:80]}… is too long to be run over SSH.")
    return Remote(line, _encoded(exports) + command.stdin, mark.encode())


def ending(group: int, grace: float) -> Command:
    """Ends a process group, politely for `grace` seconds; exits 0 once it is gone."""
    return Command(("sh", "-c", _END, "sh", str(group), str(round(grace * 10))))


class Output:
    """One stream of a command: what comes after the mark, up to a bound."""

    def __init__(self, mark: bytes, bound: int) -> None:
        self.before = bytearray()
        self.kept = bytearray()
        self.truncated = False
        self.group: int | None = None
        """The command's process group once the mark came, 0 if it has none of its own."""
        self._mark = b"\n" + mark + b" "
        self._bound = bound

    @property
    def begun(self) -> bool:
        return self.group is not None

    def feed(self, data: bytes) -> None:
        if self.begun:
            self._take(data)
            return
        self.before += data
        banner, _, rest = self.before.partition(self._mark)
        group, newline, said = rest.partition(b"\n")
        if not newline or not group.isdigit() or len(group) > 10:
            del self.before[:-_MAX_BANNER]
            return
        self.before, self.group = banner, int(group)
        self.feed(bytes(said))

    def _take(self, data: bytes) -> None:
        room = self._bound - len(self.kept)
        self.kept += data[:room]
        self.truncated = self.truncated or len(data) > room


class Passed(Output):
    """A stream that is handed on as it comes."""

    def __init__(self, mark: bytes, hand_on: Callable[[bytes], None]) -> None:
        super().__init__(mark, 0)
        self._hand_on = hand_on

    def _take(self, data: bytes) -> None:
        if data:
            self._hand_on(data)


class LastWords(Output):
    """The end of a stream."""

    def _take(self, data: bytes) -> None:
        self.kept += data
        del self.kept[: -self._bound]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
