"""A lease that is lost while a run waits: it is seen there, and not only at the next effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import Holder, ServiceState
from celery_ops.runbook.events import Ending, EventKind, Result, RunState
from celery_ops.runbook.inbox import Message, Word, following
from celery_ops.runbook.journal import open_question, read, state_of
from celery_ops.runbook.notice import break_lease
from tests.runbook.operation import Operation, Ran

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

AT_ONCE = 8.0
"""Seconds: until the next renewal, and the next poll."""
LONG = 3600.0
W1 = {"workers": "w1@web1", "drain_timeout": "2h"}

UNANSWERED = """
name: unanswered
summary: Drains a worker that does not come back, and asks what to do.
risk: low
steps:
  - roll: w1@web1
    keep_available: 0
    steps:
      - drain: worker
        timeout: 1s
    verify:
      that: [worker.online]
      timeout: 1m
"""
SETTLES = """
name: settles
summary: Proves two workers, long after each other.
risk: low
steps:
  - roll: "*"
    batch: 1
    settle: 10m
    steps:
      - check: worker.online
    verify:
      that: [worker.online]
      timeout: 1m
"""


@dataclass(frozen=True)
class Wait:
    """Something that a run waits for, and how it is seen that it does."""

    runbook: str
    params: dict[str, str]
    prepare: Callable[[Operation], None]
    waits: Callable[[Operation, Path], bool]
    owed: tuple[str, ...] = ()


def nothing(_: Operation) -> None:
    pass


def busy_for_long(operation: Operation) -> None:
    operation.fleet.send("default", LONG)


def stops_slowly(operation: Operation) -> None:
    service = operation.fleet.worker("w1@web1").service
    assert service is not None
    service.stop_seconds = LONG


def drains(operation: Operation, _: Path) -> bool:
    return not operation.fleet.worker("w1@web1").consuming


def stops(operation: Operation, _: Path) -> bool:
    service = operation.fleet.worker("w1@web1").service
    return service is not None and service.state is ServiceState.STOPPING


def is_renewed(operation: Operation, _: Path) -> bool:
    service = operation.fleet.worker("w1@web1").service
    return service is not None and service.starts == 2


def settles(_: Operation, path: Path) -> bool:
    return any(event.step == "1 verify" and event.event is EventKind.RESULT for event in read(path))


def is_paused(operation: Operation, path: Path) -> bool:
    assert operation.executor is not None
    operation.executor.brake.hear(Message(Word.PAUSE, "ann@desk"))
    return any(event.event is EventKind.PAUSED for event in read(path))


def asks(_: Operation, path: Path) -> bool:
    return open_question(list(read(path))) is not None


RESUME, START = "celery-ops worker resume w1@web1", "celery-ops worker start w1@web1"
WAITS = {
    "drain": Wait("rolling-restart", W1, busy_for_long, drains, (RESUME,)),
    "stop": Wait("rolling-restart", W1, stops_slowly, stops, (RESUME, START)),
    "hold": Wait("rolling-restart", {**W1, "hold": "2m"}, nothing, is_renewed),
    "settle": Wait("settles", {}, nothing, settles),
    "pause": Wait("rolling-restart", W1, nothing, is_paused),
    "question": Wait("unanswered", {}, busy_for_long, asks),
}


@pytest.fixture(params=list(WAITS.values()), ids=list(WAITS))
def wait(request: pytest.FixtureRequest) -> Wait:
    found: Wait = request.param
    return found


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.write_runbook("unanswered", UNANSWERED)
    made.write_runbook("settles", SETTLES)
    for number in (1, 2, 3):
        made.fleet.add_worker(f"w{number}@web1", queues=("default", "mail"))
    return made


class Lost:
    """A run that loses its lease while it waits, and how long it went on after that."""

    def __init__(self, operation: Operation, wait: Wait) -> None:
        self._operation = operation
        self._wait = wait
        self._at = 0.0
        self.orders = 0

    async def by(self, lose: Callable[[Operation], Awaitable[None]]) -> Ran:
        operation, wait = self._operation, self._wait
        wait.prepare(operation)
        path = operation.write_down(await operation.plan(wait.runbook, **wait.params))

        async def watch() -> None:
            while operation.executor is None or not wait.waits(operation, path):
                await operation.clock.sleep(0.1)
            await operation.clock.sleep(7)
            self.orders = len(operation.broker.orders)
            await lose(operation)
            self._at = operation.clock.monotonic()

        with following(path.with_suffix(".inbox")):
            return await operation.run_and(path, watch)

    @property
    def seconds(self) -> float:
        assert self._at
        return self._operation.clock.monotonic() - self._at


def eve(operation: Operation) -> Holder:
    return Holder("eve@attic", "another", "drain-worker", operation.clock.now())


async def steal(operation: Operation) -> None:
    operation.broker.lease.steal(eve(operation))


async def break_it(operation: Operation) -> None:
    holder = await operation.broker.holder()
    assert holder is not None
    assert await break_lease(operation.broker, holder, by="bob@desk", clock=operation.clock)


async def sleep_while_it_is_taken(operation: Operation) -> None:
    """As a process is that was stopped by SIGSTOP, or on a laptop that was closed."""
    operation.clock.suspend(60)
    await operation.broker.lease.acquire(eve(operation))


def losses(ran: Ran) -> list[tuple[Result, str]]:
    return [
        (event.outcome.result, event.outcome.says)
        for event in ran.events
        if event.event is EventKind.LEASE_LOST and event.outcome
    ]


@pytest.mark.parametrize("lose", [steal, sleep_while_it_is_taken])
async def test_a_run_whose_lease_somebody_else_has_ends_where_it_waits_and_says_who(
    operation: Operation, wait: Wait, lose: Callable[[Operation], Awaitable[None]]
) -> None:
    lost = Lost(operation, wait)
    ran = await lost.by(lose)
    assert lost.seconds < AT_ONCE, ran.told()
    assert "Somebody else has the lease now: eve@attic runs drain-worker (another)" in ran.end.says
    assert losses(ran)[-1][0] is Result.FAILED
    assert ran.end.state is RunState.FAILED
    assert ran.ending is (Ending.NEEDS_HUMAN if wait.owed else ran.ending)
    assert ran.ending in {Ending.NEEDS_HUMAN, Ending.STOPPED, Ending.LEASE_HELD}
    report = ran.end.report
    assert report is not None
    assert {one.mend for one in report.owed} == set(wait.owed)
    assert len(operation.broker.orders) == lost.orders, "nothing was sent afterwards"


async def test_a_run_whose_lease_was_broken_ends_where_it_waits_and_can_be_gone_on_with(
    operation: Operation, wait: Wait
) -> None:
    lost = Lost(operation, wait)
    ran = await lost.by(break_it)
    assert lost.seconds < AT_ONCE, ran.told()
    assert ran.end.state is RunState.INTERRUPTED
    assert ran.ending is (Ending.NEEDS_HUMAN if wait.owed else Ending.INTERRUPTED)
    assert "broken by bob@desk" in ran.end.says
    assert ran.end.report is not None
    assert ran.end.report.again.startswith("celery-ops runs resume ")
    assert len(operation.broker.orders) == lost.orders, "nothing was sent afterwards"


async def test_a_lease_that_nobody_has_is_taken_again_while_the_run_waits(
    operation: Operation,
) -> None:
    found: list[list[EventKind]] = []

    async def forget(operation: Operation) -> None:
        operation.broker.lease.forget()
        await operation.clock.sleep(AT_ONCE)
        kinds = [event.event for event in read(operation.directory / "runs" / _journal(operation))]
        found.append([kind for kind in kinds if kind is not EventKind.PROGRESS])
        assert await operation.broker.holder() is not None

    operation.fleet.send("default", 60.0)
    wait = Wait("rolling-restart", {**W1, "hold": "0s"}, nothing, drains)
    ran = await Lost(operation, wait).by(forget)
    assert ran.ending is Ending.DONE, ran.told()
    assert found[0][-2:] == [EventKind.LEASE_LOST, EventKind.LEASED]


async def test_a_lease_that_was_given_and_nobody_heard_of_it_is_the_runs_own(
    operation: Operation,
) -> None:
    async def forget(operation: Operation) -> None:
        operation.broker.lease.replies_lost = 1
        operation.broker.lease.forget()
        await operation.clock.sleep(AT_ONCE)

    operation.fleet.send("default", 60.0)
    wait = Wait("rolling-restart", {**W1, "hold": "0s"}, nothing, drains)
    ran = await Lost(operation, wait).by(forget)
    assert ran.ending is Ending.DONE, ran.told()


async def test_a_broker_that_is_away_for_longer_than_the_lease_pauses_the_run(
    operation: Operation,
) -> None:
    states: list[RunState] = []

    async def go_away(operation: Operation) -> None:
        operation.broker.is_down = True
        await operation.clock.sleep(operation.broker.lease.ttl + 2)
        path = operation.directory / "runs" / _journal(operation)
        states.append(state_of(list(read(path)), held=True))
        await operation.clock.sleep(60)
        operation.broker.is_down = False
        await operation.clock.sleep(3)
        states.append(state_of(list(read(path)), held=True))

    operation.fleet.send("default", 200.0)
    wait = Wait("rolling-restart", {**W1, "hold": "0s"}, nothing, drains)
    ran = await Lost(operation, wait).by(go_away)
    assert ran.ending is Ending.DONE, ran.told()
    assert states == [RunState.PAUSED, RunState.RUNNING]
    assert losses(ran) == [(Result.UNKNOWN, "The lease ran out before it could be renewed.")]


def _journal(operation: Operation) -> str:
    return f"20261120-030000-{operation.runs:04x}.jsonl"
