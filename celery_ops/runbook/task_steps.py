"""Steps that are about tasks, as they were read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.config.document import Place
    from celery_ops.runbook.expressions import Condition
    from celery_ops.runbook.schema import Slot


@dataclass(frozen=True, slots=True)
class RevokeStep:
    """`revoke: tasks`, and with `terminates` `terminate: tasks`: those with one of these `ids`,
    separated by commas, or all whose name is `task` (or fits it, a glob) and for which `filter`
    holds, a condition on messages; empty is not asked for.

    `signal` ends the process that runs a task.
    """

    id: str
    terminates: bool
    ids: Slot[str]
    task: Slot[str]
    filter: Slot[str]
    signal: Slot[str]
    timeout: Slot[float]
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class HoldStep:
    """`hold: task`: no task of these names, separated by commas, begins any more, wherever it is
    sent, until a release step ends it. It is the last step: the run goes on for as long.

    `queues` are those that are looked after, separated by commas; empty: all that workers consume.
    """

    id: str
    tasks: Slot[str]
    queues: Slot[str]
    timeout: Slot[float]
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class ReleaseStep:
    """`release: task`: workers consume their own queues again, and the messages that were held go
    back to these, at most at a `rate`; or they stay parked (`parked`: `back` or `keep`).

    `tasks`, separated by commas, must be those that are held; empty: whichever.
    """

    id: str
    tasks: Slot[str]
    parked: Slot[str]
    rate: Slot[str]
    timeout: Slot[float]
    when: Condition | None
    place: Place
