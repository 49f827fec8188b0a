"""What kind of queue one is, and with which arguments it was declared. AMQP has no question for it.

But to declare a queue that is there changes nothing, and is refused with the first difference: so
it is declared until there is none. Nothing is refused, and nothing logged by the server, where a
queue is a classic one without arguments. What a policy says of a queue is not told in this way: the
management API, where there is one, tells all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amqp.exceptions import PreconditionFailed as Differs

from celery_ops.broker.rabbit.ledger import CLASSIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.broker.rabbit.link import Session

_DIFFERENCE = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for queue .*: received .+ but current is"
    r" (?:none|'(?P<same_type>.*)'|the value '(?P<value>.*)' of type '(?P<type>\w+)')",
    re.S,
)
_FLAGS = {"durable", "auto_delete"}
_WHOLE = {"signedint", "unsignedint", "long", "short", "byte", "unsignedbyte", "unsignedshort"}
_MOST_DIFFERENCES = 24
_KIND = "x-queue-type"


@dataclass(frozen=True, slots=True)
class Nature:
    """`kind` is classic, quorum or stream; None if it cannot be told, and then no argument is."""

    kind: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def top_priority(self) -> int:
        return self._whole("x-max-priority") or 0

    @property
    def most_messages(self) -> int | None:
        return self._whole("x-max-length")

    @property
    def most_bytes(self) -> int | None:
        return self._whole("x-max-length-bytes")

    def _whole(self, name: str) -> int | None:
        value = self.arguments.get(name)
        return value if isinstance(value, int) else None


def nature(session: Session, queue: str) -> Nature | None:
    """Work for a link; None if there is no such queue. Raise ResourceLocked for one that belongs to
    another connection.
    """
    if session.size(queue) is None:
        return None
    flags = {"durable": True, "auto_delete": False}
    arguments: dict[str, object] = dict(CLASSIC)
    for _ in range(_MOST_DIFFERENCES):
        with session.channel() as channel:
            try:
                channel.queue_declare(queue, **flags, arguments=arguments)
            except Differs as error:
                difference = _DIFFERENCE.search(str(error.reply_text))
            else:
                return Nature(str(arguments.get(_KIND, "classic")), arguments)
        if difference is None or not _learn(difference, flags, arguments):
            break
    return Nature()


def _learn(difference: re.Match[str], flags: dict[str, bool], arguments: dict[str, object]) -> bool:
    """Take over what it is declared with; False if that cannot be written."""
    name, type_ = difference["name"], difference["type"]
    current = difference["same_type"] if type_ is None else difference["value"]
    before = flags.get(name) if name in _FLAGS else arguments.get(name)
    if name in _FLAGS:
        flags[name] = current == "true"
    elif current is None:
        arguments.pop(name, None)
    elif type_ in _WHOLE:
        arguments[name] = int(current)
    elif type_ == "bool":
        arguments[name] = current == "true"
    elif type_ in {None, "longstr"}:
        arguments[name] = current
    else:
        return False
    return before != (flags.get(name) if name in _FLAGS else arguments.get(name))
