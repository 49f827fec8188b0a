"""`--emergency`: help that needs no broker, refused while there is one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from celery_ops.broker import emergency
from celery_ops.cli import state
from celery_ops.cli.boundary import complain
from celery_ops.errors import BrokerUnreachable, JournalError, LeaseHeld, PreconditionFailed
from celery_ops.model import Holder
from celery_ops.ports import Question
from celery_ops.runbook import journal
from celery_ops.runbook.events import RunState
from celery_ops.runbook.journal import GOING_ON

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Broker, Clock

_PATIENCE = 2.0
"""Seconds for a question, whose answers do not matter: a full broker refuses it."""


async def why(broker: Broker) -> str:
    """What is wrong with the broker, or why it cannot be used. Raise PreconditionFailed if nothing
    is.
    """
    if broker.refuses_runs:
        return broker.refuses_runs
    try:
        await broker.holder()
        await broker.ask([Question.PING], to=None, timeout=_PATIENCE)
    except BrokerUnreachable as error:
        return error.says
    raise PreconditionFailed(
        f"{broker.address} answers, so this is no emergency.",
        fix="Leave --emergency out: then tasks are drained, queues are guarded, results proved.",
    )


def lock(broker: Broker) -> Path:
    """The lock file that keeps two emergencies on this machine apart."""
    digest = hashlib.sha256(broker.identity.encode()).hexdigest()[:16]
    return state.directory() / f"emergency-{digest}.lock"


async def hand_over(broker: Broker, clock: Clock) -> None:
    """Let everybody see, and this command too, what was taken here while the broker was away.

    Where the broker is still away, or somebody works there, it is left to the next command; where
    nothing can be kept, it stays here.
    """
    if broker.refuses_runs:
        return
    holder = Holder(state.operator(), "hand-over", "the records of an emergency", clock.now())
    try:
        records = await emergency.hand_over(broker, lock(broker), holder, is_over=_is_over)
    except (BrokerUnreachable, LeaseHeld):
        return
    for record in records:
        complain(f"{record.worker}, {record.what} in an emergency ({record.run}): the broker knows")


def _is_over(run: str) -> bool:
    """Nobody goes on with it from its journal, or can: it is gone, or not to be read."""
    path = state.runs() / f"{run}.jsonl"
    held = journal.is_held(path)
    try:
        now = journal.state_of(list(journal.read(path)), held=held)
    except JournalError:
        return not held
    return now not in GOING_ON | {RunState.INTERRUPTED}
