"""`sqs://`: what Amazon says of the queues whose names begin with `queue_name_prefix`.

kombu's own `_size` makes the queue that it is asked about. Here the queues that are there are
listed, and their counters read, by the client that kombu's channel has made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_ops.ports import QueueReading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from celery_ops.broker.by_kombu.address import KombuAddress
    from celery_ops.broker.by_kombu.link import Channel, Session

MOST = 100
"""Queues that are looked at: each is a call of its own, some tens of milliseconds long."""
_READY, _HELD = "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"
Client = Any


class SqsSizes:
    """Implements `Sizes` by Amazon's API."""

    notes = (
        "Exact numbers: Amazon counts ready and unacked approximately, and some seconds late. A"
        " message that a dead worker held comes back after its visibility timeout.",
    )
    unlisted = f"Queues beyond the first {MOST}, or without the queue_name_prefix of this context."

    def __init__(self, address: KombuAddress) -> None:
        self._prefix = str(address.options.get("queue_name_prefix", ""))

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        found = {}
        urls = self._urls(session.channel)
        for name, url in sorted(urls.items())[:MOST]:
            client = session.channel.sqs(queue=name)
            counters = _counters(client, url)
            if counters is not None:
                queue = name.removeprefix(self._prefix)
                found[queue] = QueueReading(queue, counters[_READY], counters[_HELD])
        gone = (QueueReading(name, 0, 0) for name in known if f"{self._prefix}{name}" not in urls)
        return (*found.values(), *gone)

    def _urls(self, channel: Channel) -> Mapping[str, str]:
        """By the queues' own names."""
        if channel.predefined_queues:
            return {name: str(one["url"]) for name, one in channel.predefined_queues.items()}
        listed = channel.sqs().list_queues(QueueNamePrefix=self._prefix).get("QueueUrls", ())
        return {url.rpartition("/")[2]: url for url in listed}


def _counters(client: Client, url: str) -> Mapping[str, int] | None:
    """None for one that was deleted meanwhile."""
    try:
        told = client.get_queue_attributes(QueueUrl=url, AttributeNames=[_READY, _HELD])
    except client.exceptions.QueueDoesNotExist:
        return None
    return {name: int(value) for name, value in told["Attributes"].items()}
