"""When a held message is nobody's, and every reason for which that is not proved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_ops.fleet.collector import look
from celery_ops.fleet.survey import REGISTERED_AT_ONCE
from celery_ops.model import ServiceState
from celery_ops.ports import Question
from tests.standin.fleet import Faults, Message, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.model import FleetSnapshot, Unproven
    from tests.fleet.conftest import Lab

LONG = 60.0


def leave(lab: Lab, count: int = 1, *, task: str = "app.work", age: float = 30.0) -> None:
    """What a killed worker leaves behind."""
    for number in range(count):
        message = Message(f"left-{task}-{number}", task, "default", 1.0)
        message.delivered = lab.clock.now() - timedelta(seconds=age)
        lab.fleet.stuck.append((message, lab.clock.monotonic()))


def ids(snapshot: FleetSnapshot) -> set[str | None]:
    assert snapshot.orphans is not None
    return {message.task_id for message in snapshot.orphans}


def open_(snapshot: FleetSnapshot) -> Unproven:
    assert snapshot.orphans == ()
    (unproven,) = snapshot.unproven
    return unproven


async def test_what_nobody_holds_is_found_by_one_look(lab: Lab) -> None:
    """The look has to ask twice for it."""
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web1")
    leave(lab, 3)
    snapshot = await look(lab.surveyor)
    assert len(ids(snapshot)) == 3
    assert snapshot.unproven == ()
    (queue,) = snapshot.queues
    assert (queue.unacked, queue.orphans) == (3, 3)
    assert len([asked for asked, _ in lab.broker.asked if Question.ACTIVE in asked]) == 2


async def test_in_a_large_fleet_two_rounds_are_enough_too(lab: Lab) -> None:
    """Though a routine refresh asks only some of the new workers for what they can run."""
    for number in range(REGISTERED_AT_ONCE + 5):
        lab.fleet.add_worker(f"w{number}@web1")
    leave(lab)
    assert len(ids(await look(lab.surveyor))) == 1


async def test_a_look_at_a_fleet_without_such_messages_asks_once(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    for _ in range(3):
        lab.fleet.send("default", LONG)
    snapshot = await look(lab.surveyor)
    assert snapshot.orphans == ()
    assert [queue.orphans for queue in snapshot.queues] == [0]
    assert len(lab.broker.asked) == 1


async def test_what_workers_show_is_nobodys_orphan(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", concurrency=1)
    for _ in range(3):
        lab.fleet.send("default", LONG)
    lab.fleet.send("default", eta=LONG)
    snapshot = await lab.watch(20.0)
    assert (snapshot.orphans, snapshot.unproven) == ((), ())


async def test_one_round_is_no_proof(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.watch(3.0)
    leave(lab)
    unproven = open_(await lab.surveyor.refresh())
    assert unproven.settles
    assert ids(await lab.surveyor.refresh()) == {"left-app.work-0"}


async def test_a_fresh_delivery_may_be_on_its_way(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    leave(lab, age=0.0)
    early = await lab.watch(4.0)
    assert (early.orphans, early.unproven) == ((), ())
    assert ids(await lab.watch(3.0)) == {"left-app.work-0"}


async def test_a_worker_with_a_clock_that_is_fast_cannot_make_a_delivery_look_old(
    lab: Lab,
) -> None:
    lab.fleet.add_worker("a@web1")
    leave(lab, age=-300.0)
    assert (await lab.watch(30.0)).orphans == ()


async def test_a_message_that_was_delivered_again_has_to_be_proved_anew(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    leave(lab)
    assert len(ids(await lab.watch(2.0))) == 1
    (message, _), *_ = lab.fleet.stuck
    message.delivered = lab.clock.now() - timedelta(seconds=10)
    assert open_(await lab.surveyor.refresh()).settles


async def test_a_worker_that_its_supervisor_calls_stopped_holds_nothing(lab: Lab) -> None:
    """Though its last answer named the very message: that was before it died."""
    lab.fleet.add_worker("a@web1")
    dying = lab.fleet.add_worker("b@web1", queues=("other",), concurrency=1)
    for _ in range(3):
        lab.fleet.send("other", LONG)
    await lab.watch(8.0)
    assert dying.service is not None
    dying.service.restarts_itself = False
    lab.fleet.kill(dying)
    snapshot = await lab.watch(4.0)
    assert len(ids(snapshot)) == 2
    assert {message.queue for message in snapshot.orphans or ()} == {"other"}


async def test_with_all_workers_stopped_everything_that_is_held_is_nobodys(lab: Lab) -> None:
    dying = lab.fleet.add_worker("a@web1", concurrency=1)
    for _ in range(3):
        lab.fleet.send("default", LONG)
    await lab.watch(8.0)
    assert dying.service is not None
    dying.service.restarts_itself = False
    lab.fleet.kill(dying)
    assert len(ids(await lab.watch(4.0))) == 2


async def test_a_new_life_tells_for_its_killed_predecessor(lab: Lab) -> None:
    dying = lab.fleet.add_worker("a@web1", concurrency=1)
    for _ in range(2):
        lab.fleet.send("default", LONG)
    await lab.watch(8.0)
    lab.fleet.kill(dying)
    snapshot = await lab.watch(6.0)
    assert dying.phase is Phase.UP
    assert len(ids(snapshot)) == 1


@dataclass(frozen=True)
class Case:
    """What is wrong with the fleet, what is said, and who may be vouched for."""

    name: str
    do: Callable[[Lab], None]
    why: str
    vouch_for: tuple[str, ...] = ()


def frozen(lab: Lab) -> None:
    lab.fleet.worker("b@web1").faults.hangs = True


def busy_solo(lab: Lab) -> None:
    lab.fleet.add_worker("solo@web1", queues=("solo",), pool="solo", concurrency=1)
    lab.fleet.send("solo", 3600.0)


def stopping(lab: Lab) -> None:
    worker = lab.fleet.add_worker("c@web1", queues=("c",))
    lab.fleet.send("c", 3600.0)
    assert worker.service is not None
    worker.service.stop_grace = 7200.0
    lab.fleet.stop_service(worker.service)


def silent_about(question: Question) -> Callable[[Lab], None]:
    def do(lab: Lab) -> None:
        lab.fleet.worker("b@web1").faults.silent_to = frozenset({question})

    return do


def pickle(lab: Lab) -> None:
    lab.fleet.worker("b@web1").faults.answers_in_pickle = True


def two_of_a_name(lab: Lab) -> None:
    lab.fleet.add_worker("b@web1", host=None)


def unsupervised(lab: Lab) -> None:
    lab.fleet.add_worker("bare@web1", host=None)


def host_away(lab: Lab) -> None:
    lab.fleet.add_worker("far@web9", host="web9")
    lab.hosts.unreachable.add("web9")


def starting(lab: Lab) -> None:
    lab.fleet.add_worker("new@web1", faults=Faults(does_not_come_back=True), up=False)
    worker = lab.fleet.worker("new@web1")
    assert worker.service is not None
    lab.fleet.start_service(worker.service)


def other_process(lab: Lab) -> None:
    service = lab.fleet.worker("b@web1").service
    assert service is not None
    service.pid = 99


def unknown_state(lab: Lab) -> None:
    service = lab.fleet.worker("b@web1").service
    assert service is not None
    service.state = ServiceState.UNKNOWN


def leftover_binding(lab: Lab) -> None:
    lab.fleet.bound.add("old@web7")


def gone_without_a_word(lab: Lab) -> None:
    lab.broker.strangers["?"] = {}


def limited(lab: Lab) -> None:
    lab.fleet.worker("b@web1").registered = ("app.work", "app.mail")
    lab.fleet.worker("b@web1").rate_limited = frozenset({"app.work"})


CASES = [
    Case("frozen", frozen, "b@web1 has not answered"),
    Case("busy solo", busy_solo, "solo@web1 has not answered"),
    Case("warm stop", stopping, "c@web1 is stopping and may still run tasks"),
    Case("active", silent_about(Question.ACTIVE), "b@web1 has not told what it runs"),
    Case("reserved", silent_about(Question.RESERVED), "b@web1 has not told what it has reserved"),
    Case("scheduled", silent_about(Question.SCHEDULED), "b@web1 has not told what it holds until"),
    Case("registered", silent_about(Question.REGISTERED), "has not told which of its tasks have"),
    Case("pickle", pickle, "b@web1 answers in a format that is not read"),
    Case("conflict", two_of_a_name, "two processes share the name b@web1"),
    Case("no service", unsupervised, "no service is configured for bare@web1", ("bare@web1",)),
    Case("host away", host_away, "the supervisor of far@web9 cannot be asked: "),
    Case("starting", starting, "new@web1 has not answered"),
    Case("other pid", other_process, "does not run the process that answers as b@web1"),
    Case("unknown", unknown_state, "does not run the process that answers as b@web1"),
    Case("bound", leftover_binding, "old@web7 is bound on the broker and does not", ("old@web7",)),
    Case("nameless", gone_without_a_word, "1 that listen have not answered"),
    Case("rate limit", limited, "b@web1 has a rate limit on app.work and may hold them back"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_it_is_not_proved_and_said_why(lab: Lab, case: Case) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web1")
    case.do(lab)
    await lab.watch(8.0)
    leave(lab, 2)
    snapshot = await lab.watch(8.0)
    mine = [one for one in snapshot.unproven if one.queue == "default"]
    assert ids(snapshot) == set()
    assert [len(one.messages) for one in mine] == [2]
    assert case.why in mine[0].why
    assert mine[0].vouch_for == case.vouch_for
    assert not mine[0].settles
    (queue,) = (one for one in snapshot.queues if one.name == "default")
    assert queue.orphans is None


async def test_a_rate_limit_on_another_task_hides_nothing(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    worker.registered, worker.rate_limited = ("app.work", "app.mail"), frozenset({"app.mail"})
    leave(lab)
    leave(lab, task="app.mail")
    snapshot = await lab.watch(4.0)
    assert ids(snapshot) == {"left-app.work-0"}
    (unproven,) = snapshot.unproven
    assert [message.task for message in unproven.messages] == ["app.mail"]
    assert unproven.expected


async def test_a_task_that_is_gathered_in_batches_may_be_held_unseen(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    worker.registered = ("app.work [acks_late=True flush_every=100]",)
    leave(lab)
    unproven = open_(await lab.watch(4.0))
    assert unproven.why == "a@web1 gathers batches of app.work and may hold them back, unseen"


async def test_messages_of_a_queue_that_nobody_known_consumes_may_be_somebodys(lab: Lab) -> None:
    """Workers of another control exchange share the list of held messages, and are not seen."""
    lab.fleet.add_worker("a@web1", queues=("other",))
    leave(lab)
    unproven = open_(await lab.watch(4.0))
    assert "no worker that is known consumes default" in unproven.why
    assert unproven.vouch_for == ("*",)


async def test_a_worker_outside_of_the_scope_is_not_ours_to_judge(lab: Lab) -> None:
    lab.scope = ("*@web1",)
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("theirs@other", host=None)
    leave(lab)
    unproven = open_(await lab.watch(4.0))
    assert "theirs@other is outside of this context" in unproven.why
    assert unproven.vouch_for == ()


async def test_without_any_service_nothing_is_proved_even_without_workers(lab: Lab) -> None:
    """One in its warm shutdown would look exactly like this."""
    leave(lab)
    unproven = open_(await lab.watch(4.0))
    assert "no service is configured" in unproven.why
    assert unproven.vouch_for == ("*",)


async def test_several_reasons_are_counted_and_the_worst_is_told(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", host=None)
    lab.fleet.add_worker("b@web1")
    frozen(lab)
    leave(lab)
    unproven = open_(await lab.watch(10.0))
    assert unproven.why.startswith("b@web1 has not answered: ")
    assert unproven.why.endswith(" (and 1 more reason)")
    assert unproven.vouch_for == ()


async def test_a_broker_that_does_not_count_its_listeners_lets_nobody_be_vouched_for(
    lab: Lab,
) -> None:
    lab.fleet.add_worker("a@web1")
    lab.broker._counts_listeners = False
    leftover_binding(lab)
    leave(lab)
    unproven = open_(await lab.watch(4.0))
    assert "old@web7 is bound" in unproven.why
    assert unproven.vouch_for == ()


async def test_above_the_cap_nothing_is_known(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.broker.tells_unacked = False
    leave(lab)
    snapshot = await lab.watch(4.0)
    assert snapshot.orphans is None
    assert [queue.orphans for queue in snapshot.queues] == [None]


async def test_asking_some_workers_only_proves_nothing_new(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.watch(3.0)
    leave(lab)
    await lab.surveyor.refresh(questions=())
    snapshot = await lab.surveyor.refresh(questions=())
    assert (snapshot.orphans, snapshot.unproven) == ((), ())
