"""Brokers of files: real workers, watched through kombu's own transport for them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker import composing
from celery_ops.broker.by_kombu import address as kombu_address
from celery_ops.broker.by_kombu.adapter import KombuBroker, connect
from celery_ops.broker.by_kombu.files import FORGOTTEN_AFTER, FileSizes
from celery_ops.broker.by_kombu.post import FanoutPost
from celery_ops.config.secret import Secret
from celery_ops.errors import BrokerUnreachable
from celery_ops.fleet.clock import SystemClock
from celery_ops.model import Targets
from celery_ops.ports import Question
from tests.broker.contract import PING, AskingContract, RefusingContract
from tests.broker.reading_contract import IDS, ReadingContract
from tests.rig import wait_until
from tests.rig.kombu_workers import KombuFleet, channel, contents, on_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from celery_ops.ports import Broker

pytestmark = pytest.mark.rig

WORKERS = ["w1@lab", "w2@lab"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KombuFleet]:
    """Two workers, and a queue that nobody consumes."""
    made = on_files(tmp_path_factory.mktemp("files"))
    made.start(*WORKERS)
    made.send("nobody", 3)
    yield made
    made.stop()


@pytest.fixture
async def broker(fleet: KombuFleet) -> AsyncIterator[KombuBroker]:
    made = connect(Secret(fleet.url), fleet.options, clock=SystemClock())
    yield made
    await made.close()


class TestFiles(AskingContract, RefusingContract):
    """What can be told of a fleet on files."""

    @pytest.fixture
    def nodes(self) -> list[str]:
        return WORKERS


class TestByFanout(AskingContract):
    """Workers asked as on the transports that keep nothing for who is gone."""

    @pytest.fixture
    async def broker(self, fleet: KombuFleet) -> AsyncIterator[KombuBroker]:
        address = kombu_address.parse(Secret(fleet.url), fleet.options)
        assert address.folders is not None
        sizes = FileSizes(address, address.folders)
        made = KombuBroker(address, post=FanoutPost(address), sizes=sizes, clock=SystemClock())
        yield made
        await made.close()

    @pytest.fixture
    def nodes(self) -> list[str]:
        return WORKERS


class TestMessagesOfFiles(ReadingContract):
    """What waits there, which is read where it is."""

    @pytest.fixture
    def idle(self, tmp_path: Path) -> KombuFleet:
        return on_files(tmp_path)

    @pytest.fixture
    async def broker(self, idle: KombuFleet) -> AsyncIterator[KombuBroker]:
        made = connect(Secret(idle.url), idle.options, clock=SystemClock())
        yield made
        await made.close()

    @pytest.fixture
    def sent(self, idle: KombuFleet) -> list[str]:
        with channel(idle) as opened:
            for id_ in IDS:
                headers = composing.headers(PING) | {"id": id_}
                letter = opened.prepare_message(
                    composing.body(PING).decode(),
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers=headers,
                )
                opened.basic_publish(letter, "", PING.queue)
                time.sleep(0.002)  # kombu orders by the millisecond
        return IDS


async def sizes(broker: Broker, *known: str) -> dict[str, int]:
    return {one.name: one.ready for one in (await broker.queues(known)).queues}


async def test_sizes_are_the_numbers_of_files(broker: Broker, fleet: KombuFleet) -> None:
    files = list(contents(fleet.folder / "messages"))
    found = await sizes(broker, "never-used")
    assert found == {"celery": 0, "never-used": 0, "nobody": 3}
    assert sum(path.name.endswith(".nobody.msg") for path in files) == 3


async def test_what_is_not_known_is_said_and_never_zero(broker: Broker) -> None:
    reading = await broker.queues([])
    assert {queue.unacked for queue in reading.queues} == {None}
    assert {queue.consumers for queue in reading.queues} == {None}
    assert reading.unacked is None
    assert "What workers hold" in reading.notes[0]


async def test_watching_changes_not_a_file(broker: Broker, fleet: KombuFleet) -> None:
    folders = (fleet.folder / "messages", fleet.folder / "control")
    before = contents(*folders)
    for _ in range(3):
        await broker.ask(list(Question), to=None, timeout=10.0, known=WORKERS)
        await broker.queues(["celery"])
        await broker.messages.peek("nobody", skip=0, count=10)
    await broker.close()
    assert contents(*folders) == before


async def test_what_a_worker_does_not_read_is_taken_back(broker: Broker, fleet: KombuFleet) -> None:
    """A frozen one is asked in vain, and no question waits for it; it answers the next one."""
    frozen, _ = fleet.workers
    before = contents(fleet.folder / "messages")
    frozen.freeze()
    try:
        asked = await broker.ask([Question.PING], to=None, timeout=3.0, known=WORKERS)
        assert [reply.node for reply in asked.replies[Question.PING]] == ["w2@lab"]
        assert not asked.complete
        await broker.queues([])  # the link's next job: what was withdrawn before it is gone
        assert contents(fleet.folder / "messages") == before
    finally:
        frozen.thaw()
    again = await broker.ask([Question.PING], to=Targets(("w1@lab",)), timeout=10.0)
    assert again.complete


def bind(fleet: KombuFleet, node: str) -> None:
    """What is left of a worker that is gone: workers never give up their mailboxes."""
    with channel(fleet) as opened:
        opened.exchange_declare("celery.pidbox", type="fanout")
        opened.queue_bind(f"{node}.celery.pidbox", "celery.pidbox")


async def test_what_a_killed_celery_ops_has_left_is_removed_later(tmp_path: Path) -> None:
    fleet = on_files(tmp_path)
    bind(fleet, "gone@lab")
    folder = tmp_path / "messages"
    with channel(fleet) as opened:
        reply = f"{'0' * 32}.reply.celery-ops.pidbox"
        for queue, headers in (
            (reply, {}),
            ("gone@lab.celery.pidbox", {"celery-ops": "somebody ticket"}),
            ("gone@lab.celery.pidbox", {"of": "another tool"}),
            ("mail", {"celery-ops": "somebody ticket"}),
        ):
            letter = opened.prepare_message("{}", headers=headers)
            opened.basic_publish(letter, "", queue)
    kept = {path for path in folder.iterdir() if b"another tool" in path.read_bytes()}
    kept |= set(folder.glob("*.mail.msg"))
    broker = connect(Secret(fleet.url), fleet.options, clock=SystemClock())
    try:
        await broker.ask([Question.PING], to=None, timeout=0.0)
        assert len(set(folder.iterdir()) - kept) >= 2, "it may be in use"
        ago = time.time() - FORGOTTEN_AFTER - 60
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # the round's own are being removed
                os.utime(path, (ago, ago))
    finally:
        await broker.close()
    broker = connect(Secret(fleet.url), fleet.options, clock=SystemClock())
    try:
        await broker.ask([Question.PING], to=None, timeout=0.0)
    finally:
        await broker.close()
    wait_until(lambda: set(folder.iterdir()) == kept, what="only what is others' is left")


async def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    fleet = on_files(tmp_path)
    (tmp_path / "messages").rmdir()
    broker = connect(Secret(fleet.url), fleet.options, clock=SystemClock())
    try:
        with pytest.raises(BrokerUnreachable, match=f"There is no {tmp_path / 'messages'}"):
            await broker.queues([])
    finally:
        await broker.close()
    assert not (tmp_path / "messages").exists()


async def test_where_no_worker_ever_was_nobody_is_waited_for(tmp_path: Path) -> None:
    fleet = on_files(tmp_path)
    broker = connect(Secret(fleet.url), fleet.options, clock=SystemClock())
    try:
        asked = await broker.ask([Question.PING], to=None, timeout=3600.0)
    finally:
        await broker.close()
    assert asked.complete
    assert asked.replies[Question.PING] == ()
