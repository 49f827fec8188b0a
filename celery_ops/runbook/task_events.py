"""Task events of workers, which a run needs for a while: switched on, and off again where they were
off.

No question tells whether they are on: only the reply to `enable_events` does, and so does the
journal then. Where a run died before it had that reply, nobody knows, and they stay on: that does
no harm, and switching off what somebody else watches by would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.ports import Control
from celery_ops.runbook.events import Result

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from celery_ops.ports import Reply
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.recall import Act

ON, OFF = "enable_events", "disable_events"
"""Celery's own names, and the verbs of these acts in the journal."""
_WERE_OFF = "they were off"
_WERE_ON = "they were on"
_UNCLEAR = "they are on; whether they were before the run was interrupted is not known: they stay"
_OFF_AGAIN = "they are off again"


def left_on(acts: Iterable[Act]) -> dict[str, str]:
    """The workers in which a run has switched them on, and which did not say that they are off
    again; with the step that needed them.
    """
    owed: dict[str, str] = {}
    for act in acts:
        if act.outcome is None or act.target is None:
            continue
        if act.verb == ON and act.outcome.says == _WERE_OFF:
            owed[act.target] = act.step.removesuffix(_SUFFIX)
        elif act.verb == OFF and act.outcome.result is Result.DONE:
            owed.pop(act.target, None)
    return owed


class TaskEvents:
    """Those that one run has switched on."""

    def __init__(self, effects: Effects, acts: Iterable[Act]) -> None:
        """`acts` are those of the run so far, if it was interrupted."""
        self._effects = effects
        acts = tuple(acts)
        self._owed = left_on(acts)
        last = {act.target: act.outcome for act in acts if act.verb == ON}
        self._unclear = {name for name, outcome in last.items() if outcome is None}

    @property
    def owed(self) -> tuple[str, ...]:
        """The workers in which they are still to be switched off."""
        return tuple(self._owed)

    async def switch_on(self, step: str, names: Collection[str]) -> dict[str, str]:
        """Why they may be off still, for the workers of which that is not known."""
        asked = [name for name in names if name not in self._owed]
        missing = {}
        for name, reply in (await self._order(step, ON, asked)).items():
            if reply is None or reply.error is not None:
                missing[name] = _why(reply)
                result = Result.UNKNOWN if reply is None else Result.FAILED
                self._effects.conclude(step_of(step), name, result, missing[name])
                continue
            was_on = "already" in str(reply.value)
            says = _WERE_ON if was_on else _WERE_OFF
            if was_on and name in self._unclear:
                says = _UNCLEAR
            if not was_on:
                self._owed[name] = step
            self._effects.conclude(step_of(step), name, Result.DONE, says)
        return missing

    async def switch_off(self) -> None:
        """Those that were off; who does not reply to that still is owed it."""
        for step in sorted(set(self._owed.values())):
            owed = [name for name, by in self._owed.items() if by == step]
            for name, reply in (await self._order(step, OFF, owed)).items():
                if reply is None or reply.error is not None:
                    self._effects.conclude(step_of(step), name, Result.UNKNOWN, _why(reply))
                    continue
                del self._owed[name]
                self._effects.conclude(step_of(step), name, Result.DONE, _OFF_AGAIN)

    async def _order(
        self, step: str, method: str, names: Collection[str]
    ) -> dict[str, Reply | None]:
        """Intents, one control message, and what each replied."""
        if not names:
            return {}
        undo = OFF if method == ON else None
        for name in names:
            self._effects.intend(
                step_of(step), name, method, expect="it replies", undo=undo, verb=method
            )
        replies = await self._effects.replies(Control(method), list(names))
        return {name: replies.get(name) for name in names}


_SUFFIX = " events"


def step_of(step: str) -> str:
    """How the journal calls what is done about events for that step."""
    return f"{step}{_SUFFIX}"


def _why(reply: Reply | None) -> str:
    if reply is None:
        return "no reply: it is not known whether they are on"
    return f"it replied: {reply.error}"
