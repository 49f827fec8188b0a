"""Asks workers by Celery's own protocol on a bare Redis client: nothing of celery_ops is in it.

So what the product says of a fleet can be checked against somebody who knows nothing of it. Its
replies go to a list and a binding of its own, both with an expiry.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from redis import Redis

_EXCHANGE = "reply.rig.pidbox"
_EXPIRY = 60
_SENTINEL = b"-"
SAMPLES_PER_SECOND = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process said; two processes under one name are two answers."""

    node: str
    value: Any


class Poller:
    """Sends control messages to all workers of one broker and collects their replies."""

    def __init__(self, redis: Redis, *, db: int = 0) -> None:
        self._redis: Any = redis  # redis-py is typed only in part
        self._channel = f"/{db}.celery.pidbox"
        self._oid = str(uuid.uuid4())
        self._list = f"{self._oid}.{_EXCHANGE}"
        self._binding = f"_kombu.binding.{_EXCHANGE}"

    def ask(self, method: str, *, patience: float = 2.0) -> list[Answer]:
        """Everybody's answer; those who listen and do not answer are waited for `patience` s."""
        deadline = time.monotonic() + patience
        ticket = str(uuid.uuid4())
        expected = self._send(method, ticket)
        answers: list[Answer] = []
        while len(answers) < expected and time.monotonic() < deadline:
            with self._redis.pipeline() as pipe:
                pipe.lrange(self._list, 0, -2)
                pipe.ltrim(self._list, -1, -1)
                replies, _ = pipe.execute()
            for reply in map(json.loads, replies):
                if reply["headers"]["ticket"] != ticket:
                    continue  # somebody's late answer to an earlier question
                ((node, value),) = json.loads(base64.b64decode(reply["body"])).items()
                answers.append(Answer(node, value))
            time.sleep(0.005)
        self._redis.delete(self._list)
        return answers

    def consuming(self) -> dict[str, list[dict[str, Any]]]:
        """What each worker consumes, with all that it says of each queue."""
        answers = self.ask("active_queues")
        return {
            answer.node: sorted(answer.value, key=lambda queue: str(queue["name"]))
            for answer in answers
        }

    def consumers(self) -> Counter[str]:
        """How many processes consume each queue."""
        return Counter(
            queue["name"] for answer in self.ask("active_queues") for queue in answer.value
        )

    def _send(self, method: str, ticket: str) -> int:
        body = {
            "method": method,
            "arguments": {},
            "destination": None,
            "pattern": None,
            "matcher": None,
            "ticket": ticket,
            "reply_to": {"exchange": _EXCHANGE, "routing_key": self._oid},
        }
        message = {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": time.time() + _EXPIRY},
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
        with self._redis.pipeline() as pipe:
            pipe.delete(self._list)
            pipe.rpush(self._list, _SENTINEL)
            pipe.expire(self._list, _EXPIRY)
            pipe.sadd(self._binding, f"{self._oid}\x06\x16\x06\x16{self._list}")
            pipe.expire(self._binding, _EXPIRY)
            pipe.publish(self._channel, json.dumps(message))
            listeners: int = pipe.execute()[-1]
        return listeners


class Sampler:
    """Counts the consumers of every queue, five times a second, while it is entered.

    `samples` are the counts; a queue that nobody consumes is missing in a sample.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._fallen: list[Exception] = []
        self.samples: list[Counter[str]] = []

    def least(self, queue: str) -> int:
        """The fewest consumers that were ever seen of a queue."""
        return min(sample[queue] for sample in self.samples)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._fallen:
            raise self._fallen[0]

    def _sample(self) -> None:
        begun = time.monotonic()
        try:
            while not self._over.is_set():
                self.samples.append(self._poller.consumers())
                passed = time.monotonic() - begun
                self._over.wait(1 / SAMPLES_PER_SECOND - passed % (1 / SAMPLES_PER_SECOND))
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for the thread
            self._fallen.append(error)
