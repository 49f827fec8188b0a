"""How much of a queue is looked at for what is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.fleet import peeking
from celery_ops.fleet.peeking import Look, Placed, TaskGroup, by_task, look
from celery_ops.model import StoredMessage
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from collections.abc import Callable

SENT = 500


@pytest.fixture
def broker() -> StandinBroker:
    """A queue whose every tenth message is of another task."""
    fleet = StandinFleet(VirtualClock())
    for number in range(SENT):
        fleet.send("mail", task="app.rare" if number % 10 == 9 else "app.work")
    return StandinBroker(fleet)


def places(found: Look) -> list[int]:
    return [one.place for one in found.wanted]


async def test_no_more_is_looked_at_than_is_shown(broker: StandinBroker) -> None:
    found = await look(broker.messages, "mail", skip=0, limit=20)
    assert (found.ready, found.looked_at, found.left) == (SENT, 20, SENT - 20)
    assert places(found) == list(range(1, 21))


async def test_the_end_of_a_queue_ends_the_look(broker: StandinBroker) -> None:
    found = await look(broker.messages, "mail", skip=SENT - 5, limit=20)
    assert (found.skipped, found.looked_at, found.left) == (SENT - 5, 5, 0)
    assert places(found) == list(range(SENT - 4, SENT + 1))
    nothing = await look(broker.messages, "mail", skip=SENT, limit=20)
    assert (nothing.ready, nothing.looked_at, nothing.wanted) == (SENT, 0, ())
    empty = await look(broker.messages, "none", skip=0, limit=20)
    assert empty == Look(0, 0, 0, ())


async def test_a_filter_looks_until_it_has_enough(broker: StandinBroker) -> None:
    found = await look(
        broker.messages, "mail", skip=0, limit=3, wants=lambda one: one.task == "app.rare"
    )
    assert places(found) == [10, 20, 30]
    assert found.looked_at == 30
    on = await look(
        broker.messages, "mail", skip=30, limit=1, wants=lambda one: one.task == "app.rare"
    )
    assert places(on) == [40]


async def test_a_filter_that_nothing_fits_ends_at_its_bound(
    broker: StandinBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peeking, "MOST_LOOKED_AT", 450)
    found = await look(broker.messages, "mail", skip=0, limit=3, wants=lambda _: False)
    assert (found.looked_at, found.left, found.wanted) == (450, 50, ())
    monkeypatch.setattr(peeking, "MOST_BYTES", 1)
    found = await look(broker.messages, "mail", skip=0, limit=3, wants=lambda _: False)
    assert 0 < found.looked_at <= 200


@pytest.mark.parametrize(
    ("judge", "unknown", "wanted"),
    [(lambda _: None, SENT, 0), (lambda one: one.task == "app.rare" or None, 450, 50)],
)
async def test_what_cannot_be_judged_is_counted_and_not_shown(
    broker: StandinBroker,
    judge: Callable[[StoredMessage], bool | None],
    unknown: int,
    wanted: int,
) -> None:
    found = await look(broker.messages, "mail", skip=0, limit=1_000, wants=judge)
    assert (found.unknown, len(found.wanted)) == (unknown, wanted)


async def test_a_broker_that_is_lost_is_told(broker: StandinBroker) -> None:
    broker.is_down = True
    with pytest.raises(BrokerUnreachable):
        await look(broker.messages, "mail", skip=0, limit=1)


def test_messages_are_grouped_by_their_tasks() -> None:
    def of(task: str | None, retries: int | None = None) -> Placed:
        return Placed(1, StoredMessage(b"1234", task=task, retries=retries))

    found = Look(9, 0, 4, (of("a"), of("b", 2), of("b", 0), of(None)))
    assert by_task(found) == (
        TaskGroup("b", 2, 1, 0, 8),
        TaskGroup("a", 1, 0, 0, 4),
        TaskGroup(None, 1, 0, 0, 4),
    )
