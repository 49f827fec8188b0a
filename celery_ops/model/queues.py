"""Queues, and the messages of theirs that somebody holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue with all its priority steps.

    `ready` waits in the broker, `unacked` is held by workers; `consumers` is how many the broker
    counts or, where it does not, the workers that consume it; None while a known worker has not
    said what it consumes.
    """

    name: str
    ready: int | None
    unacked: int | None
    consumers: int | None
    oldest: datetime | None = None
    by_priority: tuple[tuple[int, int], ...] = ()
    """(priority step, ready), lowest step first; empty where there are no steps."""
    seen_at: datetime | None = None
    orphans: int | None = None
    """How many of `unacked` are proved to be held by nobody."""


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """An unacknowledged message. `tag` and `since` name one delivery; the tag stays at the next."""

    tag: str
    task_id: str | None
    task: str | None
    queue: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Unproven:
    """Messages that no worker shows, and that somebody may hold nevertheless: `why` says who.

    `vouch_for` are the nodes of which an operator would have to know that they are gone; empty
    where nobody's word can stand for a proof. `settles`: looking again will tell, so it is no
    finding yet. `expected`: it is usual, as with a rate limit.
    """

    queue: str | None
    messages: tuple[HeldMessage, ...]
    why: str
    vouch_for: tuple[str, ...] = ()
    settles: bool = False
    expected: bool = False
