"""Looks into queues for people: what waits there, and what of its arguments may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.fleet.contents import contents
from celery_ops.fleet.peeking import look

if TYPE_CHECKING:
    from celery_ops.fleet.masking import Masks
    from celery_ops.fleet.peeking import Look
    from celery_ops.model import StoredMessage
    from celery_ops.ports import MessageReading


class Peeker:
    """The messages of one broker, to be looked at. Takes none of them."""

    def __init__(self, store: MessageReading, masks: Masks) -> None:
        self._store = store
        self._masks = masks

    async def look(self, queue: str, limit: int) -> Look:
        """The next messages of a queue. Raise BrokerUnreachable, or PreconditionFailed where
        looking would change them.
        """
        return await look(self._store, queue, skip=0, limit=limit)

    def arguments(self, message: StoredMessage) -> str:
        """Its arguments in one line, shortened and masked; why not, if they cannot be told."""
        return str(contents(message, self._masks))
