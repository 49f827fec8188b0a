"""What workers announce by themselves every two seconds, as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker import messages
from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio.connection import AbstractConnection

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire
    from celery_ops.model import Heartbeat

QUIET = 5.0
"""After so many seconds without a message the connection is asked whether it still lives."""
PATIENCE = 3.0
"""So many seconds it has to answer: a TCP connection that is half dead never reports an error."""


async def heartbeats(
    wire: Wire, names: Names, *, quiet: float = QUIET, patience: float = PATIENCE
) -> AsyncIterator[Heartbeat]:
    """Heartbeats until cancelled; raise BrokerUnreachable when the connection is lost."""
    async with wire.connection() as connection:
        await connection.send_command(*names.heartbeats)
        while True:
            data = await _next(wire, connection, quiet, patience)
            beat = messages.read_heartbeat(data) if data is not None else None
            if beat is not None:
                yield beat


async def _next(
    wire: Wire, connection: AbstractConnection, quiet: float, patience: float
) -> bytes | None:
    """The next message's data, or None for what is not a message (a confirmation, a pong)."""
    answer = await connection.read_response(timeout=quiet, disconnect_on_error=False)
    if answer is None:
        await connection.send_command("PING")
        answer = await connection.read_response(timeout=patience, disconnect_on_error=False)
    if answer is None:
        raise BrokerUnreachable(
            f"The broker at {wire.place} has gone silent: no answer within {patience:g} s."
        )
    if isinstance(answer, list) and answer and answer[0] in (b"pmessage", b"message"):
        return bytes(answer[-1])
    return None
