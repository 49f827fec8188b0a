"""How long silence is watched, and what is said of the burst at the start: by the schedule."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import PeriodicTask
from celery_ops.runbook.events import Ending, EventKind
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.runbook.plan import Plan, PlannedStep

BEAT = "supervisord beat on web1"
OFTEN = {"task": "app.often", "schedule": 20}
HOURLY = {"task": "app.hourly", "schedule": "1:00:00"}
NEVER_NOW = {"task": "app.new_year", "schedule": "<crontab: 0 0 1 1 * (m/h/dM/MY/d)>"}
AROUND = """
name: around
summary: Something without a scheduler.
risk: low
steps:
  - stop: beat
  - check: fleet.workers == 1
  - start: beat
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1")
    made.write_runbook("around", AROUND)
    made.fleet.schedule = {"often": OFTEN, "hourly": HOURLY, "new-year": NEVER_NOW}
    made.fleet.add_beat()
    return made


def on_beat(plan: Plan) -> PlannedStep:
    return next(one for one in plan.steps if one.targets)


async def test_silence_is_longer_than_the_shortest_interval(operation: Operation) -> None:
    plan = await operation.plan("stop-beat")
    assert on_beat(plan).silence == 25.0
    assert on_beat(plan).says == (
        "stop beat, and watch for 25s that no scheduler sends: longer than the shortest interval,"
        " 20s (often; w1@web1)"
    )
    assert plan.hazards == ()
    before = operation.clock.monotonic()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert 25.0 <= operation.clock.monotonic() - before < 40.0
    assert "in 25s no message with a scheduler's mark" in ran.end.says


@pytest.mark.parametrize(
    ("given", "seconds", "says"),
    [
        ("1m", 60.0, "longer than the shortest interval, 20s"),
        ("21s", 21.0, "longer than the shortest interval, 20s"),
        ("3s", 3.0, "as given, and no longer than the shortest interval, 20s"),
    ],
)
async def test_what_is_given_by_hand_counts_as_it_is(
    operation: Operation, given: str, seconds: float, says: str
) -> None:
    plan = await operation.plan("stop-beat", silence=given)
    assert on_beat(plan).silence == seconds
    assert says in on_beat(plan).says
    told = [one for one in plan.hazards if "-p silence=25s waits for longer" in one]
    assert bool(told) is (seconds <= 20.0)
    assert (await operation.execute(plan)).ending is Ending.DONE


async def test_nobody_waits_for_an_hour_unless_it_was_asked_for(operation: Operation) -> None:
    operation.fleet.schedule = {"hourly": HOURLY}
    plan = await operation.plan("stop-beat")
    assert on_beat(plan).silence == 600.0
    (hazard,) = plan.hazards
    assert "for 10m proves little: the shortest interval is 1h (hourly)" in hazard
    plan = await operation.plan("stop-beat", silence="2h")
    assert (on_beat(plan).silence, plan.hazards) == (7200.0, ())


async def test_where_no_schedule_is_known_that_is_said(operation: Operation) -> None:
    operation.fleet.schedule = {}
    plan = await operation.plan("stop-beat")
    assert on_beat(plan).silence == 5.0
    assert on_beat(plan).says.endswith("how often it sends is not known")


async def test_before_it_starts_it_is_said_what_it_sends_at_once(operation: Operation) -> None:
    await operation.run("stop-beat", silence="1s")
    await operation.clock.sleep(600)
    plan = await operation.plan("start-beat")
    assert on_beat(plan).says == "start beat, and watch for 5s that no more than one sends"
    (hazard,) = plan.hazards
    assert hazard.startswith(f"{BEAT} was stopped for 10m")
    assert hazard.endswith(
        ": often (every 20s) is sent at once, if it kept its schedule; perhaps hourly"
        " (every 1h); 1 other did not come due (not known: what a database adds, if it has one)"
    )
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert "often (every 20s) is sent at once" in ran.end.says
    events = list(ran.events)
    told = next(
        at
        for at, one in enumerate(events)
        if one.event is EventKind.PROGRESS and one.outcome and "was stopped for" in one.outcome.says
    )
    begun = next(at for at, one in enumerate(events) if one.intent and "start" in one.intent)
    assert told < begun, "it is said before anything is started"


async def test_what_redbeat_keeps_is_known_for_sure(operation: Operation) -> None:
    await operation.run("stop-beat", silence="1s")
    now = operation.clock.now()
    operation.fleet.redbeat = (
        PeriodicTask("often", "app.often", "every 20s", 20.0, due_at=now),
        PeriodicTask("hourly", "app.hourly", "every 1h", 3600.0, due_at=now + timedelta(hours=1)),
    )
    plan = await operation.plan("start-beat")
    (hazard,) = plan.hazards
    assert hazard.endswith(": often (every 20s) is sent at once; 2 others did not come due")


async def test_a_plan_that_stops_it_first_says_what_may_come(operation: Operation) -> None:
    plan = await operation.plan("around")
    (hazard,) = plan.hazards
    assert hazard == (
        f"when {BEAT} starts, each entry that came due meanwhile is sent once, at once, if it kept"
        " its schedule: of new-year (crontab 0 0 1 1 *), hourly (every 1h), often (every 20s)"
    )
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert f"{BEAT} was stopped for 2" in ran.told()
