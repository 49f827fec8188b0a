"""What a batch has done beyond what it owes is taken back: each act there and so as it was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.inbox import Message, Word
from celery_ops.runbook.loader import loads
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.undo import reversals
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.runbook.journal import Event
    from tests.runbook.operation import Ran

    Then = Callable[[Event], None]

LEAVES_A_BALANCER = """
name: leaves
summary: Takes each worker out of a balancer, and fails.
risk: low
params:
  on_host: {type: text, default: lb1}
steps:
  - roll: "*"
    keep_available: 0
    settle: 0s
    on_fail: undo
    steps:
      - run: [lbctl, out, "${{ worker.name }}"]
        on: ON
        env: {POOL: "${{ params.on_host }} ${{ worker.name }} ${{ before.worker.processes }}"}
        undo: [lbctl, in, "${{ worker.name }}"]
    verify:
      that: [worker.processes == 99]
      hold: 0s
      timeout: 5s
"""
DEPLOYS = """
name: leaves
summary: Deploys, once a host.
risk: low
steps:
  - roll: "*"
    order: by_name
    canary: 1
    batch: 1
    keep_available: 0
    settle: 0s
    max_failed: 1
    on_fail: undo
    steps:
      - run: [deploy, v2]
        once_per: host
        undo: [deploy, v1]
    verify: {that: [worker.processes == 2], hold: 0s, timeout: 5s}
"""
FIRST = """steps:
  - run: [migrate, up]
    on: web1
    undo: [migrate, down]
  - wait: for nothing
    until: fleet.workers == 2
    timeout: 5s
  - roll"""
RESTARTS = """
name: leaves
summary: Restarts.
risk: low
steps:
  - roll: "*"
    keep_available: 0
    steps:
      - restart: worker
    verify: {that: [worker.processes == 99], hold: 0s, timeout: 50s}
"""
SHRINKS = """
name: leaves
summary: Shrinks a pool.
risk: low
steps:
  - scale: "*"
    to: 1
    timeout: 50s
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1", concurrency=2)
    return made


def ran_on(operation: Operation, host: str, program: str) -> list[tuple[str, dict[str, str]]]:
    """What was run of a program on a host, and with which values."""
    shell = operation.hosts.shell(host)
    return [(str(one), dict(one.env)) for one in shell.ran if one.argv[0] == program]


def listed(ran: Ran) -> list[str]:
    """What `runs undo` says it would take back."""
    plan = ran.events[0].plan
    assert plan is not None
    found = reversals(Recall.of(ran.events), loads(plan.source, plan.file), plan)
    return [str(one) for one in found]


@pytest.mark.parametrize(
    ("on", "host"),
    [("worker", "web1"), ("lb1", "lb1"), ("${{ params.on_host }}", "lb1")],
    ids=["worker", "named", "parameter"],
)
async def test_a_command_is_taken_back_on_its_host_and_with_its_values(
    operation: Operation, on: str, host: str
) -> None:
    operation.write_runbook("leaves", LEAVES_A_BALANCER.replace("on: ON", f"on: {on}"))
    ran = await operation.run("leaves")
    assert ran.ending is Ending.UNDONE, ran.told()
    env = {"POOL": "lb1 w1@web1 2"}
    assert ran_on(operation, host, "lbctl") == [
        ("lbctl out w1@web1", env),
        ("lbctl in w1@web1", env),
    ]


async def test_it_is_said_on_which_host_a_command_would_be_taken_back(
    operation: Operation,
) -> None:
    text = LEAVES_A_BALANCER.replace("on: ON", "on: lb1")
    operation.write_runbook("leaves", text.replace("on_fail: undo", "on_fail: stop"))
    ran = await operation.run("leaves")
    assert listed(ran) == ["step 1.1, w1@web1: lbctl in w1@web1 on lb1"]


async def test_what_was_done_once_for_a_host_stays_if_a_worker_of_it_came_through(
    operation: Operation,
) -> None:
    operation.fleet.worker("w1@web1").processes = 3
    operation.fleet.add_worker("w2@web1", concurrency=2)
    operation.fleet.add_worker("w3@web2", concurrency=3, host="web2")
    operation.write_runbook("leaves", DEPLOYS)
    ran = await operation.run("leaves")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert (ran.end.report.done, ran.end.report.failed) == (("w2@web1",), ("w1@web1", "w3@web2"))
    assert [argv for argv, _ in ran_on(operation, "web1", "deploy")] == ["deploy v2"]
    assert [argv for argv, _ in ran_on(operation, "web2", "deploy")] == ["deploy v2", "deploy v1"]
    stays = "step 1.1, w1@web1: cannot be taken back: w2@web1 came through with it"
    assert f"not undone: {stays}" in ran.end.says
    assert listed(ran) == [stays]


async def test_an_undo_after_which_the_last_check_fails_does_not_end_well(
    operation: Operation,
) -> None:
    path = await planned(operation, f"{RESTARTS}finally: [{{check: fleet.workers == 1}}]\n")
    assert (await operation.take_up(path)).ending is Ending.STOPPED
    operation.fleet.add_worker("w2@web1")
    undone = await operation.take_up(path, undo=True)
    assert (undone.ending, undone.end.state) == (Ending.STOPPED, RunState.UNDONE), undone.told()
    assert "fleet.workers == 1 does not hold at the end" in undone.end.says


# --- the first abort ------------------------------------------------------------------------------

ABORT = Message(Word.ABORT, "bob@desk")


def aborts(operation: Operation, event: EventKind, step: str, times: int = 1) -> Then:
    """Abort the run so often, right after its first line of that kind and step."""
    left = times

    def then(written: Event) -> None:
        nonlocal left
        if (written.event, written.step) == (event, step):
            while left:
                left -= 1
                assert operation.executor is not None
                operation.executor.brake.hear(ABORT)

    return then


async def planned(operation: Operation, text: str) -> Path:
    operation.write_runbook("leaves", text)
    return operation.write_down(await operation.plan("leaves"))


async def test_the_first_abort_takes_back_what_the_current_batch_has_done(
    operation: Operation,
) -> None:
    path = await planned(operation, LEAVES_A_BALANCER.replace("on: ON", "on: lb1"))
    then = aborts(operation, EventKind.PROGRESS, "1 verify")
    ran = await operation.take_up(path, then=then)
    assert (ran.ending, ran.end.state) == (Ending.ABORTED, RunState.ABORTED), ran.told()
    assert [argv for argv, _ in ran_on(operation, "lb1", "lbctl")] == [
        "lbctl out w1@web1",
        "lbctl in w1@web1",
    ]
    assert ran.end.report is not None
    assert (ran.end.report.returned, ran.end.report.done) == (("w1@web1",), ())


async def test_what_an_abort_cannot_take_back_is_said(operation: Operation) -> None:
    text = LEAVES_A_BALANCER.replace("on: ON", "on: lb1")
    path = await planned(operation, text.replace("undo: [lbctl, in", "x-undo: [lbctl, in"))
    then = aborts(operation, EventKind.PROGRESS, "1 verify")
    ran = await operation.take_up(path, then=then)
    assert (ran.ending, ran.end.state) == (Ending.NEEDS_HUMAN, RunState.ABORTED), ran.told()
    assert "not undone: step 1.1, w1@web1: cannot be taken back" in ran.end.says


async def test_an_abort_leaves_what_came_through_before(operation: Operation) -> None:
    operation.fleet.add_worker("w2@web1", concurrency=2)
    text = LEAVES_A_BALANCER.replace("on: ON", "on: lb1").replace("== 99", "== 2")
    text = text.replace("steps:\n  - roll", FIRST, 1).replace("settle: 0s", "batch: 1")
    text = text.replace("hold: 0s", "hold: 2s")
    path = await planned(operation, text)
    first, second = (await operation.look()).workers
    then = aborts(operation, EventKind.INTENT, "3.1", 1)

    def at_the_second(event: Event) -> None:
        if event.target == second.name:
            then(event)

    ran = await operation.take_up(path, then=at_the_second)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert [argv for argv, _ in ran_on(operation, "lb1", "lbctl")] == [
        f"lbctl out {first.name}",
        f"lbctl out {second.name}",
        f"lbctl in {second.name}",
    ]
    assert [argv for argv, _ in ran_on(operation, "web1", "migrate")] == ["migrate up"]


async def test_an_abort_does_not_stop_what_was_restarted(operation: Operation) -> None:
    operation.write_runbook("leaves", RESTARTS)
    path = operation.write_down(await operation.plan("leaves"))
    then = aborts(operation, EventKind.PROGRESS, "1 verify")
    ran = await operation.take_up(path, then=then)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert operation.fleet.worker("w1@web1").consuming
    assert ran.end.report is not None
    assert ran.end.report.done == ("w1@web1",)


@pytest.mark.parametrize(("seconds", "stays"), [(8.0, False), (600.0, True)], ids=str)
async def test_a_worker_that_was_started_is_stopped_again_once_its_tasks_have_ended(
    operation: Operation, seconds: float, stays: bool
) -> None:
    for name in ("w2@web1", "w3@web1"):
        operation.fleet.add_worker(name, queues=("default", "mail"))
    await operation.run("stop-worker", workers="w1@web1")
    for _ in range(30):
        operation.fleet.send("default", seconds)
    path = await planned(operation, RESTARTS.replace('"*"', "w1@web1").replace("restart", "start"))
    then = aborts(operation, EventKind.PROGRESS, "1 verify")
    ran = await operation.take_up(path, then=then)
    assert ran.ending is (Ending.NEEDS_HUMAN if stays else Ending.ABORTED), ran.told()
    assert bool(operation.fleet.worker("w1@web1").consuming) is stays
    assert not operation.fleet.lost
    assert await operation.broker.taken() == ()
    assert ran.end.report is not None
    assert ran.end.report.returned == (() if stays else ("w1@web1",))
    if stays:
        assert "not undone: step 1.1, w1@web1: stop it again: not drained" in ran.end.says


RENEWS = """
name: leaves
summary: Stops and starts each worker, and fails.
risk: low
steps:
  - roll: "*"
    keep_available: 0
    on_fail: undo
    steps:
      - stop: worker
        timeout: 1m
      - start: worker
        timeout: 1m
    verify:
      that: [worker.processes == 99]
      hold: 0s
      timeout: 5s
"""


async def test_a_worker_that_the_run_itself_had_stopped_is_left_running(
    operation: Operation,
) -> None:
    operation.write_runbook("leaves", RENEWS)
    ran = await operation.run("leaves")
    assert ran.ending is Ending.UNDONE, ran.told()
    assert operation.fleet.worker("w1@web1").consuming
    assert listed(ran) == []
    assert await operation.broker.taken() == ()


async def test_an_abort_gives_a_pool_its_size_again(operation: Operation) -> None:
    for _ in range(2):
        operation.fleet.send("default", 7200.0)
    operation.fleet.worker("w1@web1").processes = 3
    path = await planned(operation, SHRINKS)
    then = aborts(operation, EventKind.PROGRESS, "1")
    ran = await operation.take_up(path, then=then)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert "All processes busy" in ran.told()
    assert operation.fleet.worker("w1@web1").processes == 3


async def test_an_abort_whose_executor_died_takes_the_batch_back_when_it_is_resumed(
    operation: Operation,
) -> None:
    path = await planned(operation, LEAVES_A_BALANCER.replace("on: ON", "on: lb1"))

    def dies(event: Event) -> None:
        then(event)
        if event.event is EventKind.ABORTING:
            raise KeyboardInterrupt

    then = aborts(operation, EventKind.PROGRESS, "1 verify")
    with pytest.raises(KeyboardInterrupt):
        await operation.take_up(path, then=dies)
    ran = await operation.take_up(path)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert [argv for argv, _ in ran_on(operation, "lb1", "lbctl")][-1] == "lbctl in w1@web1"


@pytest.mark.parametrize("once", ["", "\n        once_per: host"], ids=["each", "once a host"])
async def test_what_was_taken_back_before_a_run_is_gone_on_with_is_done_anew(
    operation: Operation, once: str
) -> None:
    operation.fleet.add_worker("w2@web2", concurrency=2, host="web2")
    text = LEAVES_A_BALANCER.replace("on: ON", f"on: worker{once}").replace("== 99", "== 2")
    text = text.replace("hold: 0s", "hold: 2s").replace("settle: 0s", "batch: 2\n    canary: 0")
    path = await planned(operation, text)
    first = aborts(operation, EventKind.PROGRESS, "1 verify")
    second = aborts(operation, EventKind.RESULT, "undo 1.1")

    def then(event: Event) -> None:
        first(event)
        second(event)

    broken_off = await operation.take_up(path, then=then)
    assert broken_off.end.state is RunState.INTERRUPTED, broken_off.told()
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    given = [[argv for argv, _ in ran_on(operation, one, "lbctl")] for one in ("web1", "web2")]
    out, back = "lbctl out w2@web2", "lbctl in w2@web2"
    assert given == [["lbctl out w1@web1"], [out, back, out]]
