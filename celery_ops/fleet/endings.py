"""Tasks that have ended, as a result backend keeps them, and whatever would make them run twice if
they were sent again: a worker or a queue that still has one, or an earlier time it was sent. Reads
only.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import ResultsUnreachable
from celery_ops.fleet.tracing import Sightings, ask_revoked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from celery_ops.fleet.tracing import Tracer
    from celery_ops.model import FleetSnapshot, StoredResult
    from celery_ops.ports import Broker, Clock, Results

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
    notes: tuple[str, ...] = ()
    """What could not be looked at."""
    unread: str = ""
    """Why nothing could be, or nothing be done about it."""


async def look(
    tracer: Tracer,
    broker: Broker,
    results: Results,
    clock: Clock,
    snapshot: FleetSnapshot,
    *,
    wanted: Callable[[str, StoredResult], bool | None],
    named: Callable[[str, StoredResult], str],
    ids: Collection[str],
    most: int,
) -> Endings:
    """All that are `wanted`; None: it is not known whether they are. With `ids` only these are
    read; the look ends when there are more than `most`.

    `named` is the name under which a task is sent again. Raise BrokerUnreachable.
    """
    found: dict[str, StoredResult] = {}
    unknown: set[str] = set()
    notes: list[str] = []

    def add(portion: Mapping[str, StoredResult]) -> None:
        for id_, stored in portion.items():
            verdict = wanted(id_, stored)
            if verdict is None:
                unknown.add(id_)
            elif verdict:
                found[id_] = replace(stored, call=None, traceback="")

    until = clock.monotonic() + SCANNED_FOR
    try:
        if ids:
            add(await results.stored_of(sorted(ids)))
        else:
            async with aclosing(results.all_stored()) as portions:
                async for portion in portions:
                    add(portion)
                    if len(found) > most:
                        break
                    if clock.monotonic() > until:
                        notes.append(
                            "not all results were looked at: after"
                            f" {as_duration(SCANNED_FOR)} some were left, in no order"
                        )
                        break
    except ResultsUnreachable as error:
        notes.append(error.says)
    if not found or len(found) > most:
        return Endings(found, undecided=len(unknown - found.keys()), notes=tuple(notes))
    few = found.keys() if len(found) <= _FEW else ()
    seen = await tracer.look(snapshot, lambda one: one.id in found, ids=few, most=most)
    answering = [worker.name for worker in snapshot.workers if worker.answers]
    notes += [f"{worker.name} does not answer: what it holds is not known"
              for worker in snapshot.workers if not worker.answers]  # fmt: skip
    notes += [f"{name} is bound on the broker and does not answer"
              for name in snapshot.bound_but_silent]  # fmt: skip
    told = await ask_revoked(broker, answering, clock)
    store = broker.store
    names = [named(id_, stored) for id_, stored in found.items()]
    return Endings(
        found,
        seen,
        {name: revoked & found.keys() for name, revoked in told.by_worker.items()},
        frozenset() if store is None else await store.sent(names),
        len(unknown - found.keys()),
        (*notes, *seen.notes),
    )
