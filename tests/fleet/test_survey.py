"""What a surveyor asks, when, and what it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.fleet.collector import look
from celery_ops.model import Targets
from celery_ops.ports import Question
from tests.standin.fleet import Faults

if TYPE_CHECKING:
    from tests.fleet.conftest import Lab

ROUTINE = {
    Question.PING,
    Question.ACTIVE,
    Question.RESERVED,
    Question.SCHEDULED,
    Question.ACTIVE_QUEUES,
}


def asked(lab: Lab) -> list[set[Question]]:
    """The questions of every round to everybody so far."""
    return [set(questions) for questions, to in lab.broker.asked if to is None]


async def test_one_look_finds_everybody_without_waiting_for_heartbeats(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web2", host="web2")
    before = lab.clock.monotonic()
    snapshot = await look(lab.surveyor, timeout=5.0)
    assert snapshot.complete
    assert [worker.name for worker in snapshot.workers] == ["a@web1", "b@web2"]
    assert lab.clock.monotonic() - before < 0.1


async def test_stats_are_asked_at_first_then_every_ten_seconds(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.watch(12.0, 1.0)
    rounds = enumerate(asked(lab))
    assert [place for place, questions in rounds if Question.STATS in questions] == [0, 10]
    assert asked(lab)[1] == ROUTINE


async def test_stats_are_asked_at_once_of_a_new_incarnation(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    lab.fleet.kill(worker)
    seen = (await lab.watch(4.0)).worker("a@web1")
    assert seen is not None
    assert seen.pid == worker.pid


async def test_registered_tasks_are_asked_once_an_incarnation_and_not_at_first(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    first = await lab.see("a@web1")
    seen = (await lab.watch(5.0)).worker("a@web1")
    sides = [questions for questions, to in lab.broker.asked if to is not None]
    assert first.registered is None
    assert sides == [(Question.REGISTERED,)]
    assert seen is not None
    assert seen.registered is not None


async def test_a_worker_that_never_tells_its_tasks_is_not_asked_for_ever(lab: Lab) -> None:
    faults = Faults(silent_to=frozenset({Question.REGISTERED}))
    lab.fleet.add_worker("a@web1", faults=faults)
    snapshot = await lab.watch(30.0, 1.0)
    sides = [questions for questions, to in lab.broker.asked if to is not None]
    assert len(sides) == 3
    assert snapshot.complete


async def test_others_keep_their_older_readings_when_some_are_asked(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web1")
    before = await lab.surveyor.refresh()
    await lab.clock.sleep(5.0)
    after = await lab.surveyor.refresh(to=Targets(("a@web1",)))
    a, b = after.worker("a@web1"), after.worker("b@web1")
    earlier = before.worker("b@web1")
    assert a is not None
    assert b is not None
    assert earlier is not None
    assert a.active is not None
    assert a.active.age(after.at) < 1.0
    assert b.active == earlier.active
    assert b.replied_at == earlier.replied_at
    assert Question.STATS in lab.broker.asked[-1][0]


async def test_a_refresh_without_questions_is_not_a_round_that_everybody_missed(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    assert worker.service is not None
    rounds = len(lab.broker.asked)
    snapshot = await lab.surveyor.refresh(questions=(), services=(worker.service.ref,))
    assert len(lab.broker.asked) == rounds
    assert snapshot.complete


async def test_an_empty_queue_that_a_newcomer_consumes_has_ready_zero(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    worker.consuming["fresh"] = {"name": "fresh"}
    snapshot = await lab.surveyor.refresh()
    assert {queue.name: queue.ready for queue in snapshot.queues} == {"default": 0, "fresh": 0}


async def test_a_lost_broker_is_raised_and_keeps_what_is_known(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    lab.broker.is_down = True
    with pytest.raises(BrokerUnreachable) as caught:
        await lab.surveyor.refresh()
    await lab.clock.sleep(30.0)
    lost = lab.surveyor.lost(caught.value)
    assert lost.broker_error == caught.value.says
    assert lost.worker("a@web1") is not None
    assert not lost.complete
    await lab.clock.sleep(30.0)
    assert lab.surveyor.lost(caught.value).broker_lost_at == lost.broker_lost_at
    lab.broker.is_down = False
    assert (await lab.surveyor.refresh()).broker_error is None


async def test_a_hostile_name_stays_text(lab: Lab) -> None:
    name = "[red]\x1b[2J" + "x" * 10_000 + "@h"
    lab.fleet.add_worker(name, host=None)
    seen = await lab.see(name)
    assert seen.name == name


async def test_an_hour_that_the_wall_clock_jumps_does_not_prove_a_drain(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    worker.consuming.clear()
    await lab.surveyor.refresh()
    for _ in range(4):
        lab.clock.jump_wall_clock(3600.0)
        seen = await lab.see("a@web1")
        assert seen.state == "draining"
