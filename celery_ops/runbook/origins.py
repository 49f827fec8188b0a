"""Where a message goes that is returned: to where it came from, if that can be told.

The same for the plan and for the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.errors import PreconditionFailed
from celery_ops.fleet.wrapped import NoOriginal, original
from celery_ops.model import Address, TaskMessage, parked
from celery_ops.runbook.schema import QueueVerb

if TYPE_CHECKING:
    from celery_ops.model import StoredMessage
    from celery_ops.ports import MessageStore
    from celery_ops.runbook.moves import Wanted


@dataclass(frozen=True, slots=True)
class Untold:
    """It cannot be told where it came from."""

    why: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """It cannot be returned, wherever that may be."""

    why: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A message as it goes back: `address` is where it came from. `from_text`: a wrapper had some
    of its original's arguments as a text of JSON.
    """

    message: StoredMessage
    address: Address | Untold
    from_text: bool = False


class Origins:
    """For one step. `sender` is what a task that is composed says of who sent it."""

    def __init__(self, store: MessageStore, wanted: Wanted, *, sender: str) -> None:
        self._store = store
        self._wanted = wanted
        self._sender = sender
        place = parked(wanted.queue)
        self._here = {wanted.queue, wanted.queue if place is None else place.queue}

    def of(self, message: StoredMessage) -> Returned | Unfit:
        """What goes back of it, and where."""
        if self._wanted.verb is QueueVerb.UNWRAP:
            return self._unwrapped(message)
        return Returned(self._store.revived(message), self._own(message.came_from))

    def _own(self, address: Address | None) -> Address | Untold:
        if address is None:
            return Untold("they do not say where they came from")
        if address.queue in self._here:
            return Untold(f"they name {address.queue} itself as their queue")
        return address

    def _unwrapped(self, wrapper: StoredMessage) -> Returned | Unfit:
        try:
            found = original(wrapper, self._wanted.fields)
            task = TaskMessage(
                id=found.id,
                task=found.task,
                queue=found.queue or self._wanted.to or self._wanted.queue,
                expires=None,
                origin=self._sender,
                args=found.args,
                kwargs=found.kwargs,
                priority=wrapper.priority,
            )
            made = replace(self._store.compose(task), priority=wrapper.priority)
        except NoOriginal as none:
            return Unfit(str(none))
        except PreconditionFailed as refused:
            return Unfit(refused.says)
        address = Untold("it is not said where their queue stands (-p origin=PATH)")
        told = address if found.queue is None else self._own(Address("", found.queue))
        return Returned(made, told, found.from_text)
