"""Every state a worker can be shown in, on a simulated fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import Heartbeat, ServiceState, TakenRecord, Targets, WorkerState
from celery_ops.ports import CancelConsumer, Question, Round
from tests.standin.broker import StandinBroker
from tests.standin.fleet import Faults

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.model import FleetSnapshot
    from tests.fleet.conftest import Lab

QUIET = 1.5


async def drain(lab: Lab, name: str, *, record: bool = True) -> None:
    fence = await lab.fence()
    worker = await lab.see(name)
    if record:
        queues = worker.consuming.value if worker.consuming is not None else ()
        taken = TakenRecord(
            "queues", name, worker.incarnation, queues, None, "run-1", "me@here", lab.clock.now()
        )
        await lab.broker.take(taken, fence=fence)
    for queue in worker.queues or ():
        order = CancelConsumer(queue)
        await lab.broker.order(order, to=Targets((name,)), fence=fence, timeout=1.0)


def beat(pid: int, *, online: bool = True) -> Heartbeat:
    return Heartbeat("a@web1", pid, 0, 0, 0.1, "5.7.0", 2.0, online)


async def test_a_worker_that_answers_is_online_with_its_service(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.ONLINE
    assert seen.pid == worker.pid
    assert seen.service is not None
    assert seen.service.ref.name == "a"
    assert seen.queues == ("default",)


async def test_a_draining_worker_says_what_it_still_holds(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", concurrency=1)
    for _ in range(3):
        lab.fleet.send("default", 10.0)
    await drain(lab, "a@web1")
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.DRAINING
    assert seen.says == "1 active, 2 reserved"


async def test_an_idle_worker_without_consumers_is_not_drained_before_it_was_quiet_long_enough(
    lab: Lab,
) -> None:
    lab.fleet.add_worker("a@web1")
    await drain(lab, "a@web1")
    early = await lab.see("a@web1")
    assert early.state is WorkerState.DRAINING
    late = (await lab.watch(2.0)).worker("a@web1")
    assert late is not None
    assert late.state is WorkerState.DRAINED
    assert late.says.startswith("quiet for")


async def test_a_worker_whose_reserved_never_answers_is_never_drained(lab: Lab) -> None:
    faults = Faults(silent_to=frozenset({Question.RESERVED}))
    lab.fleet.add_worker("a@web1", faults=faults)
    await drain(lab, "a@web1")
    seen = (await lab.watch(10.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.DRAINING
    assert "arguments that are not JSON" in seen.says
    assert seen.reserved is None


async def test_an_eta_task_does_not_hold_up_a_drain_and_is_named(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.send("default", eta=3600.0)
    await drain(lab, "a@web1")
    seen = (await lab.watch(3.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.DRAINED
    assert "holds 1 ETA task, given back at a stop" in seen.says


async def test_invisibly_held_messages_of_a_drained_worker_are_counted(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    lab.fleet.hold_invisibly(worker, "default", 4)
    await drain(lab, "a@web1")
    worker.rate_limited, worker.registered = frozenset({"app.limited"}), ("app.limited",)
    seen = (await lab.watch(5.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.DRAINED
    assert "4 messages of its queues held by nobody visible" in seen.says


async def test_a_missed_round_begins_the_proof_anew(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await drain(lab, "a@web1")
    await lab.watch(1.5)
    worker.faults.never_replies = True
    await lab.surveyor.refresh(timeout=0.3)
    worker.faults.never_replies = False
    seen = (await lab.watch(0.5)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.DRAINING


async def test_a_held_message_is_named_once_it_was_seen_so_twice(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    worker.rate_limited, worker.registered = frozenset({"app.limited"}), ("app.limited",)
    await drain(lab, "a@web1")
    await lab.watch(3.0)
    lab.fleet.hold_invisibly(worker, "default", 4)
    await lab.clock.sleep(3.0)
    assert "held by nobody visible" not in (await lab.see("a@web1")).says
    assert "held by nobody visible" in (await lab.see("a@web1")).says


async def test_a_supervisors_word_from_before_the_last_reply_does_not_count(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1", up=False)
    assert (await lab.see("a@web1")).state is WorkerState.STOPPED
    assert worker.service is not None
    lab.fleet.start_service(worker.service)
    lab.hosts.unreachable.add("web1")
    await lab.watch(4.0)
    worker.faults.hangs = True
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.ONLINE
    assert "did not answer since" in seen.says


async def test_a_worker_that_ignores_the_cancel_is_not_shown_as_draining(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", faults=Faults(ignores_cancel=True))
    await drain(lab, "a@web1")
    seen = (await lab.watch(3.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.ONLINE
    assert "it consumes them" in seen.says


async def test_a_record_of_an_earlier_incarnation_owes_nothing(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await drain(lab, "a@web1")
    lab.fleet.kill(worker)
    await lab.clock.sleep(10.0)
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.ONLINE
    assert seen.taken is None


async def test_a_silent_worker_is_not_shown_as_idle(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    worker.faults.hangs = True
    missed = await lab.surveyor.refresh()
    assert not missed.complete
    snapshot = await lab.watch(8.0)
    seen = snapshot.worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.SILENT
    assert f"alive but mute: its service runs (pid {worker.pid})" in seen.says
    assert not snapshot.complete


async def test_what_a_supervisor_said_before_a_silence_is_not_told_of_it(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    for second in range(12):
        worker.faults.hangs = second > 2
        await lab.clock.sleep(1.0)
        snapshot = await lab.surveyor.refresh(questions=(Question.PING,), services=())
    seen = snapshot.worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.SILENT
    assert f"its service ran (pid {worker.pid}) when it was last asked, at " in seen.says


async def test_one_missed_round_is_not_silence_and_not_completeness(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    worker.faults.never_replies = True
    snapshot = await lab.surveyor.refresh()
    seen = snapshot.worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.ONLINE
    assert "did not answer since" in seen.says
    assert not snapshot.complete


async def test_heartbeats_alone_do_not_make_a_worker_addressable(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", host=None, faults=Faults(never_replies=True))
    for _ in range(10):
        lab.surveyor.hear(beat(1001))
        await lab.surveyor.refresh()
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.SILENT
    assert "heartbeats go on" in seen.says


async def test_a_worker_in_warm_shutdown_is_stopping_while_its_process_runs(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    lab.fleet.send("default", 60.0)
    await lab.see("a@web1")
    assert worker.service is not None
    lab.fleet.stop_service(worker.service)
    snapshot = await lab.watch(5.0)
    seen = snapshot.worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.STOPPING
    assert snapshot.complete


async def test_a_goodbye_without_a_supervisor_is_stopping_and_later_forgotten(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1", host=None)
    await lab.see("a@web1")
    lab.fleet.warm_stop(worker)
    lab.surveyor.hear(beat(1001, online=False))
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.STOPPING
    assert "only its host could tell" in seen.says
    await lab.clock.sleep(301.0)
    await lab.surveyor.refresh()
    assert (await lab.surveyor.refresh()).worker("a@web1") is None


async def test_a_stopped_service_makes_a_stopped_worker(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    assert worker.service is not None
    lab.fleet.stop_service(worker.service)
    seen = (await lab.watch(4.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.STOPPED
    assert "supervisord a on web1" in seen.says


async def test_a_configured_worker_that_was_never_seen_is_shown(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", up=False)
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.STOPPED
    assert seen.pid is None


async def test_a_restarted_worker_is_a_new_incarnation_and_online(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    before = (await lab.see("a@web1")).incarnation
    lab.fleet.kill(worker)
    after = await lab.watch(10.0)
    seen = after.worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.ONLINE
    assert before is not None
    assert seen.incarnation is not None
    assert not seen.incarnation.same_life_as(before)


async def test_two_processes_under_one_name_are_a_conflict(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("a@web1", host="web2")
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.CONFLICT
    assert not seen.answers
    assert len(seen.pids) < 3


async def test_the_consumers_of_a_doubled_workers_queues_are_unknown(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("a@web1", host="web2")
    lab.fleet.add_worker("b@web1", queues=("mail",))
    assert consumers(await lab.surveyor.refresh()) == {"default": None, "mail": 1}


async def test_a_restarted_worker_is_not_blamed_for_its_predecessors_silence(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1", host=None)
    await lab.see("a@web1")
    lab.fleet.kill(worker)
    silent = (await lab.watch(10.0)).worker("a@web1")
    lab.surveyor.hear(beat(2002))
    seen = await lab.see("a@web1")
    assert silent is not None
    assert silent.state is WorkerState.SILENT
    assert seen.state is WorkerState.ONLINE


async def test_two_pids_that_both_keep_beating_are_a_conflict(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    for pid in (1001, 2002, 1001, 2002):
        lab.surveyor.hear(beat(pid))
        await lab.clock.sleep(1.0)
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.CONFLICT
    assert seen.pids == (1001, 2002)


async def test_a_restart_that_changes_the_pid_is_not_a_conflict(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    for pid in (999, 999, 1001, 1001):
        lab.surveyor.hear(beat(pid))
        await lab.clock.sleep(0.5)
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.ONLINE


async def test_a_worker_that_answers_in_pickle_is_unreadable(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", faults=Faults(answers_in_pickle=True))
    seen = await lab.see("a@web1")
    assert seen.state is WorkerState.UNREADABLE
    assert seen.consuming is None


async def test_a_worker_that_leaves_messages_alone_is_stalled_after_ten_seconds(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    worker.concurrency = 0
    lab.fleet.send("default")
    early = (await lab.watch(5.0)).worker("a@web1")
    late = (await lab.watch(8.0)).worker("a@web1")
    assert early is not None
    assert early.state is WorkerState.ONLINE
    assert late is not None
    assert late.state is WorkerState.STALLED
    assert "default has messages" in late.says


async def test_a_busy_worker_with_a_long_queue_is_not_stalled(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1", concurrency=1)
    for _ in range(30):
        lab.fleet.send("default", 60.0)
    seen = (await lab.watch(30.0, 1.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.ONLINE


async def test_names_bound_by_the_dead_are_counted_and_not_shown(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.bound |= {"gone@x", "gone@y"}
    snapshot = await lab.surveyor.refresh()
    assert snapshot.bound_but_silent == ("gone@x", "gone@y")
    assert [worker.name for worker in snapshot.workers] == ["a@web1"]
    assert snapshot.complete


async def test_a_listener_that_does_not_answer_the_first_roll_call_is_shown_as_silent(
    lab: Lab,
) -> None:
    lab.fleet.add_worker("a@web1", host=None)
    lab.fleet.add_worker("solo@web1", host=None, queues=("slow",), pool="solo", concurrency=1)
    lab.fleet.send("slow", 60.0)
    snapshot = await lab.surveyor.refresh()
    seen = snapshot.worker("solo@web1")
    assert seen is not None
    assert seen.state is WorkerState.SILENT
    assert not snapshot.complete


async def test_a_beat_that_answers_ping_is_not_a_worker(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.broker.strangers["celerybeat@web1"] = {Question.PING: {"ok": "pong"}}
    snapshot = await lab.surveyor.refresh()
    assert [worker.name for worker in snapshot.workers] == ["a@web1"]
    assert [(one.name, one.running) for one in snapshot.beats] == [("celerybeat@web1", True)]


async def test_the_scope_marks_the_workers_of_others(lab: Lab) -> None:
    lab.scope = ("*@web*",)
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@other", host=None)
    snapshot = await lab.surveyor.refresh()
    assert {worker.name: worker.mine for worker in snapshot.workers} == {
        "a@web1": True,
        "b@other": False,
    }


async def test_consumers_are_unknown_while_a_known_worker_has_not_said_what_it_consumes(
    lab: Lab,
) -> None:
    lab.fleet.add_worker("a@web1")
    silent = frozenset({Question.ACTIVE_QUEUES})
    worker = lab.fleet.add_worker("b@web1", queues=("mail",), faults=Faults(silent_to=silent))
    snapshot = await lab.surveyor.refresh()
    assert consumers(snapshot) == {"default": None, "mail": None}
    assert not snapshot.complete
    worker.faults.silent_to = frozenset()
    assert consumers(await lab.surveyor.refresh()) == {"default": 1, "mail": 1}


async def test_a_queue_that_a_mute_worker_may_consume_is_not_said_to_have_no_consumer(
    lab: Lab,
) -> None:
    lab.broker = StandinBroker(lab.fleet, counts_listeners=False)
    lab.fleet.add_worker("a@web1")
    lab.fleet.send("mail")
    assert consumers(await lab.surveyor.refresh()) == {"default": 1, "mail": 0}
    lab.fleet.bound.add("mute@web1")
    assert consumers(await lab.surveyor.refresh()) == {"default": 1, "mail": None}


class NobodyCanBeAsked(StandinBroker):
    """As a broker without a way to reach workers."""

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        del to, timeout, known
        now, nothing = self.fleet.clock.now(), dict.fromkeys(questions, ())
        return Round(now, now, nothing, None, complete=False, unasked="nobody can be asked")


async def test_where_nobody_can_be_asked_nothing_is_said_of_consumers(lab: Lab) -> None:
    lab.broker = NobodyCanBeAsked(lab.fleet)
    lab.fleet.send("mail")
    snapshot = await lab.surveyor.refresh()
    assert consumers(snapshot) == {"mail": None}
    assert not snapshot.complete
    assert snapshot.unasked == snapshot.notes[0] == "nobody can be asked"


async def test_a_hung_workers_old_pid_does_not_hide_that_its_service_was_restarted(
    lab: Lab,
) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    worker.faults.does_not_come_back = True
    lab.fleet.kill(worker)
    seen = (await lab.watch(10.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.SILENT
    assert f"runs as pid {worker.pid}" in seen.says
    assert "has not answered yet" in seen.says


async def test_an_unreachable_host_leaves_the_state_to_the_broker(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    lab.hosts.unreachable.add("web1")
    worker.faults.hangs = True
    seen = (await lab.watch(10.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.SILENT
    assert "no route to host" in seen.says


@pytest.mark.parametrize("counts", [True, False], ids=["counting", "not-counting"])
async def test_a_complete_round_is_complete_on_either_kind_of_broker(
    lab: Lab, counts: bool
) -> None:
    lab.broker = StandinBroker(lab.fleet, counts_listeners=counts)
    lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    assert (await lab.surveyor.refresh()).complete


async def test_a_failed_service_is_told_in_its_supervisors_words(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1", faults=Faults(dies_at_start=True))
    await lab.surveyor.refresh()
    assert worker.service is not None
    assert worker.service.state is ServiceState.FAILED
    assert "exited too quickly" in (await lab.see("a@web1")).says


def consumers(snapshot: FleetSnapshot) -> Mapping[str, int | None]:
    return {queue.name: queue.consumers for queue in snapshot.queues}


async def test_a_silent_worker_on_a_lost_host_claims_nothing_of_its_process(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    worker.faults.hangs = True
    lab.hosts.unreachable.add("web1")
    seen = (await lab.watch(12.0)).worker("a@web1")
    assert seen is not None
    assert seen.state is WorkerState.SILENT
    assert "nothing is known of its process: web1 is not reachable" in seen.says
    assert "alive" not in seen.says


async def test_a_service_that_stops_makes_a_stopping_worker_though_it_still_answers(
    lab: Lab,
) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.see("a@web1")
    assert worker.service is not None
    worker.service.state = ServiceState.STOPPING
    seen = (await lab.watch(3.0)).worker("a@web1")
    assert seen is not None
    assert (seen.state, seen.says) == (WorkerState.STOPPING, "its supervisor is stopping it")


async def test_one_name_on_two_hosts_is_a_conflict_before_anybody_answers(lab: Lab) -> None:
    for host in ("web1", "web2"):
        worker = lab.fleet.add_worker("w1@prod", host=host, unit=f"celery-{host}")
        worker.faults.never_replies = worker.faults.no_heartbeats = True
    seen = await lab.see("w1@prod")
    assert seen.state is WorkerState.CONFLICT
    assert seen.says.startswith("two processes share this name: pid ")
    assert "on web1" in seen.says
    assert "on web2" in seen.says
