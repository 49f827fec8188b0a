"""Reads command lines: which of them run Celery, as what, and under which node name.

A command line is what somebody typed, or the title a process gave itself (setproctitle). Names are
made of it as Celery makes them (celery.utils.nodenames).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.detached import multi_nodes
from celery_ops.model import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

_TITLE = re.compile(r"\[celeryd: (?P<node>.+):(?P<process>[^:\]]+)\]")
_BEAT_TITLE = re.compile(r"\[celery beat\]|\[celery\] beat\b")
_PYTHON = re.compile(r"python[0-9.]*|pypy[0-9.]*")
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh"}
_VALUED = {
    *("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"),
}
"""Options of `celery` itself that take the next word (celery.bin.celery)."""
_SUBCOMMANDS = {"worker": Role.WORKER, "beat": Role.BEAT}
_SCHEDULER = ("-S", "--scheduler")
_DEFAULT_NAME = "celery"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command line runs.

    `node` is None where it does not tell, as with a variable in it. `is_child`: a process of a
    worker's pool, by its title. `has_beat`: a worker that is a scheduler too (`-B`). `app` is its
    `-A` and `scheduler` its `-S`, as written.
    """

    role: Role
    node: str | None = None
    is_child: bool = False
    has_beat: bool = False
    app: str | None = None
    scheduler: str | None = None


def read(arguments: Sequence[str], hostname: str | None) -> Invocation | None:
    """What these arguments run on a machine of that name; None if it is no worker and no beat.

    Without a hostname (a container has one of its own) names that are made of it are not told.
    """
    title = " ".join(arguments).strip()
    named = _TITLE.match(title)
    if named is not None:
        is_child = named["process"] != "MainProcess"
        return Invocation(Role.WORKER, named["node"], is_child, _has_beat(title.split()))
    if _BEAT_TITLE.match(title):
        return Invocation(Role.BEAT, scheduler=_option(title.split(), *_SCHEDULER))
    words = _after_celery(_unwrapped(arguments))
    position = _subcommand(words)
    if position is None:
        return None
    role, options = _SUBCOMMANDS[words[position]], words[position + 1 :]
    app = _option(words, "-A", "--app")
    if role is Role.BEAT:
        return Invocation(role, app=app, scheduler=_option(options, *_SCHEDULER) or None)
    name = node_name(_option(options, "-n", "--hostname"), hostname)
    scheduler = _option(options, _SCHEDULER[1], _SCHEDULER[1]) or None  # its -S is --statedb
    return Invocation(role, name, has_beat=_has_beat(options), app=app, scheduler=scheduler)


def of_unit(arguments: Sequence[str], hostname: str | None) -> Invocation | None:
    """What a unit's start command runs: as `read`, or the one node that `celery multi` starts."""
    words = _after_celery(_unwrapped(arguments))
    nodes = multi_nodes(words)
    if nodes is None:
        return read(arguments, hostname)
    if len(nodes) != 1 or "$" in nodes[0] or nodes[0].isdecimal():
        return None
    name = nodes[0] if "@" in nodes[0] else f"{nodes[0]}@%h"
    return Invocation(Role.WORKER, node_name(name, hostname), app=_option(words, "-A", "--app"))


def detached_start(arguments: Sequence[str], folder: str) -> tuple[str, ...]:
    """What starts such a process again in the background; empty where its command line does not
    tell, or it writes no pidfile by which it could be found.

    As `celery multi` starts its nodes, which it leaves no trace of in their command lines. `folder`
    is where it works, if that is known.
    """
    words = list(arguments)
    after = _after_celery(words)
    position = _subcommand(after)
    pidfile = _option(after, "--pidfile", "--pidfile")
    is_told = pidfile is not None and re.fullmatch(r"/[^%$]*", pidfile) is not None
    if position is None or not is_told:
        return ()
    celery = words[: len(words) - len(after)]
    has_folder = not folder or any(word.startswith("--workdir") for word in after)
    options = [word for word in after if not word.startswith("--executable=")]
    if not {"--detach", "-D"} & set(options):
        options.insert(position + 1, "--detach")
    return (*celery, *(() if has_folder else (f"--workdir={folder}",)), *options)


def node_name(given: str | None, hostname: str | None) -> str | None:
    """The node name that `-n` makes on a machine; None where the shell or systemd would fill in.

    `-n foo` is celery@foo, as Celery reads it.
    """
    if "$" in (given or ""):
        return None
    before, at, after = (given or "").partition("@")
    name, host = (before, after) if at else ("", before)
    if hostname is None and (not host or re.search("%[hnd]", given or "")):
        return None
    hostname = hostname or ""
    whole = f"{name or _DEFAULT_NAME}@{host or hostname}"
    first, _, domain = hostname.partition(".")
    # The main process has no index: %i is 0, %I nothing.
    values = {"h": hostname, "n": first, "d": domain, "i": "0", "I": "", "%": "%"}
    return re.sub(r"%(.)", lambda match: values.get(match[1], match[0]), whole)


def _unwrapped(arguments: Sequence[str]) -> list[str]:
    """The words of `sh -c "exec celery …"`, as far as they can be told apart."""
    words = list(arguments)
    if len(words) > 2 and _base(words[0]) in SHELLS and re.fullmatch(r"-\w*c", words[1]):
        try:
            words = shlex.split(words[2])
        except ValueError:
            return []
        while words and (words[0] == "exec" or re.match(r"\w+=", words[0])):
            words = words[1:]
    return words


def _after_celery(words: list[str]) -> list[str]:
    """What follows `celery`, `python …/celery` or `python -m celery`; nothing if it is not that."""
    if not words:
        return []
    if _base(words[0]) == "celery":
        return words[1:]
    if not _PYTHON.fullmatch(_base(words[0])):
        return []
    for position, word in enumerate(words[1:], 1):
        if word == "-m":
            is_celery = words[position + 1 : position + 2] in (["celery"], ["celery.bin.celery"])
            return words[position + 2 :] if is_celery else []
        if not word.startswith("-"):
            return words[position + 1 :] if _base(word) == "celery" else []
    return []


def _subcommand(words: list[str]) -> int | None:
    """Where `worker` or `beat` stands, behind Celery's own options."""
    position = 0
    while position < len(words):
        word = words[position]
        if word in _VALUED:
            position += 2
        elif word.startswith("-"):
            position += 1
        else:
            return position if word in _SUBCOMMANDS else None
    return None


def _option(words: Sequence[str], short: str, long: str) -> str | None:
    for position, word in enumerate(words):
        if word in (short, long):
            return "".join(words[position + 1 : position + 2])
        if word.startswith(f"{long}="):
            return word.partition("=")[2]
        if word.startswith(short) and not word.startswith("--"):
            return word[len(short) :].removeprefix("=")
    return None


def _has_beat(words: Sequence[str]) -> bool:
    return "-B" in words or "--beat" in words


def _base(word: str) -> str:
    return word.rpartition("/")[2]
