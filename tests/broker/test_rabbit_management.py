"""What RabbitMQ's management API tells beyond AMQP, and what the server is spared by that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import amqp
import pytest

from celery_ops.broker.rabbit import address as amqp_address
from celery_ops.broker.rabbit import sizes
from celery_ops.broker.rabbit.management import Management
from celery_ops.config.secret import Secret
from tests.rig import eventually
from tests.rig.amqp_nodes import connection, declare

if TYPE_CHECKING:
    from tests.broker.conftest import MakeRabbit
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import Certificates

pytestmark = pytest.mark.rig

PATIENCE = 60.0


async def test_the_numbers_over_tls_are_those_of_rabbitmqctl(
    rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer, certificates: Certificates
) -> None:
    """Of classic and quorum queues in a virtual host of their own, while some are held."""
    vhost = rabbit.rsplit("/", 1)[1]
    broker = make_rabbit(
        f"amqps://guest:guest@127.0.0.1:{shared_rabbit.tls_port}/{vhost}",
        ssl={"ca_certs": str(certificates.authority)},
        management=shared_rabbit.management,
    )
    kinds = {"urgent": {"x-max-priority": 9}, "sure": {"x-queue-type": "quorum"}, "nobody": {}}
    for name, arguments in kinds.items():
        declare(rabbit, name, arguments=arguments)
    with connection(rabbit) as consumer:
        channel = consumer.channel()
        channel.basic_qos(0, 3, a_global=False)
        for number, name in enumerate(kinds):
            for priority in range(5 + number):
                channel.basic_publish(amqp.Message("{}", priority=priority), routing_key=name)
            if name != "nobody":
                channel.basic_consume(name, callback=lambda _: None)

        async def is_told() -> bool:
            told = (await broker.queues([*kinds])).queues
            columns = ("name", "messages_ready", "messages_unacknowledged", "consumers")
            text = shared_rabbit.control(
                "-q", "-p", vhost, "list_queues", "--no-table-headers", *columns
            )
            listed = {tuple(line.split("\t")) for line in text.splitlines()}
            shown = {
                (one.name, str(one.ready), str(one.unacked), str(one.consumers)) for one in told
            }
            wanted = {
                ("urgent", "2", "3", "1"),
                ("sure", "3", "3", "1"),
                ("nobody", "7", "0", "0"),
            }
            return shown == listed == wanted

        await eventually(is_told, "all have counted what is held")


async def test_with_the_management_api_nothing_is_looked_for_that_is_not_there(
    rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer
) -> None:
    """Each look in vain leaves an error in the server's log."""
    broker = make_rabbit(rabbit, management=shared_rabbit.management)
    declare(rabbit, "mail", arguments={"x-max-priority": 9, "x-max-length": 50})
    before = channel_errors(shared_rabbit)
    for _ in range(2):
        queues = (await broker.queues(["mail", "none"])).queues
        assert [(one.name, one.ready, one.consumers) for one in queues] == [
            ("mail", 0, 0),
            ("none", 0, 0),
        ]
        assert await broker.taken() == ()
        assert await broker.messages.peek("mail", skip=0, count=1) == ()
        assert await broker.messages.peek("none", skip=0, count=1) == ()
    assert channel_errors(shared_rabbit) == before


def channel_errors(server: RabbitServer) -> list[str]:
    """What the server logged of refused calls, on channels of ours."""
    lines = [
        line for path in (server.directory / "log").glob("*.log")
        for line in path.read_text(errors="replace").splitlines()
    ]  # fmt: skip
    return [line for line in lines if "Channel error on connection" in line]


@pytest.mark.parametrize("policy", [None, {"max-length": 20}])
async def test_the_management_api_tells_what_a_queue_is(
    rabbit: str,
    shared_rabbit: RabbitServer,
    policy: dict[str, int] | None,
) -> None:
    """A limit by a policy, too, which AMQP does not tell."""
    address = amqp_address.parse(Secret(rabbit), {})
    management = Management(Secret(shared_rabbit.management), address)
    declare(rabbit, "mail", arguments={"x-max-priority": 9, "x-max-length": 50})
    declare(rabbit, "sure", arguments={"x-queue-type": "quorum"})
    vhost = rabbit.rsplit("/", 1)[1]
    if policy is not None:
        body = json.dumps({"pattern": "^mail$", "definition": policy}).encode()
        shared_rabbit.api("PUT", f"policies/{vhost}/limit", body)

    async def is_told() -> bool:
        mail = await management.nature("mail")
        assert mail is not None
        assert (mail.kind, mail.top_priority) == ("classic", 9)
        return mail.most_messages == (20 if policy else 50)

    await eventually(is_told, "the limit")
    sure = await management.nature("sure")
    assert sure is not None
    assert sure.kind == "quorum"
    assert await management.nature("none") is None


async def test_of_more_queues_than_can_be_asked_the_consumers_are_told_too(
    rabbit: str,
    make_rabbit: MakeRabbit,
    shared_rabbit: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sizes, "MOST_OTHERS", 2)
    broker = make_rabbit(rabbit, management=shared_rabbit.management)
    names = [f"q{number}" for number in range(6)]
    declare(rabbit, *names)
    with connection(rabbit) as consumer:
        channel = consumer.channel()
        for _ in range(3):
            channel.basic_publish(amqp.Message("{}"), routing_key="q5")
        channel.basic_qos(0, 1, a_global=False)
        channel.basic_consume("q5", callback=lambda _: None)

        async def is_told() -> bool:
            reading = await broker.queues([])
            assert [one.name for one in reading.queues] == names
            *others, last = [(one.ready, one.unacked, one.consumers) for one in reading.queues]
            return last == (2, 1, 1) and set(others) == {(0, 0, 0)}

        await eventually(is_told, "who consumes the last one")
