"""Where tasks are: in which queue and behind how many, held by whom, revoked where. Reads only.

Workers tell what they hold, the broker what waits and what is not acknowledged, the result backend
what has ended. None of them tells all of it, so what was not looked into is said beside what was
found.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.errors import PreconditionFailed, ResultsUnreachable
from celery_ops.fleet.contents import contents
from celery_ops.model import Reading, SeenTask, Targets, TaskPlace
from celery_ops.ports import MessageSearch, Question

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from celery_ops.fleet.masking import Masks
    from celery_ops.fleet.survey import Surveyor
    from celery_ops.model import (
        FleetSnapshot,
        Service,
        StoredMessage,
        StoredResult,
        Task,
        Worker,
    )
    from celery_ops.ports import Broker, Clock, Reply, Results, Unacked

MOST_READ = 1_000_000
"""Waiting messages that one look goes through, of all queues together."""
REPLY_TIMEOUT = 3.0
_AT_ONCE = 20
"""Messages that are surely read in one step, so that none can be taken in between."""
_STATE_FILE = "--statedb"


@dataclass(frozen=True, slots=True)
class Sightings:
    """What was seen of some tasks at one look.

    `notes` say what was not looked into: what is not among `tasks` may be there. `results` are of
    those ids that something is stored of. `keeps_revokes` says whether what is revoked in a worker
    outlives it; those that do not tell are missing. The messages of `marked` queues were marked as
    redelivered by the look.
    """

    tasks: tuple[SeenTask, ...] = ()
    notes: tuple[str, ...] = ()
    results: Mapping[str, Reading[StoredResult]] = field(default_factory=dict)
    keeps_revokes: Mapping[str, bool] = field(default_factory=dict)
    marked: tuple[str, ...] = ()

    def of(self, task: str) -> tuple[SeenTask, ...]:
        """Where the task with that id was seen."""
        return tuple(one for one in self.tasks if one.id == task)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What workers said is revoked in each of them; who did not say it is missing."""

    at: datetime
    by_worker: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is known of these tasks; `workers` are those that were asked what is revoked."""

    ids: tuple[str, ...]
    at: datetime
    seen: Sightings
    revoked: Revoked
    workers: tuple[str, ...]
    reads_results: bool
    notes: tuple[str, ...]
    """What could not be looked at."""


class Tracer:
    """Looks for tasks in one context; `results` is None where no result backend is read.

    Arguments are kept only with `masks`, and only masked.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        *,
        results: Results | None,
        masks: Masks | None = None,
        most_read: int = MOST_READ,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._results = results
        self._masks = masks
        self._most_read = most_read

    @property
    def reads_results(self) -> bool:
        return self._results is not None

    async def look(
        self,
        snapshot: FleetSnapshot,
        wanted: Callable[[SeenTask], bool],
        *,
        ids: Collection[str] = (),
        most: int,
    ) -> Sightings:
        """All tasks that are `wanted`; the look ends when there are more than `most`.

        Where `ids` are given nothing else may be wanted: the look ends when each of them was found,
        and what is stored of them is read. Raise BrokerUnreachable.
        """
        notes: list[str] = []
        marked: list[str] = []
        found = [one for one in in_workers(snapshot, self._masks) if wanted(one)]
        held = await self._held({one.id for one in found}, notes)
        found += [one for one in held if wanted(one)]
        missing = set(ids) - {one.id for one in found}
        if missing or not ids:
            async with aclosing(self._waiting(snapshot, ids, notes, marked)) as waiting:
                async for one in waiting:
                    if wanted(one):
                        found.append(one)
                        missing.discard(one.id)
                    if len(found) > most or (ids and not missing):
                        break
        results = await self._stored(ids, notes)
        return Sightings(tuple(found), tuple(notes), results, marked=tuple(marked))

    async def trace(self, surveyor: Surveyor, ids: Sequence[str]) -> Trace:
        """All that is known of these tasks. Raise BrokerUnreachable.

        A task that is taken from its queue while it is looked for would be seen in neither: those
        that were not seen are looked for once more among what workers hold.
        """
        snapshot = await surveyor.refresh()
        wanted = frozenset(ids)
        seen = await self.look(
            snapshot, lambda one: one.id in wanted, ids=ids, most=self._most_read
        )
        missing = wanted - {one.id for one in seen.tasks}
        if missing:
            snapshot = await surveyor.refresh()
            seen_now = in_workers(snapshot, self._masks)
            late = tuple(one for one in seen_now if one.id in missing)
            seen = replace(seen, tasks=(*seen.tasks, *late))
        names = tuple(worker.name for worker in snapshot.workers if worker.mine)
        asked = tuple(worker.name for worker in snapshot.workers if worker.mine and worker.answers)
        revoked = await ask_revoked(self._broker, asked, self._clock)
        silent = [worker.name for worker in snapshot.workers if not worker.answers]
        notes = [f"{name} does not answer: what it holds is not known" for name in silent]
        notes += [f"{name} is bound on the broker and does not answer"
                  for name in snapshot.bound_but_silent]  # fmt: skip
        return Trace(
            ids=tuple(ids),
            at=self._clock.now(),
            seen=seen,
            revoked=revoked,
            workers=names,
            reads_results=self.reads_results,
            notes=(*seen.notes, *notes),
        )

    async def keeps_revokes(self, snapshot: FleetSnapshot) -> dict[str, bool]:
        """Of which workers it is known whether what is revoked in them is written into a file.

        A command line tells it for sure; a worker's settings only where they name a file.
        """
        workers = [worker for worker in snapshot.workers if worker.answers and worker.mine]
        told = {one.name: kept for one in workers if (kept := _has_state_file(one)) is not None}
        asked = tuple(one.name for one in workers if not told.get(one.name))
        if not asked:
            return told
        round_ = await self._broker.ask(
            (Question.CONF,), to=Targets(asked), timeout=REPLY_TIMEOUT, known=asked
        )
        for reply in round_.replies[Question.CONF]:
            if isinstance(reply.value, dict) and reply.value.get("worker_state_db"):
                told[reply.node] = True
        return told

    async def _held(self, shown: Collection[str], notes: list[str]) -> list[SeenTask]:
        """Unacknowledged messages that no worker shows."""
        reading = await self._broker.queues(())
        if reading.unacked is None:
            notes.append("which messages are held and not acknowledged cannot be told now")
            return []
        return [
            _held(one, one.task_id, reading.at)
            for one in reading.unacked
            if one.task_id is not None and one.task_id not in shown
        ]

    async def _waiting(
        self,
        snapshot: FleetSnapshot,
        ids: Collection[str],
        notes: list[str],
        marked: list[str],
    ) -> AsyncGenerator[SeenTask, None]:
        """The messages of every queue that is known, the next to be served first; at least those
        with these `ids`, where some are given.
        """
        left = self._most_read
        for queue in snapshot.queues:
            if queue.ready == 0:
                continue
            if left <= 0:
                notes.append(
                    f"only {self._most_read:,} waiting messages were looked at: what waits in"
                    f" {queue.name} and in queues after it is not known"
                )
                return
            passed = 0
            try:
                async with aclosing(self._messages_of(queue.name, ids)) as messages:
                    async for ahead, message in messages:
                        if not passed and self._broker.messages.marks:
                            marked.append(queue.name)
                        passed = ahead + 1
                        if passed > left:
                            break
                        if message.id is not None:
                            yield self._seen(message, message.id, queue.name, ahead)
            except PreconditionFailed as error:
                notes.append(f"what waits in {queue.name} is not known: {error.says}")
                continue
            ready = max(passed, queue.ready or 0)
            if ready > left:
                notes.append(f"of {queue.name} only the next {left:,} messages were looked at")
            if ready > _AT_ONCE and snapshot.consumers_of(queue.name):
                notes.append(
                    f"{queue.name} was consumed while it was looked through: a message of it may"
                    " have been passed over"
                )
            left -= ready
        notes += snapshot.notes

    async def _messages_of(
        self, queue: str, ids: Collection[str]
    ) -> AsyncGenerator[tuple[int, StoredMessage], None]:
        """Messages of a queue, each with how many are served before it."""
        store = self._broker.messages
        if ids and isinstance(store, MessageSearch):
            async with aclosing(store.search(queue, ids)) as found:
                async for ahead, message in found:
                    yield ahead, message
            return
        ahead = 0
        async with aclosing(store.read(queue)) as portions:
            async for portion in portions:
                for message in portion:
                    yield ahead, message
                    ahead += 1

    def _seen(self, message: StoredMessage, task: str, queue: str, ahead: int) -> SeenTask:
        return SeenTask(
            task,
            message.task,
            TaskPlace.WAITING,
            self._clock.now(),
            queue=queue,
            eta=message.eta,
            ahead=ahead,
            retries=message.retries,
            origin=message.origin,
            priority=message.priority,
            redelivered=message.redelivered,
            sent_at=message.sent_at,
            arguments=None if self._masks is None else str(contents(message, self._masks)),
        )

    async def _stored(
        self, ids: Collection[str], notes: list[str]
    ) -> dict[str, Reading[StoredResult]]:
        found: dict[str, Reading[StoredResult]] = {}
        if self._results is None:
            return found
        try:
            for one in ids:
                stored = await self._results.stored(one)
                if stored is not None:
                    found[one] = Reading(stored, self._clock.now())
        except ResultsUnreachable as error:
            notes.append(error.says)
        return found


async def ask_revoked(
    broker: Broker, names: Sequence[str], clock: Clock, timeout: float = REPLY_TIMEOUT
) -> Revoked:
    """What is revoked in these workers, by what they say now. Raise BrokerUnreachable."""
    if not names:
        return Revoked(clock.now(), {})
    round_ = await broker.ask(
        (Question.REVOKED,), to=Targets(tuple(names)), timeout=timeout, known=names
    )
    told: dict[str, frozenset[str]] = {}
    for reply in round_.replies[Question.REVOKED]:
        ids = _revoked_ids(reply)
        if ids is not None:
            # Of two processes under one name it is revoked only if both say so.
            told[reply.node] = told[reply.node] & ids if reply.node in told else ids
    return Revoked(round_.ended_at, told)


def in_workers(snapshot: FleetSnapshot, masks: Masks | None = None) -> Iterator[SeenTask]:
    """The tasks that workers tell of: a worker that is silent now told so earlier.

    Their arguments are told only with `masks`.
    """
    for worker in snapshot.workers:
        for place, reading in (
            (TaskPlace.ACTIVE, worker.active),
            (TaskPlace.RESERVED, worker.reserved),
            (TaskPlace.SCHEDULED, worker.scheduled),
        ):
            for task in reading.value if reading is not None else ():
                if reading is not None:
                    yield _in_worker(task, place, worker.name, reading.at, masks)


def _in_worker(
    task: Task, place: TaskPlace, worker: str, at: datetime, masks: Masks | None
) -> SeenTask:
    return SeenTask(
        task.id,
        task.name,
        place,
        at,
        queue=task.queue,
        worker=worker,
        since=task.started_at if place is TaskPlace.ACTIVE else None,
        eta=task.eta,
        arguments=None if masks is None else masks.in_text(task.args),
    )


def _held(message: Unacked, task: str, at: datetime) -> SeenTask:
    return SeenTask(
        task, message.task, TaskPlace.HELD, at, queue=message.queue, since=message.since
    )


def _revoked_ids(reply: Reply) -> frozenset[str] | None:
    if not isinstance(reply.value, list):
        return None
    return frozenset(one for one in reply.value if isinstance(one, str))


def _has_state_file(worker: Worker) -> bool | None:
    """By the command line that its supervisor, or its host, tells; None where none is told, or it
    does not name a worker (a shell script that starts one).
    """
    arguments = _arguments(worker.service)
    if arguments is None or "worker" not in arguments:
        return None
    return any(one == _STATE_FILE or one.startswith((f"{_STATE_FILE}=", "-S")) for one in arguments)


def _arguments(service: Service | None) -> tuple[str, ...] | None:
    return None if service is None or service.status is None else service.status.value.arguments
