"""Queues, and the messages of theirs that somebody holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Flow:
    """How messages came to a queue and left it lately. Rates are in messages a second.

    `growth` is that of all its messages together, held ones too. `completions` left it for good:
    worked off or discarded, moved away or purged. What cannot be told is None, and `why` says the
    reason; with `at_least` it says why there may have been more completions, and so arrivals.
    """

    span: float
    """Seconds it was watched for."""
    growth: float | None = None
    completions: float | None = None
    arrivals: float | None = None
    at_least: bool = False
    why: str = ""


UNWATCHED = Flow(0.0, why="one look cannot tell: it takes some seconds of watching")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What waits for a queue outside of its list. None: not known.

    `eta` are tasks that workers hold until their time, `limited` those that a rate limit seems to
    hold back: both are among the unacked. `delayed` wait in the broker's queues for delayed
    delivery, for this queue or for others.
    """

    eta: int | None = None
    next_eta: datetime | None = None
    limited: int | None = None
    delayed: int | None = None


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
    flow: Flow = UNWATCHED
    waits_since: datetime | None = None
    """When a message that waits was first seen waiting: the oldest waits that long at least."""
    bytes: int | None = None
    """Memory that the ready messages take, about: the broker extrapolates from some of them."""
    paused: bool = False
    """A run has taken it from workers that live: they are to consume it again later."""
    held: tuple[str, ...] = ()
    """Names of tasks that are held: all that comes into it goes through a run, but for these."""

    @property
    def drains_in(self) -> float | None:
        """Seconds until it is empty, if it goes on as now; None: it does not shrink, or unknown."""
        if self.ready is None or self.unacked is None:
            return None
        if self.ready + self.unacked == 0:
            return 0.0
        growth = self.flow.growth
        if growth is None or growth >= 0:
            return None
        return (self.ready + self.unacked) / -growth


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
