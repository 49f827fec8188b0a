"""The guard's arithmetic, as tables and as a property over generated fleets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.units import Count
from celery_ops.runbook.guard import Guard

names = st.sampled_from([f"w{number}" for number in range(8)])
fleets = st.dictionaries(
    names, st.frozensets(st.sampled_from("abcd"), min_size=1), min_size=1, max_size=8
)
keeps = st.one_of(
    st.integers(0, 5).map(Count), st.integers(0, 100).map(lambda percent: Count(percent, True))
)


@pytest.mark.parametrize(
    ("keep", "healthy", "least"),
    [
        (Count(75, True), 1, 1),
        (Count(75, True), 2, 1),
        (Count(75, True), 3, 2),
        (Count(75, True), 4, 3),
        (Count(75, True), 8, 6),
        (Count(100, True), 5, 4),
        (Count(50, True), 5, 3),
        (Count(0), 1, 0),
        (Count(0, True), 4, 0),
        (Count(1), 4, 1),
        (Count(3), 4, 3),
        (Count(9), 4, 3),
        (Count(1), 1, 1),
    ],
)
def test_at_least_one_may_go_while_two_are_there_and_never_the_last(
    keep: Count, healthy: int, least: int
) -> None:
    assert Guard(keep).least("q", healthy) == least


def test_a_queue_that_may_have_a_gap_keeps_nobody() -> None:
    assert Guard(Count(75, True), frozenset({"q"})).least("q", 4) == 0
    assert Guard(Count(75, True), frozenset({"q"})).least("other", 4) == 3


def test_taking_the_only_consumer_is_a_shortfall_that_names_the_queue() -> None:
    (short,) = Guard(Count(75, True)).shortfalls(["w1"], {"mail": {"w1"}}, {"mail": 1})
    assert str(short) == "queue mail would keep 0 consumers, and must keep 1 of 1"


def test_consumers_that_died_meanwhile_count_as_gone() -> None:
    guard = Guard(Count(75, True))
    assert not guard.shortfalls(["w1"], {"q": {"w1", "w2", "w3", "w4"}}, {"q": 4})
    assert guard.shortfalls(["w1"], {"q": {"w1", "w2", "w3"}}, {"q": 4})


def test_a_worker_that_consumes_nothing_can_always_be_taken() -> None:
    assert not Guard(Count(100, True)).shortfalls(["idle"], {"q": {"w1"}}, {"q": 1})


def _consumers(fleet: dict[str, frozenset[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, queues in fleet.items():
        for queue in queues:
            found.setdefault(queue, set()).add(name)
    return found


@given(fleets, keeps, st.integers(1, 8), st.integers(0, 3))
def test_batches_take_every_target_once_and_break_the_guard_only_where_one_alone_would(
    fleet: dict[str, frozenset[str]], keep: Count, size: int, canary: int
) -> None:
    guard = Guard(keep)
    consumers = _consumers(fleet)
    healthy = {queue: len(workers) for queue, workers in consumers.items()}
    batches = guard.batches(sorted(fleet), fleet, healthy, size=size, canary=canary)
    assert [name for batch in batches for name in batch] == sorted(fleet)
    assert all(1 <= len(batch) <= size for batch in batches)
    if canary:
        assert len(batches[0]) <= canary
    for batch in batches:
        if len(batch) > 1:
            assert not guard.shortfalls(batch, consumers, healthy)


@given(fleets, keeps, st.sets(names))
def test_what_the_guard_lets_go_leaves_every_queue_at_or_above_its_least(
    fleet: dict[str, frozenset[str]], keep: Count, taking: set[str]
) -> None:
    guard = Guard(keep)
    consumers = _consumers(fleet)
    healthy = {queue: len(workers) for queue, workers in consumers.items()}
    if guard.shortfalls(taking, consumers, healthy):
        return
    for queue, workers in consumers.items():
        if workers & taking:
            assert len(workers - taking) >= guard.least(queue, healthy[queue])
            assert len(workers - taking) >= 1 or keep.number == 0
