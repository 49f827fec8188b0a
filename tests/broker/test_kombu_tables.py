"""Brokers that are a database: a real worker on SQLite."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.by_kombu.adapter import KombuBroker, connect
from celery_ops.config.secret import Secret
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.fleet.clock import SystemClock
from celery_ops.ports import Question
from tests.broker.contract import RefusingContract
from tests.rig import wait_until
from tests.rig.kombu_workers import KombuFleet
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.rig,
    # kombu's own models, on SQLAlchemy 2.1.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module", autouse=True)
def sqlalchemy() -> None:
    if importlib.util.find_spec("sqlalchemy") is None:
        missing("sqlalchemy: pip install 'kombu[sqlalchemy]'")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables") / "broker.db"


@pytest.fixture(scope="module")
def fleet(database: Path) -> Iterator[KombuFleet]:
    """One worker that holds two tasks, before another in its queue and three elsewhere."""
    made = KombuFleet(database.parent, f"sqla+sqlite:///{database}", {})
    made.start("w1@lab", queues=("mail",))
    made.send("mail", 3)
    made.send("nobody", 3)
    # One that runs, and another that was prefetched: more are not taken before the first ends.
    wait_until(lambda: made.workers[0].log.read_text().count("received") == 2, what="held tasks")
    yield made
    made.stop()


@pytest.fixture
async def broker(fleet: KombuFleet) -> AsyncIterator[KombuBroker]:
    made = connect(Secret(fleet.url), fleet.options, clock=SystemClock())
    yield made
    await made.close()


class TestTables(RefusingContract):
    """What can be told of a fleet on a database."""


def rows(database: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        assert {"kombu_queue", "kombu_message"} <= set(tables)
        queues = connection.execute("SELECT * FROM kombu_queue ORDER BY id").fetchall()
        return queues + connection.execute("SELECT * FROM kombu_message ORDER BY id").fetchall()


async def test_sizes_are_the_numbers_of_rows_that_wait(
    broker: KombuBroker, fleet: KombuFleet, database: Path
) -> None:
    reading = await broker.queues(["never-used"])
    with closing(sqlite3.connect(database)) as connection:
        count = "SELECT count(*) FROM kombu_message WHERE visible"
        (waiting,) = connection.execute(count).fetchone()
    sizes = {queue.name: queue.ready for queue in reading.queues}
    assert sizes == {"mail": waiting - 3, "never-used": 0, "nobody": 3}
    assert {queue.unacked for queue in reading.queues} == {None}
    assert fleet.workers


async def test_watching_changes_not_a_row(broker: KombuBroker, database: Path) -> None:
    before = rows(database)
    for _ in range(3):
        await broker.queues(["never-used"])
        await broker.ask([Question.PING], to=None, timeout=1.0)
        with pytest.raises(PreconditionFailed, match="take them out"):
            await broker.messages.peek("mail", skip=0, count=1)
    assert rows(database) == before


async def test_workers_that_cannot_be_asked_are_unknown_and_not_gone(broker: KombuBroker) -> None:
    asked = await broker.ask([Question.PING], to=None, timeout=1.0)
    assert (asked.complete, asked.expected) == (False, None)
    assert "do not listen to questions" in asked.unasked
    assert await broker.nodes() is None


async def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    broker = connect(Secret(f"sqla+sqlite:///{path}"), {}, clock=SystemClock())
    try:
        with pytest.raises(BrokerUnreachable, match=f"There is no database {path}"):
            await broker.queues([])
        path.touch()
        assert [queue.ready for queue in (await broker.queues(["mail"])).queues] == [0]
    finally:
        await broker.close()
    assert path.read_bytes() == b"", "no table was made either"
