"""Simulated nodes on RabbitMQ: a thread that is bound to the control exchange n times, and answers.

Like `nodes`, for what real workers do not do on demand. All share one connection.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import amqp

from celery_ops.broker.rabbit.address import parse
from celery_ops.config.secret import Secret
from tests.rig.nodes import answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.rig.nodes import Node

_TICK = 0.1


def connection(url: str) -> Any:
    """A connection of py-amqp's to the virtual host of a URL; to be closed."""
    address = parse(Secret(url), {})
    made: Any = amqp.Connection(
        address.place,
        userid=address.username,
        password=address.password.reveal(),
        virtual_host=address.vhost,
        login_method="PLAIN",
    )
    made.connect()
    return made


def declare(url: str, *queues: str, **how: Any) -> None:
    """Declare durable queues, as a worker does that consumes them."""
    with connection(url) as made:
        channel = made.channel()
        for queue in queues:
            channel.queue_declare(queue, durable=True, auto_delete=False, **how)


class AmqpNodes:
    """Nodes on the virtual host of a URL; they listen when the constructor returns."""

    def __init__(self, url: str, nodes: Sequence[Node], *, exchange: str = "celery.pidbox") -> None:
        self._connection = connection(url)
        self._channel: Any = self._connection.channel()
        self._channel.exchange_declare(exchange, "fanout", durable=False, auto_delete=False)
        self._asked: deque[tuple[Node, int, amqp.Message]] = deque()
        for number, node in enumerate(nodes):
            queue = f"{node.name}.{exchange}"
            self._channel.queue_declare(queue, exclusive=True, auto_delete=True)
            self._channel.queue_bind(queue, exchange)
            self._channel.basic_consume(
                queue, no_ack=True, callback=partial(self._note, node, 10_000 + number)
            )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated nodes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=_TICK)
            while self._asked:
                self._answer(*self._asked.popleft())

    def _note(self, node: Node, pid: int, message: amqp.Message) -> None:
        # Not answered right here: py-amqp reads on while it publishes, and the later question would
        # be answered first.
        self._asked.append((node, pid, message))

    def _answer(self, node: Node, pid: int, message: amqp.Message) -> None:
        asked = json.loads(message.body)
        method = asked["method"]
        if asked["destination"] and node.name not in asked["destination"]:
            return
        if node.answers is not None and method not in node.answers:
            return
        time.sleep(node.delay)
        reply = amqp.Message(
            json.dumps({node.name: answer(node, method, pid)}),
            content_type="application/json",
            content_encoding="utf-8",
            application_headers={"ticket": asked["ticket"], "clock": 1},
        )
        to = asked["reply_to"]
        self._channel.basic_publish(reply, exchange=to["exchange"], routing_key=to["routing_key"])
