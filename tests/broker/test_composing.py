"""Messages of tasks as they are composed here, beside those that Celery itself sends."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_ops.broker import composing
from celery_ops.broker.rabbit import messages
from celery_ops.errors import PreconditionFailed
from celery_ops.model import TaskMessage

if TYPE_CHECKING:
    from tests.broker.conftest import MakeRabbit

LATER = datetime(2126, 11, 20, tzinfo=UTC)
PING = TaskMessage("id-1", "app.ping", "mail", LATER, "celery-ops run r by ann")
FULL = TaskMessage(
    "id-2", "shop.mail", "mail", None, "gen1@shop", args=(1, "two", None, [1.5]),
    kwargs={"to": "ann", "é": {"deep": True}}, retries=3, eta=LATER, priority=5,
    root="root-1", parent="parent-1", tag="tag-1",
)  # fmt: skip


def send(app: Celery, task: TaskMessage, **how: Any) -> None:
    """As an application sends it."""
    app.send_task(
        task.task, tuple(task.args), dict(task.kwargs), task_id=task.id, queue=task.queue,
        expires=task.expires, eta=task.eta, retries=task.retries, priority=task.priority,
        root_id=task.root, parent_id=task.parent, **how,
    )  # fmt: skip


@pytest.mark.parametrize("task", [PING, FULL], ids=["plain", "full"])
def test_a_task_is_sent_as_celery_itself_sends_it(task: TaskMessage) -> None:
    ours = json.loads(composing.envelope(task))
    with Celery(broker="memory://", set_as_current=False) as app, app.connection() as connection:
        queue = connection.SimpleQueue("mail")
        send(app, task, connection=connection)
        theirs: Any = connection.default_channel._get("mail")
        queue.close()
    assert ours.keys() == theirs.keys()
    assert ours["headers"] == theirs["headers"] | {"origin": task.origin}
    assert b64(ours["body"]) == b64(theirs["body"])
    own: dict[str, object] = {"delivery_tag": task.tag or task.id}
    own |= {"delivery_info": {"exchange": "", "routing_key": "mail"}}
    said = theirs["properties"] | {"reply_to": ""}
    said.pop("expiration", None)  # for brokers that drop messages by themselves; Redis does not
    assert ours["properties"] == said | own
    assert {key: ours[key] for key in ("content-type", "content-encoding")} == {
        "content-type": theirs["content-type"],
        "content-encoding": theirs["content-encoding"],
    }
    assert composing.envelope(task) == composing.envelope(task)


def b64(text: str) -> Any:
    return json.loads(base64.b64decode(text))


def test_the_types_of_its_headers_are_those_of_amqp() -> None:
    content = messages.composed(FULL)
    properties: Any = content.properties
    told = properties.pop("application_headers")
    assert told == composing.headers(FULL)
    assert properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "priority": 5,
        "correlation_id": "id-2",
    }
    assert json.loads(content.body)[:2] == [list(FULL.args), dict(FULL.kwargs)]


def _nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "task",
    [
        replace(FULL, args=(object(),)),
        replace(FULL, args=(_nested(100_000),)),
        replace(FULL, task="x" * 256),
        replace(FULL, id="\ud800"),
        replace(FULL, queue=""),
    ],
    ids=["no JSON", "deep", "long", "no UTF-8", "no name"],
)
def test_what_no_message_can_hold_is_refused(task: TaskMessage) -> None:
    with pytest.raises(PreconditionFailed, match="cannot be sent"):
        composing.envelope(task)
    with pytest.raises(PreconditionFailed, match="cannot be sent"):
        messages.composed(task)


@pytest.mark.rig
async def test_rabbitmq_is_sent_what_celery_itself_sends(
    rabbit: str, make_rabbit: MakeRabbit
) -> None:
    app = Celery(broker=rabbit, set_as_current=False)
    app.conf.broker_transport_options = {"confirm_publish": True}
    with app:
        send(app, FULL)
    broker = make_rabbit(rabbit)
    (theirs,) = await broker.messages.peek("mail", skip=0, count=1)
    ours = broker.store.compose(FULL)
    said, own = json.loads(theirs.raw)["properties"], json.loads(ours.raw)["properties"]
    del said["reply_to"]  # where a reply is awaited, which nobody does of ours
    assert own == json.loads(json.dumps(said).replace(theirs.origin or "?", FULL.origin))
    assert ours.body == theirs.body
