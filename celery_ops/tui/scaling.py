"""The wish for more or fewer workers: what is asked for, and which runbook that comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.tui.messages import ChangeAsked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.schema import Param
    from celery_ops.tui.messages import ScaleAsked

UP, DOWN = "scale-up", "scale-down"
_TO, _PROCESSES = "to", "processes"


def asked_for(runbooks: Mapping[str, tuple[Param, ...]]) -> tuple[Param, ...]:
    """One line for each way to say it; none where the runbooks for it are not there."""
    down = {one.name: one for one in runbooks.get(DOWN, ())}
    up = {one.name: one for one in runbooks.get(UP, ())}
    if _TO not in down or not {_TO, _PROCESSES} <= up.keys():
        return ()
    # Either is enough, so neither is needed by itself.
    return (replace(down[_TO], default=0), up[_PROCESSES])


def change(asked: ScaleAsked, told: Mapping[str, str]) -> ChangeAsked | str:
    """The runbook and what it is told; or what is wrong with what was typed."""
    to, processes = told.get(_TO, ""), told.get(_PROCESSES, "")
    if bool(to) == bool(processes):
        return f"Type one of the two: {_TO} or {_PROCESSES}."
    given = {"workers": ",".join(asked.names)}
    if processes:
        return ChangeAsked(UP, {**given, _PROCESSES: processes}, asked.names, "worker")
    # 0 would mean all of them to the runbook that starts workers.
    is_more = to.isdecimal() and int(to) > asked.running
    return ChangeAsked(UP if is_more else DOWN, {**given, _TO: to}, asked.names, "worker")
