"""What a killed worker held is found, and goes back only when nobody holds it; counted."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker.records import encode_lease
from celery_ops.model import Holder
from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

PROGRAMS = (Program("threads"), Program("prefork", pool="prefork"), Program("other"))
NUMBERS = itertools.count(1)
ETA = 25.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


def held(fleet: Operations, numbers: set[int]) -> bool:
    return fleet.numbers_of_unacked() >= numbers


def numbers(count: int) -> list[int]:
    return [next(NUMBERS) for _ in range(count)]


def orphans(operator: Operator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = operator.status()["orphans"]
    return found


@pytest.mark.parametrize("name", ["threads", "prefork"])
def test_what_a_killed_worker_held_runs_once_more_and_the_rest_for_the_first_time(
    fleet: Operations, ann: Operator, name: str
) -> None:
    """Of seven held: three wait for their ETA, three were prefetched, one acknowledges late and was
    running: that one runs again from its beginning, as it is meant to.
    """
    later, (late, *waiting) = numbers(3), numbers(4)
    for number in later:
        fleet.fleet.send(number, queue=name, countdown=ETA)
    wait_until(lambda: held(fleet, set(later)), what="tasks that wait for their time")
    fleet.fleet.send(late, 3.0, task="rig.work_late", queue=name)
    for number, priority in zip(waiting, (0, 3, 9), strict=True):
        fleet.fleet.send(number, queue=name, priority=priority)
    wait_until(lambda: late in fleet.fleet.starts(), what="a task that runs")
    everything = {*later, late, *waiting}
    wait_until(lambda: held(fleet, everything), what="seven messages are held")
    fleet.kill(name)
    assert fleet.numbers_of_unacked() == everything

    wait_until(lambda: len(orphans(ann)) == 7, what="seven orphans")
    (problem,) = (one for one in ann.status()["problems"] if one["rule"] == "orphaned-messages")
    assert (problem["level"], problem["subject"]) == ("error", name)
    assert "7 messages" in problem["says"]
    assert problem["fix"] == f"celery-ops runbook restore-orphans -p queue={name}"
    planned = ann.do("runbook", "restore-orphans", "--plan")
    assert planned.code == 0, planned.all
    for told in ("6 rig.work", "1 rig.work_late", "other@rig", "acknowledged late"):
        assert told in planned.out
    assert f"restore-orphans -p queue={name}" in ann.do("status").out
    done = ann.do("runbook", "restore-orphans", "--yes")
    assert done.code == 0, done.all
    wait_until(
        lambda: everything <= fleet.fleet.ends().keys(), what="all tasks end", timeout=ETA + 30
    )
    ends, starts = fleet.fleet.ends(), fleet.fleet.starts()
    assert {number: ends[number] for number in everything} == dict.fromkeys(everything, 1)
    assert starts[late] == 2
    assert {starts[number] for number in (*later, *waiting)} == {1}
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    again = ann.do("runbook", "restore-orphans", "--yes")
    assert again.code == 7
    assert "nothing to do" in again.err
    assert orphans(ann) == []


@pytest.fixture
def abandoned(fleet: Operations) -> Iterator[set[int]]:
    """Three messages that a killed worker left; in the end each runs, once."""
    left = set(numbers(3))
    for number in left:
        fleet.fleet.send(number, queue="threads", countdown=1.0)
    later = set(numbers(3))
    for number in later:
        fleet.fleet.send(number, queue="threads", countdown=20.0)
    wait_until(lambda: left <= fleet.fleet.ends().keys(), what="the first have ended")
    wait_until(lambda: fleet.numbers_of_unacked() == later, what="the others are held")
    fleet.kill("threads")
    yield later
    wait_until(lambda: later <= fleet.fleet.ends().keys(), what="all end", timeout=60)
    assert {fleet.fleet.starts()[number] for number in left | later} == {1}
    assert fleet.numbers_of_unacked() == set()


def test_while_a_worker_is_frozen_nothing_is_given_back(
    fleet: Operations, ann: Operator, abandoned: set[int]
) -> None:
    """It listens and does not answer, so nobody's word can stand for it."""
    wait_until(lambda: len(orphans(ann)) == 3, what="three orphans")
    pid = fleet.pid("other")
    os.kill(pid, signal.SIGSTOP)
    try:
        for given in ((), ("-p", "vouched=*")):
            refused = ann.do("runbook", "restore-orphans", "--yes", *given)
            assert refused.code == 7, refused.all
            assert "other@rig has not answered" in refused.err
            assert "it is not proved that nobody holds 3 messages of threads" in refused.err
        status = ann.status()
        assert status["orphans"] == []
        (unproven,) = status["unproven"]
        assert (unproven["messages"], unproven["vouch_for"]) == (3, [])
        assert "other@rig has not answered" in unproven["why"]
        assert fleet.numbers_of_unacked() == abandoned
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: fleet.consumes_all("other"), what="the frozen one answers again")
    assert ann.do("runbook", "restore-orphans", "--yes").code == 0


def test_a_worker_that_dies_between_plan_and_run_is_no_reason_to_trust_the_plan(
    fleet: Operations, ann: Operator, abandoned: set[int]
) -> None:
    wait_until(lambda: len(orphans(ann)) == 3, what="three orphans")
    somebody = Holder("bob@desk", "r-1", "drain-worker", datetime.now(UTC))
    fleet.redis.set("celery-ops:lease", encode_lease(somebody, "token"), px=10_000)
    running = ann.start("runbook", "restore-orphans", "--yes", "--wait", "30s")
    ann.until(lambda event: event["event"] == "waiting", "a run that waits")
    pid = fleet.pid("other")
    os.kill(pid, signal.SIGSTOP)
    try:
        refused = running.wait()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert refused.code == 7, refused.all
    assert "other@rig has not answered" in refused.all
    assert not [event for event in ann.events() if event["event"] == "intent"]
    assert fleet.numbers_of_unacked() == abandoned
    wait_until(lambda: fleet.consumes_all("other"), what="the frozen one answers again")
    assert ann.do("runbook", "restore-orphans", "--yes").code == 0


@pytest.mark.usefixtures("abandoned")
def test_without_services_somebody_has_to_vouch_for_the_workers(
    fleet: Operations, operator: MakeOperator
) -> None:
    bob = operator("bob", "-b", fleet.url)
    wait_until(lambda: bool(bob.status()["unproven"]), what="messages of which nothing is proved")
    (unproven,) = bob.status()["unproven"]
    assert unproven["vouch_for"] == ["*"]
    assert "no service is configured" in unproven["why"]
    refused = bob.do("runbook", "restore-orphans", "--yes", "-p", "vouched=other@rig")
    assert refused.code == 7, refused.all
    assert "-p vouched='*'" in refused.err
    given = bob.do("runbook", "restore-orphans", "--yes", "-p", "vouched=*")
    assert given.code == 0, given.all


def test_what_a_stopping_worker_still_runs_is_not_given_to_another(
    fleet: Operations, ann: Operator
) -> None:
    """It is silent and not even bound to the broker any more; only its supervisor tells."""
    (number,) = numbers(1)
    fleet.fleet.send(number, task="rig.hold_late", queue="prefork")
    wait_until(lambda: number in fleet.fleet.starts(), what="a task that runs")
    stopping = threading.Thread(target=fleet.stop_elsewhere, args=("prefork",))
    stopping.start()
    try:
        wait_until(lambda: bool(ann.status()["unproven"]), what="a message held by nobody visible")
        refused = ann.do("runbook", "restore-orphans", "--yes", "-p", "vouched=*")
        assert refused.code == 7, refused.all
        assert "prefork@rig is stopping and may still run tasks" in refused.err
        assert number not in fleet.fleet.ends()
    finally:
        fleet.fleet.release(number)
        stopping.join()
    fleet.start("prefork")
    assert fleet.fleet.starts()[number] == fleet.fleet.ends()[number] == 1
    assert fleet.numbers_of_unacked() == set()


def test_what_a_rate_limit_holds_back_is_not_given_to_another(
    fleet: Operations, ann: Operator
) -> None:
    limited = numbers(3)
    for number in limited:
        fleet.fleet.send(number, task="rig.limited", queue="other")
    wait_until(lambda: limited[0] in fleet.fleet.ends(), what="the first of them has run")
    wait_until(lambda: bool(ann.status()["unproven"]), what="messages held by nobody visible")
    (unproven,) = ann.status()["unproven"]
    assert (unproven["queue"], unproven["messages"]) == ("other", 2)
    refused = ann.do("runbook", "restore-orphans", "--yes", "-p", "vouched=*")
    assert refused.code == 7, refused.all
    assert "has a rate limit on rig.limited and may hold them back, unseen" in refused.err
    assert fleet.numbers_of_unacked() == set(limited[1:])
    fleet.stop("other")
    fleet.redis.delete("other")
    fleet.start("other")
