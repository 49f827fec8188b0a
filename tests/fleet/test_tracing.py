"""Where tasks are, as it is pieced together of what workers, the broker and the results tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.fleet.masking import Masks
from celery_ops.fleet.tracing import Tracer, ask_revoked
from celery_ops.model import SeenTask, TaskPlace
from tests.standin.broker import StandinResults

if TYPE_CHECKING:
    from celery_ops.fleet.tracing import Trace
    from tests.fleet.conftest import Lab


@pytest.fixture
def results(lab: Lab) -> StandinResults:
    return StandinResults(lab.fleet)


async def trace(lab: Lab, *ids: str, results: StandinResults | None = None) -> Trace:
    tracer = Tracer(lab.broker, lab.clock, results=results, masks=Masks())
    return await tracer.trace(lab.surveyor, ids)


def places(trace: Trace, id_: str) -> list[tuple[TaskPlace, str | None, str | None]]:
    return [(one.place, one.worker, one.queue) for one in trace.seen.of(id_)]


async def test_a_task_is_found_wherever_it_is(lab: Lab) -> None:
    worker = lab.fleet.add_worker("w@web1", concurrency=1)
    later = lab.fleet.send("default", 1.0, eta=1000.0)
    sent = [lab.fleet.send("default", 100.0) for _ in range(6)]
    nobody = [lab.fleet.send("nobody", 1.0) for _ in range(4)]
    held = [message.id for message in worker.reserved]
    found = await trace(lab, *(one.id for one in [later, *sent, *nobody]))
    assert places(found, later.id) == [(TaskPlace.SCHEDULED, "w@web1", "default")]
    assert places(found, sent[0].id) == [(TaskPlace.ACTIVE, "w@web1", "default")]
    assert held == [one.id for one in sent[1:4]]
    for id_ in held:
        assert places(found, id_) == [(TaskPlace.RESERVED, "w@web1", "default")]
    waiting = [found.seen.of(one.id)[0] for one in (*sent[4:], *nobody)]
    assert [(one.place, one.queue, one.ahead) for one in waiting] == [
        (TaskPlace.WAITING, "default", 0),
        (TaskPlace.WAITING, "default", 1),
        *((TaskPlace.WAITING, "nobody", ahead) for ahead in range(4)),
    ]
    assert found.seen.of(sent[0].id)[0].since is not None
    assert found.seen.of(later.id)[0].eta is not None
    assert found.seen.of(later.id)[0].arguments == "(1,)"
    assert found.notes == ()


async def test_what_a_dead_worker_left_is_held_and_shown_by_nobody(lab: Lab) -> None:
    worker = lab.fleet.add_worker("w@web1", concurrency=1)
    lab.fleet.send("default", 100.0)
    left = lab.fleet.send("default", 100.0)
    assert worker.service is not None
    worker.service.restarts_itself = False
    lab.fleet.kill(worker)
    await lab.clock.sleep(20.0)
    found = await trace(lab, left.id)
    assert places(found, left.id) == [(TaskPlace.HELD, None, "default")]


async def test_a_worker_that_is_silent_is_said_to_hold_what_nobody_knows(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    silent = lab.fleet.add_worker("b@web1")
    await lab.watch(3.0)
    silent.faults.hangs = True
    await lab.watch(20.0)
    found = await trace(lab, "no-such")
    assert found.seen.tasks == ()
    assert found.notes == ("b@web1 does not answer: what it holds is not known",)
    assert found.workers == ("a@web1", "b@web1")
    assert found.revoked.by_worker == {"a@web1": frozenset()}


async def test_what_is_revoked_is_told_by_each_worker_itself(lab: Lab) -> None:
    for name in ("a@web1", "b@web1"):
        lab.fleet.add_worker(name)
    lab.fleet.worker("b@web1").revoked.add("x")
    said = await ask_revoked(lab.broker, ["a@web1", "b@web1"], lab.clock)
    assert said.by_worker == {"a@web1": frozenset(), "b@web1": frozenset({"x"})}
    lab.fleet.worker("b@web1").faults.answers_in_pickle = True
    unread = await ask_revoked(lab.broker, ["a@web1", "b@web1"], lab.clock)
    assert unread.by_worker == {"a@web1": frozenset()}, "unreadable is not `nothing revoked`"
    assert (await ask_revoked(lab.broker, [], lab.clock)).by_worker == {}


async def test_of_two_processes_under_one_name_both_must_say_it(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("a@web1")
    lab.fleet.workers[0].revoked.add("x")
    said = await ask_revoked(lab.broker, ["a@web1"], lab.clock)
    assert said.by_worker == {"a@web1": frozenset()}


async def test_results_are_read_where_there_are_some(lab: Lab, results: StandinResults) -> None:
    lab.fleet.add_worker("w@web1")
    ended = lab.fleet.send("default", 1.0)
    await lab.clock.sleep(5.0)
    found = await trace(lab, ended.id, "no-such", results=results)
    assert found.reads_results
    assert found.seen.results.keys() == {ended.id}
    assert found.seen.results[ended.id].value.state == "SUCCESS"
    results.says = "the results cannot be read"
    away = await trace(lab, ended.id, results=results)
    assert away.notes == ("the results cannot be read",)
    assert not (await trace(lab, ended.id)).reads_results


async def test_a_look_reads_no_more_than_so_many_and_says_so(lab: Lab) -> None:
    for queue in ("first", "second", "third"):
        for _ in range(4):
            lab.fleet.send(queue)
    last = lab.fleet.send("third")
    tracer = Tracer(lab.broker, lab.clock, results=None, most_read=5)
    found = await tracer.trace(lab.surveyor, [last.id])
    assert found.seen.tasks == ()
    assert found.notes == (
        "of second only the next 1 messages were looked at",
        "only 5 waiting messages were looked at: what waits in third and in queues after it is not"
        " known",
    )


async def test_a_queue_that_is_consumed_meanwhile_may_hide_one_and_that_is_said(lab: Lab) -> None:
    lab.fleet.add_worker("w@web1", concurrency=1)
    for _ in range(40):
        lab.fleet.send("default", 100.0)
    (note,) = (await trace(lab, "no-such")).notes
    assert note.startswith("default was consumed while it was looked through")


async def test_without_masks_no_argument_is_kept(lab: Lab) -> None:
    lab.fleet.add_worker("w@web1", concurrency=1)
    running = lab.fleet.send("default", 100.0)
    lab.fleet.send("nobody")
    looked = await Tracer(lab.broker, lab.clock, results=None).look(
        await lab.surveyor.refresh(), _anything, most=10
    )
    assert {one.arguments for one in looked.tasks} == {None}
    assert looked.of(running.id)


async def test_more_than_enough_end_the_look(lab: Lab) -> None:
    for _ in range(30):
        lab.fleet.send("nobody")
    looked = await Tracer(lab.broker, lab.clock, results=None).look(
        await lab.surveyor.refresh(), _anything, most=10
    )
    assert len(looked.tasks) == 11


def _anything(_: SeenTask) -> bool:
    return True
