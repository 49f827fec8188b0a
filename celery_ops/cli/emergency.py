"""`--emergency`: help that needs no broker, refused while there is one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from celery_ops.cli import state
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.ports import Question

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Broker

_PATIENCE = 2.0
"""Seconds for a question, whose answers do not matter: a full broker refuses it."""


async def why(broker: Broker) -> str:
    """What is wrong with the broker. Raise PreconditionFailed if nothing is."""
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
