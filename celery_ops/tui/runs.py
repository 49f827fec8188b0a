"""The list of this user's runs; enter follows one, live or long ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.events import RunState
from celery_ops.tui.columns import Column
from celery_ops.tui.messages import RunAsked
from celery_ops.tui.picture import Kind, Picture
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import Cell, Tone, age_of, moment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.runbook.desk import RunSummary

_SIGNS = {
    RunState.RUNNING: ("▶", Tone.NOTE),
    RunState.WAITING: ("◔", Tone.NOTE),
    RunState.PLANNED: ("◌", Tone.NOTE),
    RunState.PAUSED: ("‖", Tone.WARN),
    RunState.INTERRUPTED: ("▲", Tone.BAD),
    RunState.FAILED: ("✗", Tone.BAD),
    RunState.UNDO_FAILED: ("✗", Tone.BAD),
    RunState.UNDONE: ("↺", Tone.WARN),
    RunState.ABORTED: ("■", Tone.WARN),
    RunState.SUCCEEDED: ("✓", Tone.GOOD),
}
"""By state, the liveliest first."""
_LIVELINESS = {state: place for place, state in enumerate(_SIGNS)}
LIVE = frozenset({RunState.RUNNING, RunState.WAITING, RunState.PAUSED, RunState.PLANNED})
"""States of runs that go on, whether or not a screen follows them."""


def state_cell(state: RunState) -> Cell:
    """A run's state as a sign, a word and a colour."""
    sign, tone = _SIGNS[state]
    return Cell(f"{sign} {state.replace('_', ' ')}", tone)


def _state(run: RunSummary, _now: datetime) -> Cell:
    return state_cell(run.state)


def _began(run: RunSummary, now: datetime) -> Cell:
    return Cell(moment(run.began_at, now))


COLUMNS: tuple[Column[RunSummary], ...] = (
    Column("run", lambda one, _: Cell(one.id), lambda one: one.id, 20),
    Column("state", _state, lambda one: _LIVELINESS[one.state], 13),
    Column("runbook", lambda one, _: Cell(one.runbook), lambda one: one.runbook, 15, grow=1),
    Column("context", lambda one, _: Cell(one.context), lambda one: one.context, 12, drop=4),
    Column("began", _began, lambda one: -one.began_at.timestamp(), 19, drop=5),
    Column("changed", lambda one, now: Cell(age_of(one.changed_at, now), Tone.DIM),
           lambda one: -one.changed_at.timestamp(), 7, right=True),
    Column("operator", lambda one, _: Cell(one.operator), lambda one: one.operator, 16, drop=6),
    Column("says", lambda one, _: Cell(one.says), lambda one: one.says, 14, grow=4, drop=1),
)  # fmt: skip


class RunsView(TableView["RunSummary"]):
    """This user's runs, newest first."""

    noun = "run"
    kind = Kind.RUN

    def __init__(self, picture: Picture) -> None:
        super().__init__(picture, COLUMNS, id="runs")
        self._sorted = (0, True)

    def action_open(self) -> None:
        row = self.table.row
        if row is not None:
            self.post_message(RunAsked(row.id))

    def source(self, picture: Picture) -> object:
        return picture.runs

    def rows(self, picture: Picture) -> Sequence[RunSummary]:
        return picture.runs or ()

    def key(self, row: RunSummary) -> str:
        return row.id

    def is_wrong(self, row: RunSummary, _troubled: frozenset[str]) -> bool:
        return row.state is not RunState.SUCCEEDED

    def nothing(self, picture: Picture) -> str:
        if picture.runs is None:
            return "the runs were not read yet"
        return "no run yet: mark workers (2, space), then D drains and R restarts them"
