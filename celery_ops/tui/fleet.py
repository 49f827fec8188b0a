"""What is wrong, and how much there is of what; in the demo, whether the promise is kept."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from textual.containers import Horizontal, Vertical
from textual.reactive import var
from textual.widgets import Digits, Static

from celery_ops.model import Finding, Level, WorkerState
from celery_ops.tui import workers
from celery_ops.tui.columns import Column
from celery_ops.tui.describe import LEVEL_SIGNS, finding_name
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.picture import BLANK, Kind, Picture
from celery_ops.tui.table import LiveTable
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import FRESH, UNKNOWN, Cell, Tone, age, age_of, clock, counted, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from textual.app import ComposeResult

    from celery_ops.model import FleetSnapshot, TakenRecord

MOST_TAKEN = 4
"""Taken things listed here; the workers' rows show all of them."""
_LABEL = 10
_LEVELS = {level: place for place, level in enumerate(Level)}
_LEDGER = (
    ("sent", "sent", False),
    ("done", "done", False),
    ("running", "running", False),
    ("lost", "lost", True),
    ("twice", "run twice", True),
)
"""Key, label, and whether anything but zero is a broken promise."""


def _level(finding: Finding, _now: datetime) -> Cell:
    sign, tone = LEVEL_SIGNS[finding.level]
    return Cell(f"{sign} {finding.level}", tone)


COLUMNS: tuple[Column[Finding], ...] = (
    Column("level", _level, lambda one: _LEVELS[one.level], 9),
    Column("subject", lambda one, _: Cell(one.subject, Tone.STRONG), lambda one: one.subject,
           16, grow=1),
    Column("says", lambda one, _: Cell(one.says), lambda one: one.says, 30, grow=4),
    Column("rule", lambda one, _: Cell(one.rule, Tone.DIM), lambda one: one.rule,
           20, grow=1, drop=2),
    Column("what to do", lambda one, _: Cell(one.fix, Tone.DIM), lambda one: one.fix,
           30, grow=3, drop=3),
)  # fmt: skip


class LedgerCard(Vertical):
    """One number of the ledger, large."""

    def __init__(self, label: str, *, promise: bool) -> None:
        super().__init__()
        self._promise = promise
        self._label = Static(label, markup=False)
        self._digits = Digits(UNKNOWN)

    def compose(self) -> ComposeResult:
        yield self._label
        yield self._digits

    def show(self, value: int | None) -> None:
        """None is not known, and not zero."""
        self._digits.update(UNKNOWN if value is None else str(value))
        self.set_class(self._promise and value == 0, "-kept")
        self.set_class(self._promise and bool(value), "-broken")


class LedgerPanel(Vertical):
    """The demo's ledger of numbered tasks."""

    picture: var[Picture] = var(BLANK)

    def __init__(self) -> None:
        super().__init__()
        self._cards = {key: LedgerCard(label, promise=promise) for key, label, promise in _LEDGER}
        self._foot = Lines(id="ledger-age")

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield from self._cards.values()
        yield self._foot

    def watch_picture(self, picture: Picture) -> None:
        ledger = picture.ledger
        for key, card in self._cards.items():
            card.show(ledger.value.get(key) if ledger else None)
        said: list[str | tuple[str, Tone]] = [("numbered tasks of the demo", Tone.DIM)]
        if ledger is not None:
            seconds = ledger.age(picture.now)
            said.append((f", read {age(seconds)} ago", Tone.DIM if seconds <= FRESH else Tone.WARN))
        if picture.ledger_error is not None:
            said.append((f", not read now: {picture.ledger_error}", Tone.BAD))
        self._foot.show([line(*said)])


class FleetView(TableView["Finding"]):
    """The problems, and what to do about the one under the cursor; counts, and what is taken."""

    noun = "problem"
    kind = Kind.PROBLEM

    def __init__(self, picture: Picture, *, with_ledger: bool) -> None:
        super().__init__(picture, COLUMNS, id="fleet")
        self._ledger = LedgerPanel() if with_ledger else None
        self._counts = Lines(id="counts")
        self._fix = Lines(id="fix")
        self._foot = Lines(id="foot")

    def compose(self) -> ComposeResult:
        if self._ledger is not None:
            yield self._ledger.data_bind(FleetView.picture)
        yield self._counts
        yield from super().compose()
        yield self._fix
        yield self._foot

    def watch_picture(self, before: Picture, now: Picture) -> None:
        super().watch_picture(before, now)
        if self.is_mounted and self.display:
            self._draw(now)

    def on_mount(self) -> None:
        super().on_mount()
        self._draw(self.picture)

    def on_live_table_moved(self, event: LiveTable.Moved) -> None:
        super().on_live_table_moved(event)
        self._draw(self.picture)

    def rows(self, picture: Picture) -> Sequence[Finding]:
        return picture.shown.problems if picture.shown else ()

    def key(self, row: Finding) -> str:
        return finding_name(row)

    def is_wrong(self, row: Finding, _troubled: frozenset[str]) -> bool:
        return row.level is not Level.INFO

    def nothing(self, picture: Picture) -> str:
        shown = picture.shown
        if shown is None:
            return "no snapshot yet"
        if shown.broker_error is not None or not shown.complete:
            return "no problem is known, but not everything answered"
        return "nothing is wrong, as far as can be seen from here"

    def _draw(self, picture: Picture) -> None:
        shown = picture.shown
        self._counts.show([] if shown is None else count_lines(shown))
        row = self.table.row
        self._fix.show([] if row is None else [line(("→ ", Tone.NOTE), row.fix, indent=2)])
        self._foot.show([] if shown is None else list(_foot(shown, picture.now)))


def count_lines(shown: FleetSnapshot) -> list[Line]:
    """How many workers are in which state, and how much waits."""
    return [_worker_counts(shown), _queue_counts(shown)]


def _worker_counts(shown: FleetSnapshot) -> Line:
    mine = [worker for worker in shown.workers if worker.mine]
    states = Counter(worker.state for worker in mine)
    parts: list[str | tuple[str, Tone]] = [("workers", Tone.DIM), (f"{len(mine):,}", Tone.STRONG)]
    for state in WorkerState:
        if states[state]:
            sign, tone = workers.state_cell(state)
            mark, _, word = sign.partition(" ")
            parts.append((f"   {mark} {states[state]:,} {word}", tone))
    if len(mine) < len(shown.workers):
        parts.append((f"   {len(shown.workers) - len(mine):,} outside the scope", Tone.DIM))
    if not shown.complete:
        parts.append(("   not all answered in time", Tone.WARN))
    return line(*parts, indent=_LABEL)


def _queue_counts(shown: FleetSnapshot) -> Line:
    parts: list[str | tuple[str, Tone]] = [
        ("queues", Tone.DIM),
        (f"{len(shown.queues):,}", Tone.STRONG),
        f"   {_total(queue.ready for queue in shown.queues)} ready",
        f"   {_total(queue.unacked for queue in shown.queues)} unacked",
    ]
    orphaned = sum(queue.consumers == 0 for queue in shown.queues)
    if orphaned:
        parts.append((f"   ▲ {orphaned:,} that nobody consumes", Tone.WARN))
    return line(*parts, indent=_LABEL)


def _foot(shown: FleetSnapshot, now: datetime) -> Iterable[Line]:
    if shown.holder is not None:
        holder = shown.holder
        yield line(
            ("lease", Tone.DIM),
            (f"{holder.operator} runs {holder.what}", Tone.WARN),
            f"  run {holder.run}, since {clock(holder.since)} ({age_of(holder.since, now)})",
            f"  now at step {holder.step}" if holder.step else "",
            indent=_LABEL,
        )
    taken = shown.taken_at_a_glance
    for record in taken[:MOST_TAKEN]:
        yield _taken(record, now)
    if len(taken) > MOST_TAKEN:
        more = counted(len(taken) - MOST_TAKEN, "worker")
        yield line(
            ("", Tone.DIM), (f"and {more} more: see 2, sorted by taken", Tone.WARN), indent=_LABEL
        )
    for note in shown.notes:
        yield line(("not known", Tone.DIM), (note, Tone.DIM), indent=_LABEL)


def _taken(record: TakenRecord, now: datetime) -> Line:
    return line(
        ("taken", Tone.DIM),
        (record.says, Tone.WARN),
        f"  run {record.run}, {record.operator}",
        f", since {clock(record.at)} ({age_of(record.at, now)})",
        indent=_LABEL,
    )


def _total(numbers: Iterable[int | None]) -> str:
    found = list(numbers)
    known = sum(value for value in found if value is not None)
    return number(known) if None not in found else f"{number(known)}+{UNKNOWN}"
