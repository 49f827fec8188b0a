"""The steps of the language that are about releases. Typed, checked, and without any behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.config.document import Place
    from celery_ops.config.units import Count
    from celery_ops.runbook.expressions import Condition
    from celery_ops.runbook.schema import CurrentWorker, Slot


@dataclass(frozen=True, slots=True)
class ActivateStep:
    """A release is made the current one on a host: the current worker's, or a named one."""

    id: str
    release: Slot[str]
    on: CurrentWorker | Slot[str]
    timeout: Slot[float]
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class WatchStep:
    """How the tasks of workers end is counted `lasts` seconds long. More failures than
    `max_failures`, of all that ended or in number, are a failure, and so is that none ended.
    """

    id: str
    target: CurrentWorker | Slot[str]
    lasts: Slot[float]
    max_failures: Slot[Count]
    when: Condition | None
    place: Place
