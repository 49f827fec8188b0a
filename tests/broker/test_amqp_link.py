"""One connection to RabbitMQ in a thread: what is repeated, what is not, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Protocol

import pytest

from celery_ops.broker.rabbit import address as amqp_address
from celery_ops.broker.rabbit.link import AmqpLink
from celery_ops.broker.refusals import Lost, Refused
from celery_ops.config.secret import Secret
from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.broker.rabbit.link import Session
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import Certificates

pytestmark = pytest.mark.rig


class MakeLink(Protocol):
    """Makes links that are closed at the end of the test."""

    def __call__(self, url: str, *, one_life: bool = False, **options: object) -> AmqpLink: ...


@pytest.fixture
async def make_link() -> AsyncIterator[MakeLink]:
    made: list[AmqpLink] = []

    def make(url: str, *, one_life: bool = False, **options: object) -> AmqpLink:
        address = amqp_address.parse(Secret(url), options)
        made.append(AmqpLink(address, "a test", one_life=one_life))
        return made[-1]

    yield make
    for link in made:
        await link.close()


def cut(session: Session) -> None:
    """As a network that goes away: the next use finds the connection dead."""
    session.connection.sock.shutdown(socket.SHUT_RDWR)


async def test_a_missing_queue_has_no_size_and_closes_nothing(
    rabbit: str, make_link: MakeLink
) -> None:
    link = make_link(rabbit)
    await link.write(lambda session: session.connection.channel().queue_declare("q"))
    sizes = [await link.read(lambda session: session.size("none")) for _ in range(2)]
    assert sizes == [None, None]
    assert await link.read(lambda session: session.size("q")) == (0, 0)


async def test_another_connections_own_queue_is_there_and_cannot_be_used(
    rabbit: str, make_link: MakeLink
) -> None:
    owner, other = make_link(rabbit), make_link(rabbit)
    await owner.write(
        lambda session: session.connection.channel().queue_declare("q", exclusive=True)
    )
    assert await other.read(lambda session: session.exists("q"))
    assert not await other.read(lambda session: session.exists("none"))
    with pytest.raises(Refused, match="RESOURCE_LOCKED"):
        await other.read(lambda session: session.size("q"))


async def test_a_read_is_repeated_once_when_its_connection_is_dead(
    rabbit: str, make_link: MakeLink
) -> None:
    link = make_link(rabbit)
    seen: list[int] = []

    def work(session: Session) -> object:
        seen.append(1)
        if len(seen) == 1:
            cut(session)
        return session.size("none")

    await link.read(lambda session: session.size("none"))
    assert await link.read(work) is None
    assert len(seen) == 2


async def test_a_write_is_never_repeated(rabbit: str, make_link: MakeLink) -> None:
    link = make_link(rabbit)
    seen: list[int] = []

    def work(session: Session) -> object:
        seen.append(1)
        cut(session)
        return session.size("none")

    await link.read(lambda session: session.size("none"))
    with pytest.raises(Lost):
        await link.write(work)
    assert len(seen) == 1
    assert await link.write(lambda session: session.size("none")) is None


async def test_one_life_is_over_with_its_connection(rabbit: str, make_link: MakeLink) -> None:
    link, other = make_link(rabbit, one_life=True), make_link(rabbit)
    await link.write(
        lambda session: session.connection.channel().queue_declare("q", exclusive=True)
    )
    await link.read(cut)
    with pytest.raises(Lost):
        await link.read(lambda session: session.size("q"))
    assert link.is_over
    with pytest.raises(Lost):
        await link.read(lambda session: session.size("q"))
    async with asyncio.timeout(20):
        while await other.read(lambda session: session.exists("q")):
            await asyncio.sleep(0.01)


async def test_a_loss_that_nobody_waits_for_is_told(rabbit: str, make_link: MakeLink) -> None:
    link = make_link(rabbit, one_life=True)
    told = threading.Event()

    def work(session: Session) -> None:
        session.at_end(lambda _: told.set())
        cut(session)

    await link.read(work)
    assert await asyncio.to_thread(told.wait, 20)
    assert link.is_over


async def test_a_deadline_frees_the_thread_and_what_was_given_up_is_not_done_again(
    rabbit: str, make_link: MakeLink
) -> None:
    link = make_link(rabbit)
    seen: list[int] = []

    def work(session: Session) -> object:
        seen.append(1)
        return session.wait(600)

    await link.read(lambda session: session.size("none"))
    with pytest.raises(BrokerUnreachable, match=r"does not answer within 0\.3 s"):
        await link.read(work, deadline=0.3)
    assert await link.read(lambda session: session.size("none")) is None
    assert len(seen) == 1


async def test_what_work_raises_is_raised_where_it_is_awaited(
    rabbit: str, make_link: MakeLink
) -> None:
    link = make_link(rabbit)

    def work(session: Session) -> None:
        raise KeyError(session.address.vhost)

    with pytest.raises(KeyError):
        await link.read(work)
    assert await link.read(lambda session: session.size("none")) is None


async def test_heartbeats_go_on_while_nobody_asks(rabbit: str) -> None:
    address = amqp_address.parse(Secret(rabbit), {})
    link = AmqpLink(address, "a test", heartbeat=1.0, one_life=True)
    try:
        await link.read(lambda session: session.size("none"))
        await asyncio.sleep(4)
        assert await link.read(lambda session: session.size("none")) is None
    finally:
        await link.close()


async def test_a_closed_link_has_no_thread_and_says_so(rabbit: str, make_link: MakeLink) -> None:
    link = make_link(rabbit)
    await link.read(lambda session: session.size("none"))
    await link.close()
    await link.close()
    with pytest.raises(BrokerUnreachable, match="closed by us"):
        await link.read(lambda session: session.size("none"))
    async with asyncio.timeout(20):
        while any(thread.name == "celery-ops a test" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_a_server_that_hangs_is_given_up_in_time(make_link: MakeLink) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as mute:
        link = make_link(f"amqp://127.0.0.1:{mute.getsockname()[1]}/")
        with pytest.raises(BrokerUnreachable, match="does not answer"):
            await link.read(lambda session: session.size("none"))


async def test_a_tls_connection_works_and_trusts_whom_it_shall(
    shared_rabbit: RabbitServer, certificates: Certificates, make_link: MakeLink
) -> None:
    url = f"amqps://127.0.0.1:{shared_rabbit.tls_port}/"
    trusting = make_link(url, ssl={"ca_certs": str(certificates.authority)})
    assert await trusting.read(lambda session: session.size("none")) is None
    with pytest.raises(BrokerUnreachable, match="is not trusted"):
        await make_link(url).read(lambda session: session.size("none"))
    with pytest.raises(BrokerUnreachable, match="agree on TLS"):
        await make_link(f"amqps://127.0.0.1:{shared_rabbit.port}/").read(lambda s: s.size("none"))


@pytest.mark.parametrize(
    ("login", "vhost", "says"),
    [
        ("guest:wr0ng-one", "/", "refuses the user name or the password"),
        ("nobody:wr0ng-one", "/", "refuses the user name or the password"),
        ("guest:guest", "nowhere", "has no virtual host 'nowhere'"),
    ],
)
async def test_what_is_wrong_with_a_url_is_said(
    login: str, vhost: str, says: str, shared_rabbit: RabbitServer, make_link: MakeLink
) -> None:
    link = make_link(shared_rabbit.url(vhost, login=login))
    with pytest.raises(BrokerUnreachable, match=says) as refused:
        await link.read(lambda session: session.size("none"))
    assert "wr0ng-one" not in str(refused.value)
    assert refused.value.fix


async def test_a_port_where_nobody_listens_is_said(make_link: MakeLink) -> None:
    with pytest.raises(BrokerUnreachable, match="Nothing listens at 127"):
        await make_link("amqp://127.0.0.1:1/").read(lambda session: session.size("none"))
