"""What receptions of probes prove about the order of priorities: nothing too much."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from celery_ops.ports import Priorities
from celery_ops.runbook.priorities import Probed, judge, sending

if TYPE_CHECKING:
    from collections.abc import Sequence

REDIS = Priorities((0, 3, 6, 9), at_once=True)
RABBIT = Priorities((9, 4, 0))


def sent(levels: Sequence[int]) -> dict[str, Probed]:
    return {str(at): Probed(level, at) for at, level in enumerate(levels)}


def test_on_redis_those_served_last_are_sent_first() -> None:
    assert sending(REDIS, ()) == (9, 9, 6, 6, 3, 3, 0, 0)


def test_overtaking_proves_it() -> None:
    seen = judge(REDIS, sent((9, 6, 3, 0)), {"w1": ["0", "3", "2", "1"]})
    assert seen.proved == "w1 received them as 9, 0, 3, 6, sent as 9, 6, 3, 0"
    assert not seen.broken


def test_what_an_idle_worker_gets_first_on_redis_is_no_breach() -> None:
    seen = judge(REDIS, sent((9, 6, 3, 0)), {"w1": ["0", "3"], "w2": ["1", "2"]})
    assert not seen.broken


def test_a_lower_one_first_while_the_higher_waited_is_broken() -> None:
    seen = judge(REDIS, sent((9, 6, 3, 0)), {"w1": ["0", "1", "2", "3"]})
    assert seen.broken == "w1 received priority 6 before 3, which waited as well (9, 6, 3, 0)"


def test_two_workers_are_not_compared() -> None:
    seen = judge(REDIS, sent((9, 6, 3, 0)), {"w1": ["0", "2"], "w2": ["1", "3"]})
    assert not seen.broken


def test_one_that_was_received_twice_tells_nothing() -> None:
    receptions = {"w1": ["3", "1", "0", "2"], "w2": ["2"]}
    assert not judge(REDIS, sent((9, 6, 3, 0)), receptions).broken
    assert judge(REDIS, sent((9, 6, 3, 0)), {"w1": ["3", "1", "0", "2"]}).broken


def test_on_rabbitmq_those_taken_as_they_came_prove_nothing() -> None:
    seen = judge(RABBIT, sent((0, 0, 4, 9, 0)), {"w1": ["0", "1", "2", "3", "4"]})
    assert (seen.proved, seen.broken) == ("", "")


def test_on_rabbitmq_a_lower_one_that_was_sent_later_must_not_come_first() -> None:
    assert judge(RABBIT, sent((0, 9, 0)), {"w1": ["2", "1", "0"]}).broken
    assert judge(RABBIT, sent((0, 9, 0)), {"w1": ["1", "0", "2"]}).proved


@pytest.mark.parametrize("seed", range(40))
def test_a_broker_that_keeps_its_promise_is_never_accused(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"w{number}" for number in range(chance.randint(1, 4))]
    for priorities in (REDIS, RABBIT):
        levels = (*sending(REDIS, ()), 0, 9, 3) if priorities is REDIS else (0, 0, 4, 0, 9, 4, 0)
        probes = sent(levels)
        received: dict[str, list[str]] = {name: [] for name in names}
        waiting: list[str] = []
        rank = priorities.levels.index
        if priorities.at_once:
            waiting += probes
            for name in chance.sample(names, chance.randint(0, len(names))):
                received[name].append(waiting.pop(0))
        coming = [id_ for id_ in probes if id_ not in waiting and not priorities.at_once]
        while waiting or coming:
            if coming and (not waiting or chance.random() < 0.5):
                waiting.append(coming.pop(0))
                continue
            first = min(waiting, key=lambda id_: (rank(probes[id_].level), probes[id_].place))
            waiting.remove(first)
            received[chance.choice(names)].append(first)
        assert not judge(priorities, probes, received).broken


def test_two_idle_workers_that_take_the_first_two_as_they_come_leave_enough_to_prove_it() -> None:
    probes = sent(sending(REDIS, ()))
    rest = sorted(list(probes)[2:], key=lambda id_: probes[id_].level)
    seen = judge(REDIS, probes, {"w1": ["0", *rest[::2]], "w2": ["1", *rest[1::2]]})
    assert seen.proved
