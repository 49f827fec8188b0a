"""What two readings tell of how messages come and go, and what they do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from celery_ops.fleet.flow import SPAN, Flows
from celery_ops.fleet.known import KnownNode
from celery_ops.model import UNWATCHED, ConsumedQueue, Flow, Heartbeat, Reading, Task
from celery_ops.ports import QueueReading, QueuesReading, Unacked

BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVERY = 2.0


@dataclass
class World:
    """Queues that are counted every two seconds, and workers that tell how much they have done."""

    ready: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    """The queue of each held message, by its tag."""
    tells_held: bool = True
    nodes: dict[str, KnownNode] = field(default_factory=dict)
    everybody_told: bool = True
    flows: Flows = field(default_factory=Flows)
    now: float = 0.0

    def worker(self, name: str, *queues: str, processed: int = 0, active: int = 0) -> KnownNode:
        """A worker as it is known now; said anew, it has processed that many."""
        at = BEGIN + timedelta(seconds=self.now)
        node = self.nodes.setdefault(name, KnownNode(name))
        node.heartbeat = Reading(
            Heartbeat(name, 1, active, processed, None, None, 2.0, online=True), at
        )
        node.replied_at = at
        consumed = tuple(ConsumedQueue(queue, "{}") for queue in queues)
        node.consuming, node.consumed_before = Reading(consumed, at), consumed
        return node

    def count(self) -> None:
        at = BEGIN + timedelta(seconds=self.now)
        queues = tuple(
            QueueReading(
                name,
                ready,
                sum(queue == name for queue in self.held.values()) if self.tells_held else None,
            )
            for name, ready in self.ready.items()
        )
        held = tuple(Unacked(tag, tag, queue, at) for tag, queue in self.held.items())
        reading = QueuesReading(at, queues, held if self.tells_held else None)
        self.flows.note(reading, self.nodes.values(), self.now, everybody_told=self.everybody_told)
        self.now += EVERY

    def flow(self, queue: str = "mail") -> Flow:
        return self.flows.all()[queue]


def test_one_look_tells_no_rate() -> None:
    world = World({"mail": 5})
    world.count()
    assert world.flow() is UNWATCHED


def test_what_comes_to_a_queue_that_nobody_consumes_is_known_exactly() -> None:
    world = World({"mail": 5})
    world.count()
    world.ready["mail"] = 9
    world.count()
    assert world.flow() == Flow(2.0, 2.0, 0.0, 2.0)


def test_consumers_of_one_queue_tell_its_completions_and_so_its_arrivals() -> None:
    """Ten were processed and one of these still runs, while it grew by four."""
    world = World({"mail": 5})
    world.worker("a@x", "mail", processed=100)
    world.count()
    world.worker("a@x", "mail", processed=110, active=1)
    world.ready["mail"] = 9
    world.count()
    assert world.flow() == Flow(2.0, 2.0, 4.5, 6.5)


def test_a_task_that_was_acknowledged_before_it_ran_has_left_the_queue() -> None:
    world = World({"mail": 5})
    world.worker("a@x", "mail", processed=100)
    world.count()
    runs = Task("id", "app.mail", "()", "mail", None, None, acknowledged=True)
    world.worker("a@x", "mail", processed=101, active=1).active = Reading((runs,), BEGIN)
    world.ready["mail"] = 4
    world.count()
    assert world.flow() == Flow(2.0, -0.5, 0.5, 0.0)


def test_of_shared_consumers_only_what_was_seen_to_go_is_told() -> None:
    world = World({"mail": 5, "bulk": 0}, held={"t1": "mail", "t2": "mail"})
    world.worker("a@x", "mail", "bulk", processed=100)
    world.count()
    world.worker("a@x", "mail", "bulk", processed=140)
    world.held = {"t2": "mail", "t3": "mail"}
    world.count()
    flow = world.flow()
    assert (flow.growth, flow.completions, flow.arrivals, flow.at_least) == (0.0, 0.5, 0.5, True)
    assert flow.why == "its consumers also consume bulk, and count all together: 20.0/s"


def test_shared_consumers_that_did_nothing_completed_nothing_anywhere() -> None:
    world = World({"mail": 5, "bulk": 0})
    world.worker("a@x", "mail", "bulk", processed=100)
    world.count()
    world.worker("a@x", "mail", "bulk", processed=100)
    world.ready["mail"] = 7
    world.count()
    assert world.flow() == Flow(2.0, 1.0, 0.0, 1.0)
    assert world.flow("bulk") == Flow(2.0, 0.0, 0.0, 0.0)


def test_a_queue_cannot_shrink_faster_than_messages_leave_it() -> None:
    """A worker does not count what it discards: revoked, expired, or not known to it."""
    world = World({"mail": 50})
    world.worker("a@x", "mail", processed=100)
    world.count()
    world.worker("a@x", "mail", processed=100)
    world.ready["mail"] = 10
    world.count()
    assert world.flow() == Flow(2.0, -20.0, 20.0, 0.0)


def test_a_worker_that_did_not_tell_makes_it_a_bound_and_is_named() -> None:
    world = World({"mail": 5})
    world.worker("a@x", "mail", processed=100)
    world.worker("b@x", "mail").heartbeat = None
    world.count()
    world.worker("a@x", "mail", processed=110)
    world.count()
    assert world.flow().at_least
    assert world.flow().why == "b@x has not told twice how much it has worked off"


def test_a_silent_consumer_makes_it_a_bound() -> None:
    world = World({"mail": 5})
    world.worker("a@x", "mail", processed=100)
    world.worker("b@x", "mail", processed=100)
    world.nodes["b@x"].missed_since = BEGIN
    world.count()
    world.worker("a@x", "mail", processed=110)
    world.count()
    assert world.flow().at_least
    assert "b@x does not answer" in world.flow().why


def test_nothing_is_said_to_be_all_while_not_everybody_answered() -> None:
    world = World({"mail": 5}, everybody_told=False)
    world.count()
    world.count()
    assert world.flow().at_least
    assert "not every worker has answered" in world.flow().why


@pytest.mark.parametrize("change", ["stops", "begins", "restarts"])
def test_it_is_watched_anew_when_its_consumers_change(change: str) -> None:
    """Who stops gives its messages back: they went, and were not worked off."""
    world = World({"mail": 5}, held={"t1": "mail"})
    world.worker("a@x", "mail")
    world.count()
    world.count()
    match change:
        case "stops":
            world.worker("a@x")
        case "begins":
            world.worker("b@x", "mail")
        case _:
            beat = Heartbeat("a@x", 2, 0, 0, None, None, 2.0, online=True)
            world.nodes["a@x"].heartbeat = Reading(beat, BEGIN + timedelta(seconds=world.now))
    world.held, world.ready["mail"] = {}, 6
    world.count()
    assert world.flow() is UNWATCHED
    world.count()
    assert world.flow().span == EVERY
    assert world.flow().completions in {0.0, None}


def test_where_held_messages_cannot_be_told_only_the_ready_ones_are_compared() -> None:
    world = World({"mail": 5}, tells_held=False)
    world.worker("a@x", "mail", processed=100)
    world.count()
    world.ready["mail"] = 3
    world.count()
    flow = world.flow()
    assert (flow.growth, flow.completions, flow.arrivals) == (-1.0, None, None)
    assert "only what is ready is compared" in flow.why


def test_what_is_long_past_is_forgotten() -> None:
    world = World({"mail": 1_000})
    world.count()
    world.ready["mail"] = 0
    for _ in range(30):
        world.count()
    assert world.flow() == Flow(SPAN, 0.0, 0.0, 0.0)


def test_a_hundred_names_of_queues_are_not_all_told() -> None:
    world = World({"mail": 5})
    others = [f"q{number:03}" for number in range(100)]
    world.worker("a@x", "mail", *others, processed=1)
    world.count()
    world.worker("a@x", "mail", *others, processed=2)
    world.count()
    assert "q000, q001, q002 and 97 more" in world.flow().why
