"""Tasks that have ended, as a result backend keeps them, and whatever would make them run twice if
they were sent again: a worker or a queue that still has one, or an earlier time it was sent. Reads
only.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import ResultsUnreachable
from celery_ops.fleet.tracing import Sightings, ask_revoked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from celery_ops.fleet.tracing import Tracer
    from celery_ops.model import FleetSnapshot, StoredResult
    from celery_ops.ports import Broker, Clock, Results

_NEVER = datetime.max.replace(tzinfo=UTC)
SCANNED_FOR = 60.0
"""Seconds for which the whole of a result backend is looked through."""
_FEW = 50
"""So many ids are searched for in queues one by one; for more, all that waits is read."""


@dataclass(frozen=True, slots=True)
class Endings:
    """What was found of tasks that are meant, by their ids. What they were called with is left out
    of `results`, but for `uncalled`.

    `seen` is where some of them are now, `revoked` which are revoked in which workers, `sent` under
    which names they were sent again before. Of `undecided` it is not known whether they are meant.
    """

    results: Mapping[str, StoredResult] = field(default_factory=dict)
    seen: Sightings = field(default_factory=Sightings)
    revoked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sent: frozenset[str] = frozenset()
    undecided: int = 0
    beyond: int = 0
    """So many that ended later were left out, since there are more than can be done at once."""
    notes: tuple[str, ...] = ()
    """What could not be looked at."""
    unread: str = ""
    """Why nothing could be, or nothing be done about it."""


@dataclass(frozen=True, slots=True)
class Meant:
    """Which tasks are looked for. `judge` tells whether one is; None: it is not known. Those with
    `ids` alone are read where there are some.

    `name` is the name under which a task is sent again. Where there are more than `most`, those
    that ended `first` are taken; or the look ends.
    """

    judge: Callable[[str, StoredResult], bool | None]
    name: Callable[[str, StoredResult], str]
    ids: Collection[str]
    most: int
    first: bool


async def look(
    tracer: Tracer,
    broker: Broker,
    results: Results,
    clock: Clock,
    snapshot: FleetSnapshot,
    meant: Meant,
) -> Endings:
    """All that are meant, and where they are now. Raise BrokerUnreachable."""
    gathered = _Gathered(meant)
    notes = await _gather(gathered, results, clock)
    found, undecided = gathered.found, len(gathered.unknown - gathered.found.keys())
    if not found or gathered.too_many:
        return Endings(found, undecided=undecided, notes=tuple(notes))
    few = found.keys() if len(found) <= _FEW else ()
    seen = await tracer.look(snapshot, lambda one: one.id in found, ids=few, most=meant.most)
    answering = [worker.name for worker in snapshot.workers if worker.answers]
    notes += [f"{worker.name} does not answer: what it holds is not known"
              for worker in snapshot.workers if not worker.answers]  # fmt: skip
    notes += [f"{name} is bound on the broker and does not answer"
              for name in snapshot.bound_but_silent]  # fmt: skip
    told = await ask_revoked(broker, answering, clock)
    store = broker.store
    names = [meant.name(id_, stored) for id_, stored in found.items()]
    return Endings(
        found,
        seen,
        {name: revoked & found.keys() for name, revoked in told.by_worker.items()},
        frozenset() if store is None else await store.sent(names),
        undecided,
        gathered.beyond,
        (*notes, *seen.notes),
    )


class _Gathered:
    """What of a result backend is meant, portion by portion."""

    def __init__(self, meant: Meant) -> None:
        self.meant = meant
        self.found: dict[str, StoredResult] = {}
        self.unknown: set[str] = set()
        self.beyond = 0

    @property
    def too_many(self) -> bool:
        return len(self.found) > self.meant.most

    def add(self, portion: Mapping[str, StoredResult]) -> None:
        for id_, stored in portion.items():
            verdict = self.meant.judge(id_, stored)
            if verdict is None:
                self.unknown.add(id_)
            elif verdict:
                self.found[id_] = replace(stored, call=None, traceback="")
        if self.meant.first and len(self.found) > 2 * self.meant.most:
            self.keep_first()

    def keep_first(self) -> None:
        """Those alone that ended first, where no more are wanted."""
        if self.meant.first and self.too_many:
            in_order = sorted(self.found.items(), key=lambda one: one[1].ended_at or _NEVER)
            self.beyond += len(in_order) - self.meant.most
            self.found = dict(in_order[: self.meant.most])


async def _gather(gathered: _Gathered, results: Results, clock: Clock) -> list[str]:
    """Read what is stored; what could not be looked at."""
    until, meant = clock.monotonic() + SCANNED_FOR, gathered.meant
    try:
        if meant.ids:
            gathered.add(await results.stored_of(sorted(meant.ids)))
            return []
        async with aclosing(results.all_stored()) as portions:
            async for portion in portions:
                gathered.add(portion)
                if gathered.too_many and not meant.first:
                    return []
                if clock.monotonic() > until:
                    after = as_duration(SCANNED_FOR)
                    return [f"not all results were looked at: after {after} some were left"]
    except ResultsUnreachable as error:
        return [error.says]
    finally:
        gathered.keep_first()
    return []
