"""The steps of the language that are about tasks. Typed, checked, and without any behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.config.document import Place
    from celery_ops.runbook.expressions import Condition
    from celery_ops.runbook.schema import Slot

SIGNALS = ("TERM", "KILL")
"""What may end the process that runs a task; the first one unless another is asked for."""


@dataclass(frozen=True, slots=True)
class RevokeStep:
    """`revoke: tasks`, and with `terminates` `terminate: tasks`: those with one of these `ids`,
    separated by commas, or all whose name is `task` (or fits it, a glob) and for which `filter`
    holds, a condition on messages; empty is not asked for.

    `signal` ends the process that runs a task. Ids of which none is seen anywhere, though all could
    be looked at, are only revoked with `unseen`.
    """

    id: str
    terminates: bool
    ids: Slot[str]
    task: Slot[str]
    filter: Slot[str]
    signal: Slot[str]
    unseen: Slot[bool]
    timeout: Slot[float]
    when: Condition | None
    place: Place


ENDED = ("failed", "any")
"""Which tasks are sent again: those that failed or were revoked, or those that succeeded too."""


@dataclass(frozen=True, slots=True)
class RetryStep:
    """`retry: tasks`: those that have `ended` are sent again, named as by a revoke; `filter` is a
    condition on what is stored of them.

    They go `to` another queue than they were in; once more for each name that `again` gives.
    """

    id: str
    ids: Slot[str]
    task: Slot[str]
    filter: Slot[str]
    ended: Slot[str]
    to: Slot[str]
    limit: Slot[int]
    rate: Slot[str]
    again: Slot[str]
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
class SieveStep:
    """`hold: task` with `unknown_to`: messages whose task that `release` does not register are
    parked from then on, beside the steps that follow, until a release step ends it.

    `untold` is what is done where nobody can tell what it registers: `ignore` or `refuse`.
    """

    id: str
    release: Slot[str]
    untold: Slot[str]
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
