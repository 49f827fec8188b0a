"""The poller for RabbitMQ: asks workers by Celery's own protocol, with nothing of celery_ops in it.

How many replies to wait for it learns from the management API: who is bound to the control
exchange.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import amqp

from tests.rig.poller import Answer, Poller

if TYPE_CHECKING:
    from tests.rig.rabbitmq import RabbitServer

_EXCHANGE = "reply.celery.pidbox"
_CONTROL = "celery.pidbox"


class AmqpPoller(Poller):
    """Sends control messages to all workers of one virtual host and collects their replies.

    Each question has a connection of its own, so that it can be asked in any thread.
    """

    def __init__(self, server: RabbitServer, vhost: str = "/") -> None:
        self._server = server
        self._vhost = vhost

    def ask(self, method: str, *, patience: float = 2.0) -> list[Answer]:
        deadline = time.monotonic() + patience
        answers: list[Answer] = []
        expected = self._listeners()
        if expected == 0:
            return answers
        oid = str(uuid.uuid4())

        def note(message: amqp.Message) -> None:
            ((node, value),) = json.loads(message.body).items()
            answers.append(Answer(node, value))

        with self._server.client(self._vhost) as connection:
            channel: Any = connection.channel()
            channel.exchange_declare(_EXCHANGE, "direct", durable=False, auto_delete=False)
            channel.queue_declare(oid, exclusive=True, auto_delete=True)
            channel.queue_bind(oid, _EXCHANGE, routing_key=oid)
            channel.basic_consume(oid, no_ack=True, callback=note)
            channel.basic_publish(_question(method, oid), exchange=_CONTROL)
            while len(answers) < expected and (left := deadline - time.monotonic()) > 0:
                try:
                    connection.drain_events(timeout=left)
                except TimeoutError:
                    break
        return answers

    def _listeners(self) -> int:
        vhost = quote(self._vhost, safe="")
        bindings = self._server.api("GET", f"exchanges/{vhost}/{_CONTROL}/bindings/source")
        return len(json.loads(bindings))


def _question(method: str, oid: str) -> amqp.Message:
    body = {
        "method": method,
        "arguments": {},
        "destination": None,
        "pattern": None,
        "matcher": None,
        "ticket": oid,
        "reply_to": {"exchange": _EXCHANGE, "routing_key": oid},
    }
    return amqp.Message(
        json.dumps(body),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=1,
        application_headers={"clock": 1, "expires": time.time() + 60},
    )
