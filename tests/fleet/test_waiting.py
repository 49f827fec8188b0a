"""Since when messages wait, and what waits elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from celery_ops.fleet.waiting import Waiting
from celery_ops.ports import QueueReading, QueuesReading

BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)


def reading(second: int, *heads: str, ready: int = 3, looked: bool = True) -> QueuesReading:
    queue = QueueReading("mail", ready, 0, heads=heads if looked else None)
    return QueuesReading(BEGIN + timedelta(seconds=second), (queue,))


def since(*readings: QueuesReading) -> float | None:
    waiting = Waiting()
    for one in readings:
        waiting.note(one)
    found = waiting.since("mail")
    return None if found is None else (found - BEGIN).total_seconds()


def test_a_message_waits_since_it_was_first_seen() -> None:
    assert since(reading(0, "a"), reading(5, "a"), reading(9, "a")) == 0


def test_the_next_one_is_only_known_to_wait_since_it_is_the_next() -> None:
    assert since(reading(0, "a"), reading(5, "b")) == 5


def test_of_several_priorities_the_longest_counts() -> None:
    assert since(reading(0, "a", "x"), reading(5, "b", "x")) == 0


def test_nothing_waits_in_an_empty_queue() -> None:
    assert since(reading(0, "a"), reading(5, ready=0)) is None


def test_a_queue_that_was_not_looked_at_is_not_forgotten() -> None:
    assert since(reading(0, "a"), reading(5, looked=False), reading(9, "a")) == 0
    assert since(reading(0, "a"), reading(5, looked=False, ready=0)) is None
