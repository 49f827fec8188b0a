"""Waiting: no longer than what is waited for, and nobody is asked who cannot answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.brake import Brake
from celery_ops.runbook.events import EventKind
from celery_ops.runbook.inbox import Inbox
from celery_ops.runbook.judges import Judgement, Seen, StaysDrained
from celery_ops.runbook.watch import POLL_SECONDS, Watch
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from celery_ops.model import FleetSnapshot

NAME = "w1@web1"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker(NAME)
    made.fleet.add_worker("w2@web1")
    return made


async def test_what_is_done_at_once_waits_for_no_poll(operation: Operation) -> None:
    service = operation.fleet.workers[0].service
    assert service is not None
    service.stop_seconds = 0.05
    ran = await operation.run("stop-worker", workers=NAME)
    (begun,) = [event for event in ran.events if event.verb == "stop"]
    (done,) = [
        event
        for event in ran.events
        if event.event is EventKind.RESULT and event.step == begun.step
    ]
    assert (done.at - begun.at).total_seconds() < POLL_SECONDS / 2


async def test_what_takes_long_is_looked_at_twice_a_second_at_most(operation: Operation) -> None:
    operation.fleet.send("default", 100.0)
    await operation.run("drain-worker", workers=NAME)
    first_seconds = 50
    assert len(operation.broker.asked) < 100 / POLL_SECONDS + first_seconds


async def test_a_stop_that_cuts_off_what_runs_takes_two_looks(operation: Operation) -> None:
    """One look misses a task that goes from one list into another while these are read."""
    service = operation.fleet.workers[0].service
    assert service is not None
    service.signals_children = True
    (planned,) = (await operation.plan("drain-worker", workers=NAME)).targets
    await operation.run("drain-worker", workers=NAME)
    surveyor = operation.surveyor()
    for _ in range(4):
        await surveyor.refresh()
        await operation.clock.sleep(1)
    now = operation.broker.clock.now()
    judge = StaysDrained(planned, planned.incarnation, now, timeout=60.0)
    looks = [await surveyor.refresh(), await surveyor.refresh()]
    said = [judge(looks[at]).seen for at in (0, 0, 1)]
    assert said == [Seen.NOT_YET, Seen.NOT_YET, Seen.DONE]


@pytest.mark.parametrize(
    ("etas", "timeout", "gap"),
    [((20.0,), 60.0, 0.0), (range(18, 80, 3), 8.0, 4.0), (range(18, 80, 3), 60.0, 15.0)],
    ids=["not-soon", "half-its-timeout-at-most", "no-gap"],
)
async def test_a_warm_stop_waits_for_a_gap_between_eta_tasks(
    operation: Operation, etas: Sequence[float], timeout: float, gap: float
) -> None:
    for eta in etas:
        operation.fleet.send("default", 0.0, eta=eta)
    (planned,) = (await operation.plan("drain-worker", workers=NAME)).targets
    start = operation.clock.monotonic()
    await operation.run("drain-worker", workers=NAME)
    surveyor = operation.surveyor()
    while operation.clock.monotonic() < start + 17:
        await surveyor.refresh()
        await operation.clock.sleep(0.5)
    now = operation.broker.clock.now()
    judge = StaysDrained(planned, planned.incarnation, now, timeout=timeout)
    begun = operation.clock.monotonic()
    while judge(await surveyor.refresh()).seen is not Seen.DONE:
        await operation.clock.sleep(0.5)
    assert gap <= operation.clock.monotonic() - begun <= gap + 3


@pytest.mark.parametrize("runs", [True, False], ids=["runs", "does-not-run"])
async def test_a_worker_is_asked_once_it_is_seen_to_run(operation: Operation, runs: bool) -> None:
    def first(_: FleetSnapshot) -> Judgement:
        return Judgement(Seen.DONE if runs else Seen.NOT_YET, "")

    def judge(snapshot: FleetSnapshot) -> Judgement:
        worker = snapshot.worker(NAME)
        has_told = worker is not None and worker.active is not None
        return Judgement(Seen.DONE if has_told else Seen.NOT_YET, "has not told")

    brake = Brake(Inbox(operation.directory / "inbox"), operation.clock, lambda: None)
    watch = Watch(operation.surveyor(), operation.clock, brake)
    seen = await watch.until(
        judge,
        worker=NAME,
        service=operation.fleet.refs[0],
        timeout=5.0,
        safe=True,
        progress=lambda _: None,
        first=first,
    )
    assert (seen.seen is Seen.DONE) is runs
    asked = [to.names for _, to in operation.broker.asked if to is not None]
    assert asked == ([(NAME,)] if runs else [])
