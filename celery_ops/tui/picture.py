"""All the app knows, as one frozen value. The app replaces it; every widget is drawn from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from celery_ops.tui.depths import Depths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import FleetSnapshot, Reading
    from celery_ops.runbook.desk import RunSummary
    from celery_ops.runbook.schema import Param


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What is shown, and at which moment it is looked at.

    `shown` is the snapshot on the screen, `newest` the last that came: they differ while the
    display is frozen. `unwatched` is why and since when no snapshots come at all. None is not
    known.
    """

    context: str
    protected: bool
    read_only: bool
    now: datetime
    shown: FleetSnapshot | None = None
    newest: FleetSnapshot | None = None
    frozen_at: datetime | None = None
    unwatched: Reading[str] | None = None
    ledger: Reading[Mapping[str, int | None]] | None = None
    ledger_error: str | None = None
    runs: tuple[RunSummary, ...] | None = None
    runbooks: Mapping[str, tuple[Param, ...]] = field(default_factory=dict)
    """Those that there are, with their parameters."""
    depths: Depths = field(default_factory=Depths)
    """Of the queues; the only part that is not frozen: it goes on with the app."""


BLANK = Picture("", protected=False, read_only=True, now=datetime.min.replace(tzinfo=UTC))
"""What widgets hold before they are given a picture."""


class Kind(StrEnum):
    """What can be described."""

    WORKER = "worker"
    QUEUE = "queue"
    HOST = "host"
    SERVICE = "service"
    RUN = "run"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing of the picture, by name. A problem's name is its rule and subject."""

    kind: Kind
    name: str

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"
