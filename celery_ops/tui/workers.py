"""The workers: their rows, and the keys that change them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from celery_ops.model import ServiceState, WorkerState
from celery_ops.tui import scaling
from celery_ops.tui.columns import Column, natural
from celery_ops.tui.commands import Where, bindings, writes
from celery_ops.tui.messages import ChangeAsked, ScaleAsked
from celery_ops.tui.picture import Kind, Picture
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import FRESH, NOTHING, UNKNOWN, Cell, Tone, age, aged, known, number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from textual.binding import BindingType

    from celery_ops.model import Reading, Service, ServiceRef, Task, Worker

_SIGNS = {
    WorkerState.CONFLICT: ("▲", Tone.BAD),
    WorkerState.SILENT: ("▲", Tone.BAD),
    WorkerState.UNREADABLE: ("▲", Tone.BAD),
    WorkerState.STALLED: ("▲", Tone.WARN),
    WorkerState.STOPPED: ("■", Tone.WARN),
    WorkerState.STOPPING: ("◑", Tone.NOTE),
    WorkerState.DRAINING: ("◐", Tone.NOTE),
    WorkerState.DRAINED: ("○", Tone.NOTE),
    WorkerState.ONLINE: ("●", Tone.GOOD),
}
"""By state, the gravest first."""
_GRAVITY = {state: place for place, state in enumerate(_SIGNS)}
_SELECTABLE = re.compile(r"[^\s,*?\[\]!:]+")


def state_cell(state: WorkerState) -> Cell:
    """A state as a sign, a word and a colour; any one of them is enough."""
    sign, tone = _SIGNS[state]
    return Cell(f"{sign} {state}", tone)


def service_cell(service: Service | None) -> Cell:
    """A service by name, with its state where that is not `running`."""
    if service is None:
        return Cell(NOTHING, Tone.DIM)
    if service.status is None:
        return Cell(f"{service.ref.name} {UNKNOWN}", Tone.WARN)
    state = service.status.value.state
    if state is ServiceState.RUNNING:
        return Cell(service.ref.name)
    return Cell(f"{service.ref.name} {state}", Tone.WARN)


def log_of(worker: Worker) -> ServiceRef | str:
    """The service whose log is the worker's, or what is missing for that."""
    if worker.service is not None:
        return worker.service.ref
    if not worker.mine:
        return f"{worker.name} is outside this context's scope: none of its hosts are known."
    return (
        f"No service is configured that runs {worker.name}, so it is not known where its log is."
        " Add it to `services:` of this context, for example:"
        f" {{host: HOST, systemd: UNIT, worker: {worker.name}}}"
    )


def _name(worker: Worker, _now: datetime) -> Cell:
    return Cell(worker.name, Tone.PLAIN if worker.mine else Tone.DIM)


def _state(worker: Worker, _now: datetime) -> Cell:
    return state_cell(worker.state)


def _age(worker: Worker, now: datetime) -> Cell:
    if worker.seen_at is None:
        return Cell(UNKNOWN, Tone.DIM)
    seconds = (now - worker.seen_at).total_seconds()
    return Cell(age(seconds), Tone.DIM if seconds <= FRESH else Tone.WARN)


def _held(reading: Reading[tuple[Task, ...]] | None, now: datetime) -> Cell:
    if reading is None:
        return Cell(UNKNOWN, Tone.DIM)
    return aged(number(len(reading.value)), reading.age(now))


def _count(reading: Reading[tuple[Task, ...]] | None) -> int | None:
    return None if reading is None else len(reading.value)


def _queues(worker: Worker, now: datetime) -> Cell:
    if worker.consuming is None:
        return Cell(UNKNOWN, Tone.DIM)
    names = " ".join(queue.name for queue in worker.consuming.value)
    return aged(names or "none", worker.consuming.age(now))


def _taken(worker: Worker, _now: datetime) -> Cell:
    return Cell(worker.taken.run[-4:] if worker.taken else "", Tone.WARN)


def _note(worker: Worker, _now: datetime) -> Cell:
    if worker.taken is not None:
        return Cell(f"{worker.taken.what}: taken by run {worker.taken.run}", Tone.WARN)
    return Cell(worker.says if worker.mine else "outside this context's scope", Tone.DIM)


def _concurrency(worker: Worker) -> int | None:
    return worker.stats.value.concurrency if worker.stats else None


def _processed(worker: Worker) -> int | None:
    if worker.heartbeat is not None and worker.heartbeat.value.processed is not None:
        return worker.heartbeat.value.processed
    return worker.stats.value.processed if worker.stats else None


def _load(worker: Worker) -> float | None:
    return worker.heartbeat.value.load if worker.heartbeat else None


def _pool(worker: Worker) -> str | None:
    return worker.stats.value.pool if worker.stats else None


def _version(worker: Worker) -> str | None:
    return worker.heartbeat.value.version if worker.heartbeat else None


def _pid(worker: Worker) -> str | None:
    return None if worker.pid is None else str(worker.pid)


def _up(worker: Worker, now: datetime) -> Cell:
    return known(
        None if worker.started_at is None else age((now - worker.started_at).total_seconds())
    )


def _started(worker: Worker) -> float | None:
    return None if worker.started_at is None else -worker.started_at.timestamp()


def _seen(worker: Worker) -> float | None:
    return None if worker.seen_at is None else -worker.seen_at.timestamp()


COLUMNS: tuple[Column[Worker], ...] = (
    Column("worker", _name, lambda one: natural(one.name), 16, grow=4),
    Column("state", _state, lambda one: _GRAVITY[one.state], 12),
    Column("age", _age, _seen, 4, right=True),
    Column("active", lambda one, now: _held(one.active, now), lambda one: _count(one.active),
           8, right=True, counts=True),
    Column("reserved", lambda one, now: _held(one.reserved, now), lambda one: _count(one.reserved),
           8, drop=2, right=True, counts=True),
    Column("scheduled", lambda one, now: _held(one.scheduled, now),
           lambda one: _count(one.scheduled), 9, drop=3, right=True, counts=True),
    Column("taken", _taken, lambda one: one.taken.run if one.taken else None, 5),
    Column("queues", _queues, lambda one: one.queues, 12, grow=4, drop=1),
    Column("slots", lambda one, _: known(_shown(_concurrency(one))), _concurrency,
           5, drop=5, right=True, counts=True),
    Column("processed", lambda one, _: known(_shown(_processed(one))), _processed,
           9, drop=6, right=True, counts=True),
    Column("pool", lambda one, _: known(_pool(one)), _pool, 8, drop=8),
    Column("up", _up, _started, 4, drop=6, right=True),
    Column("pid", lambda one, _: known(_pid(one)), lambda one: one.pid,
           7, drop=7, right=True, counts=True),
    Column("load", lambda one, _: known(_shown(_load(one))), _load,
           5, drop=9, right=True, counts=True),
    Column("version", lambda one, _: known(_version(one)), _version, 7, drop=10),
    Column("release", lambda one, _: known(one.release), lambda one: one.release, 8, drop=5),
    Column("service", lambda one, _: service_cell(one.service),
           lambda one: one.service.ref.name if one.service else None, 14, grow=1, drop=7),
    Column("note", _note, lambda one: one.says or None, 20, grow=3, drop=4),
)  # fmt: skip


class WorkersView(TableView["Worker"]):
    """Every worker there is. Upper-case keys open the plan of a change of the marked ones."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.WORKERS)]

    noun = "worker"
    kind = Kind.WORKER
    has_logs = True

    def __init__(self, picture: Picture, *, may_write: bool) -> None:
        super().__init__(picture, COLUMNS, id="workers")
        self._may_write = may_write

    def watch_picture(self, before: Picture, now: Picture) -> None:
        super().watch_picture(before, now)
        if before.runbooks is not now.runbooks:
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "scale":
            return self._may_write and bool(scaling.asked_for(self.picture.runbooks))
        if writes(action):
            return self._may_write
        return super().check_action(action, parameters)

    def action_change(self, runbook: str) -> None:
        """Ask for the plan of a runbook."""
        if names := self._changed():
            self.post_message(ChangeAsked(runbook, {"workers": ",".join(names)}, names, self.noun))

    def action_release(self, runbook: str) -> None:
        """Likewise; a release is a matter of all workers, unless some are marked."""
        if self.table.marks:
            self.action_change(runbook)
            return
        names = tuple(worker.name for worker in self.rows(self.picture) if worker.mine)
        if names:
            self.post_message(ChangeAsked(runbook, {}, names, self.noun))

    def action_scale(self) -> None:
        """Ask how many of them there are to be."""
        if names := self._changed():
            running = sum(worker.answers for worker in self.chosen)
            self.post_message(ScaleAsked(names, running))

    def _changed(self) -> tuple[str, ...]:
        """Who is to be changed; nobody, and it is said why, if that is not clear or not allowed:
        names that would read as patterns are refused.
        """
        names = tuple(worker.name for worker in self.chosen if worker.mine)
        unclear = [name for name in names if not _SELECTABLE.fullmatch(name)]
        if len(names) < len(self.chosen):
            says = "Workers outside this context's scope are never touched."
            self.notify(says, severity="error", markup=False)
        elif unclear:
            says = f"{len(unclear)} of the names read as patterns and could mean other workers."
            self.notify(says, severity="error", markup=False)
        else:
            return names
        return ()

    def rows(self, picture: Picture) -> Sequence[Worker]:
        return picture.shown.workers if picture.shown else ()

    def key(self, row: Worker) -> str:
        return row.name

    def log_of(self, row: Worker) -> ServiceRef | str:
        return log_of(row)

    def is_wrong(self, row: Worker, troubled: frozenset[str]) -> bool:
        trouble = row.state is not WorkerState.ONLINE or row.taken is not None
        return trouble or row.name in troubled

    def is_faded(self, row: Worker) -> bool:
        return not row.mine

    def nothing(self, picture: Picture) -> str:
        return "no worker was seen" if picture.shown else "no snapshot yet"


def _shown(value: float | None) -> str | None:
    return None if value is None else f"{value:,}"
