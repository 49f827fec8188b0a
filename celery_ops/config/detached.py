"""A Celery node that runs in the background by itself: what its start command tells of it.

`celery multi` and `celery worker --detach` have no supervisor: there is a pidfile, a log, and the
command that made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIDFILE, _LOGFILE = "/var/run/celery/%n.pid", "/var/log/celery/%n%I.log"
"""celery.apps.multi: where a node's are if nothing else is said."""


@dataclass(frozen=True, slots=True)
class DetachedNode:
    """One node: where its pid is written, the argv that starts it, and its log, where known."""

    pidfile: str
    start: tuple[str, ...]
    log: str | None = None


def detached(name: str, start: Sequence[str], pidfile: str | None, log: str | None) -> DetachedNode:
    """The node of that name; what is not given is read from `start`, as Celery reads it.

    Raise ValueError, with what to write, where its pidfile cannot be told, or if `start` is for
    other nodes too.
    """
    short = name.partition("@")[0]
    nodes = multi_nodes(start)
    if nodes is not None and [one.partition("@")[0] for one in nodes] != [short]:
        raise ValueError(f"start must start {short} and no other node: celery multi start {short}")
    usual = (None, None) if nodes is None else (_PIDFILE, _LOGFILE)
    pidfile = pidfile or _path(_option(start, "--pidfile", "-p") or usual[0], short)
    if pidfile is None:
        raise ValueError("start does not tell where its pidfile is: write pidfile")
    if not pidfile.startswith("/"):
        raise ValueError(f"the pidfile {pidfile} needs a path from the root")
    log = log or _path(_option(start, "--logfile", "-f") or usual[1], short)
    return DetachedNode(pidfile, tuple(start), log if log and log.startswith("/") else None)


def multi_nodes(start: Sequence[str]) -> list[str] | None:
    """The nodes of `celery multi start`; None if it is another command.

    As Celery counts them (measured on 5.7): `--queues common` makes a node called `common`, only
    `--queues=common` does not; a short option takes the next word.
    """
    words = list(start)
    if "multi" not in words or "start" not in words[words.index("multi") :]:
        return None
    nodes, is_value = [], False
    for word in words[words.index("start", words.index("multi")) + 1 :]:
        if word == "--":
            break
        if not word.startswith("-") and not is_value:
            nodes.append(word)
        is_value = word.startswith("-") and not word.startswith("--")
    return nodes


def _option(words: Sequence[str], long: str, short: str) -> str | None:
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word == short:
            return following
        if word.startswith(f"{long}="):
            return word.partition("=")[2]
    return None


def _path(pattern: str | None, short: str) -> str | None:
    """With the node's name in it; None where more than that would have to be known."""
    if pattern is None:
        return None
    # The main process of a worker has no index: %i is 0, %I is nothing.
    for sign, value in (("%n", short), ("%N", short), ("%I", ""), ("%i", "0")):
        pattern = pattern.replace(sign, value)
    return None if "%" in pattern or "$" in pattern else pattern
