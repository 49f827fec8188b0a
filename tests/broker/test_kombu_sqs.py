"""Amazon's queues, as moto plays them: there is no server of theirs to run."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker.by_kombu.adapter import KombuBroker, connect
from celery_ops.config.secret import Secret
from celery_ops.errors import PreconditionFailed
from celery_ops.fleet.clock import SystemClock
from celery_ops.ports import Question
from tests.broker.contract import RefusingContract
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# What botocore and moto do with dates is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OPTIONS = {"region": "us-east-1", "queue_name_prefix": "shop-"}


@pytest.fixture
def account() -> Iterator[Any]:
    """An account with 5 messages for `mail`, of which 2 are held, and a queue of others."""
    for module in ("boto3", "moto"):
        if importlib.util.find_spec(module) is None:
            missing(f"{module}: pip install celery-ops[dev]")
    boto3: Any = importlib.import_module("boto3")
    with importlib.import_module("moto").mock_aws():
        client = boto3.client("sqs", region_name="us-east-1")
        for queue in ("shop-mail", "shop-idle", "others"):
            client.create_queue(QueueName=queue)
        url = client.get_queue_url(QueueName="shop-mail")["QueueUrl"]
        for _ in range(5):
            client.send_message(QueueUrl=url, MessageBody="{}")
        client.receive_message(QueueUrl=url, MaxNumberOfMessages=2, VisibilityTimeout=3600)
        yield client


@pytest.fixture
async def broker(account: Any) -> AsyncIterator[KombuBroker]:
    del account
    made = connect(Secret("sqs://KEY:s3cr3t-word@"), OPTIONS, clock=SystemClock())
    yield made
    await made.close()


class TestSqs(RefusingContract):
    """What can be told of a fleet on SQS."""


async def test_ready_and_held_messages_of_the_prefixs_queues_are_told(broker: KombuBroker) -> None:
    reading = await broker.queues(["never-used"])
    found = {queue.name: (queue.ready, queue.unacked) for queue in reading.queues}
    assert found == {"mail": (3, 2), "idle": (0, 0), "never-used": (0, 0)}
    assert "approximately" in reading.notes[0]
    assert "s3cr3t" not in broker.address


async def test_watching_makes_no_queue_and_takes_no_message(
    broker: KombuBroker, account: Any
) -> None:
    before = account.list_queues()["QueueUrls"]
    for _ in range(2):
        await broker.queues(["never-used"])
        asked = await broker.ask([Question.PING], to=None, timeout=1.0)
        assert "do not listen to questions" in asked.unasked
        with pytest.raises(PreconditionFailed):
            await broker.messages.peek("mail", skip=0, count=1)
    assert account.list_queues()["QueueUrls"] == before
    assert [(one.ready, one.unacked) for one in (await broker.queues([])).queues] == [
        (0, 0),
        (3, 2),
    ]
