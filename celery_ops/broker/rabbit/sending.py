"""Sends messages that are to be sent only once: one transaction with the note of their names.

The names are in a ledger of their own, a record for all that went together. Whoever sends is its
exclusive reader until the transaction is over, so nobody else can send under one of them meanwhile.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.broker.rabbit import names as amqp_names
from celery_ops.broker.rabbit.counts import publish
from celery_ops.broker.rabbit.ledger import Ledger, record
from celery_ops.broker.rabbit.link import body_of
from celery_ops.broker.rabbit.refusals import blocked
from celery_ops.errors import PreconditionFailed, RecordUnreadable
from celery_ops.ports import SENT_KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.broker.rabbit.content import Content
    from celery_ops.broker.rabbit.link import Session
    from celery_ops.broker.rabbit.transactions import Destination

_LEDGER = Ledger(amqp_names.SENT)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What was sent together; `at` in seconds since the epoch."""

    names: frozenset[str]
    at: float

    @classmethod
    def read(cls, body: bytes) -> _Sent:
        """Raise RecordUnreadable: something that it stands for could be sent twice."""
        try:
            said = json.loads(body)
            return cls(frozenset(said["names"]), float(said["at"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RecordUnreadable(
                f"The queue {_LEDGER.queue!r} holds something else than what was sent once."
            ) from error


def sent(session: Session) -> frozenset[str]:
    """Work for a link: all names that something was sent under. Raise LedgerBusy."""
    if not session.exists(_LEDGER.queue):
        return frozenset()
    return frozenset().union(*(_Sent.read(body).names for body in _LEDGER.read(session) or ()))


def send_once(
    session: Session, *, contents: Mapping[str, Content], to: Destination
) -> frozenset[str]:
    """Work for the lease's connection: send those whose names are new, and tell which. Raise
    LedgerBusy.
    """
    if session.blocked:
        raise blocked(session.address)
    _LEDGER.declare(session)
    with session.channel() as channel:
        channel.auto_decode = False
        returned: list[str] = []
        channel.events["basic_return"].add(lambda _error, _exchange, key, _: returned.append(key))
        channel.tx_select()
        kept = _LEDGER.delivered(session, channel)
        records = [_Sent.read(body_of(one)) for one in kept]
        names = frozenset(contents).difference(*(one.names for one in records))
        if not names:
            return frozenset()
        to.check_room(channel, len(names))
        for name in contents:
            if name in names:
                publish(channel, contents[name], to.queue)
        now = time.time()
        body = json.dumps({"names": sorted(names), "at": now}).encode()
        publish(channel, record(body), _LEDGER.queue)
        for one, said in zip(list(kept), records, strict=True):
            if said.at < now - SENT_KEPT:
                channel.basic_ack(one.delivery_tag)
        channel.tx_commit()
        if to.queue in returned:
            # Its queue went away in between: none of them is anywhere, and so is to be the record.
            while len(kept) == len(records):
                session.wait(0.05)
            channel.basic_ack(kept[-1].delivery_tag)
            channel.tx_commit()
            raise PreconditionFailed(f"The queue {to.queue!r} is not there any more.")
        return names
