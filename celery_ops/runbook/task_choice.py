"""Which tasks a step is meant for: by their ids, or by their name and a filter. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import Place
from celery_ops.errors import UsageError
from celery_ops.runbook.expressions import InvalidExpression, condition
from celery_ops.runbook.loader import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from celery_ops.runbook.expressions import Condition
    from celery_ops.runbook.names import Names
    from celery_ops.runbook.task_steps import RetryStep, RevokeStep


@dataclass(frozen=True, slots=True)
class TaskChoice:
    """Ids, or a name (a glob) and a condition that must hold."""

    ids: frozenset[str]
    task: str
    filter: Condition | None

    @classmethod
    def of(cls, step: RevokeStep | RetryStep, scope: Mapping[str, object], names: Names) -> Self:
        """`names` are those that a filter can use. Raise UsageError for what makes no sense."""
        ids = frozenset(re.findall(r"[^,\s]+", resolve(step.ids, scope)))
        task = resolve(step.task, scope).strip()
        written = resolve(step.filter, scope).strip()
        if ids and (task or written):
            raise UsageError("name the tasks by their ids, or by name and filter: not both")
        if not (ids or task or written):
            raise UsageError("which tasks? Name their ids, or a task's name, or a filter")
        return cls(ids, task, _filter(written, names) if written else None)

    def fits(self, name: str) -> bool:
        """Whether a task of that name is meant, as far as its name tells."""
        return not self.task or name == self.task or fnmatchcase(name, self.task)


def _filter(written: str, names: Names) -> Condition:
    try:
        return condition(written, Place("filter", 1, 1), names)
    except InvalidExpression as error:
        says = "; ".join(f"at {fault.offset + 1}: {fault.says}" for fault in error.faults)
        raise UsageError(f"the filter {written!r} cannot be used: {says}") from error
