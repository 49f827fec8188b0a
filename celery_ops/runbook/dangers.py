"""Commands that are known to take workers away, told by their argv.

A `run` of one of these must say `takes: worker`, so that it is guarded like our own verbs. This is
a net for mistakes, not a wall: whoever wants to hide a command from it can.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_STOPPING: Mapping[str, frozenset[str]] = {
    "systemctl": frozenset(
        {"stop", "restart", "try-restart", "reload-or-restart", "kill", "--now"}
    ),
    "service": frozenset({"stop", "restart"}),
    "supervisorctl": frozenset({"stop", "restart", "signal", "shutdown", "reload"}),
    "docker": frozenset({"stop", "restart", "kill", "rm", "down"}),
    "docker-compose": frozenset({"stop", "restart", "kill", "rm", "down"}),
    "podman": frozenset({"stop", "restart", "kill", "rm", "down"}),
    "kubectl": frozenset({"delete", "scale", "restart", "drain"}),
}
_ENDING = frozenset({"kill", "killall", "pkill", "shutdown", "reboot", "poweroff", "halt"})
_CELERY: Mapping[str, frozenset[str]] = {
    "control": frozenset(
        {"shutdown", "cancel_consumer", "pool_restart", "pool_shrink", "autoscale"}
    ),
    "multi": frozenset({"stop", "stopwait", "restart", "kill"}),
}
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
_WRAPPERS: Mapping[str, frozenset[str]] = {
    "sudo": frozenset({"-u", "-g", "-h", "-p", "-C", "-D", "-R", "-T"}),
    "doas": frozenset({"-u", "-C"}),
    "env": frozenset({"-u", "-C"}),
    "nice": frozenset({"-n"}),
    "ionice": frozenset({"-c", "-n"}),
    "timeout": frozenset({"-k", "-s"}),
    "xargs": frozenset({"-a", "-d", "-I", "-L", "-n", "-P", "-s"}),
    **dict.fromkeys(("nohup", "setsid", "exec"), frozenset[str]()),
}
"""Programs that run another one, with those of their options that are followed by a value."""

_BETWEEN_COMMANDS = re.compile(r"[;&|()<>\n]+")
_NOT_A_PROGRAM = re.compile(r"-.*|[A-Za-z_][A-Za-z0-9_]*=.*|[0-9]+[smhd]?", re.DOTALL)


def control_danger(method: str) -> bool:
    """Whether a control command is known to take capacity away from whom it is sent to."""
    return method in _CELERY["control"]


def danger(argv: Sequence[str]) -> str | None:
    """Which part of an argv takes workers away (`systemctl restart`), or None.

    Looks through `sudo`, `env`, `timeout` … and into the lines given to `sh -c`.
    """
    return next((found for one in _commands(argv) if (found := _danger_of(one))), None)


def _commands(argv: Sequence[str]) -> Iterator[Sequence[str]]:
    """The command an argv comes down to, and those in a shell's line."""
    argv = _unwrapped(argv)
    if not argv:
        return
    yield argv
    if _base(argv[0]) in _SHELLS:
        for line in argv[1:]:
            for part in _BETWEEN_COMMANDS.split(line):
                yield from _commands(_words(part))


def _unwrapped(argv: Sequence[str]) -> Sequence[str]:
    while argv and (valued := _WRAPPERS.get(_base(argv[0]))) is not None:
        argv = argv[1:]
        while argv and _NOT_A_PROGRAM.fullmatch(argv[0]):
            argv = argv[2 if argv[0] in valued else 1 :]
    return argv


def _danger_of(argv: Sequence[str]) -> str | None:
    program, arguments = _base(argv[0]), argv[1:]
    if program in _ENDING:
        return program
    if program.startswith("python") and "celery" in arguments:
        program, arguments = "celery", arguments[arguments.index("celery") + 1 :]
    if program == "celery":
        for group, methods in _CELERY.items():
            if group in arguments:
                following = arguments[arguments.index(group) + 1 :]
                return next((f"celery {group} {one}" for one in following if one in methods), None)
    stopping = _STOPPING.get(program, frozenset())
    return next((f"{program} {one}" for one in arguments if one in stopping), None)


def _base(program: str) -> str:
    return program.rpartition("/")[2]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()  # a quote that was cut off by splitting the line
