"""Tasks are shown where they are, and revoked and terminated on real workers; each is counted."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.mortal import Death, When
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

NUMBERS = itertools.count(1)
PROGRAMS = (Program("forks", pool="prefork"), Program("threads"))
ETA = 25.0
NODES = ("forks@rig", "threads@rig")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """A late task of a process that is lost would run again, were its message not acknowledged."""
    conf = {"task_reject_on_worker_lost": True}
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS, conf=conf) as made:
        yield made


def numbers(count: int) -> list[int]:
    return [next(NUMBERS) for _ in range(count)]


def revoked_in(fleet: Operations) -> dict[str, set[str]]:
    """As the workers say it to Celery's own command."""
    to = ("--destination", ",".join(NODES), "--timeout", "20")
    said = fleet.fleet.command("inspect", "revoked", "--json", *to)
    return {node: set(ids) for node, ids in json.loads(said.stdout).items()}


def keys(fleet: Operations) -> set[bytes]:
    """All there are, but for our own, which expire."""
    redis: Any = fleet.redis
    return {key for key in redis.keys("*") if b"celery-ops" not in key}


def told(said: Said) -> str:
    """What a command printed, unfolded."""
    return " ".join(said.all.split())


def has_begun(fleet: Operations, number: int) -> None:
    wait_until(lambda: number in fleet.fleet.starts(), what=f"task {number} runs")


def have_ended(fleet: Operations, *expected: int) -> None:
    wait_until(lambda: set(expected) <= fleet.fleet.ends().keys(), what="the others end")


@pytest.fixture
def held(fleet: Operations) -> Iterator[tuple[int, str]]:
    """A task that runs in the prefork worker, until it is released at the end."""
    (number,) = numbers(1)
    id_ = fleet.fleet.send(number, task="rig.hold", queue="forks")
    has_begun(fleet, number)
    yield number, id_
    fleet.fleet.release(number)
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held", timeout=ETA + 60)


def test_what_is_revoked_while_it_waits_never_begins_and_all_else_runs(
    fleet: Operations, ann: Operator, held: tuple[int, str]
) -> None:
    """Of ten that wait, reserved and in the queue, every other one is revoked."""
    sent = {number: fleet.fleet.send(number, queue="forks") for number in numbers(10)}
    meant = list(sent)[::2]
    ids = [sent[number] for number in meant]
    plan = ann.do("task", "revoke", *ids, held[1], "--plan")
    assert plan.code == 0, plan.all
    assert "revoke 6 tasks in 2 workers" in plan.out
    assert f"run now, and run on to the end: {held[1]} in forks@rig" in plan.out
    assert "forks@rig, threads@rig keep revokes in memory only" in plan.out
    assert not any(revoked_in(fleet).values()), "a plan changes nothing"
    alone = ann.do("task", "revoke", *ids, held[1])
    assert alone.code == 8, alone.all

    done = ann.do("task", "revoke", *ids, held[1], "--yes")
    assert done.code == 0, done.all
    assert "6 tasks revoked in 2 workers" in told(done)
    assert f"run to the end: {held[1]} in forks@rig" in told(done)
    assert all(revoked_in(fleet)[node] >= {*ids, held[1]} for node in NODES)
    fleet.fleet.release(held[0])
    have_ended(fleet, held[0], *(set(sent) - set(meant)))
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    starts = fleet.fleet.starts()
    assert [number for number in meant if number in starts] == []
    assert {starts[number] for number in set(sent) - set(meant)} == {1}


def test_by_name_and_filter_the_number_is_shown_before(
    fleet: Operations, ann: Operator, held: tuple[int, str]
) -> None:
    late = {
        number: fleet.fleet.send(number, task="rig.work_late", queue="forks")
        for number in numbers(12)
    }
    others = numbers(2)
    for number in others:
        fleet.fleet.send(number, queue="forks")
    plan = ann.do("task", "revoke", "--name", "rig.work_*", "--plan")
    assert "Revoke 12 tasks in 2 workers?" in plan.out
    judged = ann.do(
        "task", "revoke", "--name", "rig.work_late", "--filter", "retries == 0", "--plan"
    )
    assert "it is not known whether the filter holds" in judged.out
    done = ann.do("task", "revoke", "--name", "rig.work_*", "--yes")
    assert done.code == 0, done.all
    fleet.fleet.release(held[0])
    have_ended(fleet, held[0], *others)
    assert not late.keys() & fleet.fleet.starts().keys()
    none = ann.do("task", "revoke", "--name", "rig.work_*", "--yes")
    assert none.code == 7
    assert "there is nothing to revoke: no such task is seen" in told(none)
    for bad in (("--filter", "tsk == 1"), (), ("x", "--name", "y"), ("a,b",)):
        assert ann.do("task", "revoke", *bad).code == 2


def test_what_threads_have_reserved_runs_all_the_same_and_the_plan_says_so(
    fleet: Operations, ann: Operator
) -> None:
    running, reserved = numbers(2)
    first = fleet.fleet.send(running, task="rig.hold", queue="threads")
    has_begun(fleet, running)
    second = fleet.fleet.send(reserved, queue="threads")
    wait_until(lambda: reserved in fleet.numbers_of_unacked(), what="one is reserved")
    done = ann.do("task", "revoke", second, "--yes")
    assert done.code == 0, done.all
    assert f"was handed to a pool before, and run to the end: {second} in threads@rig" in told(done)
    refused = ann.do("task", "terminate", first, "--yes")
    assert refused.code == 7, refused.all
    assert f"{first} runs in threads@rig: its pool is threads" in told(refused)
    fleet.fleet.release(running)
    have_ended(fleet, running, reserved)


def test_a_terminated_task_is_cut_off_and_never_runs_again(
    fleet: Operations, ann: Operator
) -> None:
    """Though it acknowledges late and its worker would give a lost one back."""
    late, waiting = numbers(2)
    first = fleet.fleet.send(late, 60.0, task="rig.work_late", queue="forks")
    has_begun(fleet, late)
    second = fleet.fleet.send(waiting, queue="forks")
    done = ann.do("task", "terminate", first, second, "--yes")
    assert done.code == 0, done.all
    assert "2 tasks revoked in 2 workers; 1 of them ended in the midst of it" in told(done)
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    (after,) = numbers(1)
    fleet.fleet.send(after, queue="forks")
    have_ended(fleet, after)
    assert fleet.fleet.starts()[late] == 1
    assert late not in fleet.fleet.ends()
    assert waiting not in fleet.fleet.starts()
    assert ann.do("task", "terminate", first, "--yes").code == 7, "it is nowhere any more"
    again = ann.do("task", "terminate", first, "-p", "unseen=yes", "--yes")
    assert again.code == 0, again.all
    assert "none of them ended" in told(again)


def test_a_process_that_outlives_the_signal_is_named_and_kill_ends_it(
    fleet: Operations, ann: Operator
) -> None:
    first, second = numbers(2)
    id_ = fleet.fleet.send(first, task="rig.stubborn", queue="forks")
    has_begun(fleet, first)
    failed = ann.do("task", "terminate", id_, "--yes", "-p", "timeout=3s")
    assert failed.code == 1, failed.all
    named = re.search(r"process (\d+) outlives SIGTERM", told(failed))
    assert named is not None, failed.all
    os.kill(int(named[1]), signal.SIGKILL)
    id_ = fleet.fleet.send(second, task="rig.stubborn", queue="forks")
    has_begun(fleet, second)
    done = ann.do("task", "terminate", id_, "--signal", "KILL", "--yes")
    assert done.code == 0, done.all
    assert {first, second} & fleet.fleet.ends().keys() == set()


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("verb", ["revoke", "terminate"])
def test_a_run_whose_executor_is_killed_in_the_act_is_gone_on_with(
    fleet: Operations, ann: Operator, verb: str, when: When
) -> None:
    running, waiting = numbers(2)
    ids = [
        fleet.fleet.send(running, 60.0, task="rig.work_late", queue="forks"),
        fleet.fleet.send(waiting, queue="forks"),
    ]
    has_begun(fleet, running)
    variables = Death(verb, when).variables(ann.home / "mortal")
    died = ann.do("task", "terminate", *ids, "--yes", **variables)
    assert died.code == 9, died.all
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert all(revoked_in(fleet)[node] >= set(ids) for node in NODES)
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    assert fleet.fleet.starts()[running] == 1
    assert waiting not in fleet.fleet.starts()


def test_a_worker_that_does_not_answer_is_named_and_nothing_claimed_of_it(
    fleet: Operations, ann: Operator
) -> None:
    pid = fleet.pid("threads")
    os.kill(pid, signal.SIGSTOP)
    try:
        plan = ann.do("task", "revoke", "some-id", "--plan")
        assert "threads@rig" in plan.out
        assert "not revoked there" in plan.out
        shown = ann.do("task", "show", "some-id", "--json")
        assert shown.code == 0, shown.all
        (task,) = shown.json["tasks"]
        assert not shown.json["complete"]
        assert task["places"] is None, "it may be in the worker that is silent"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: fleet.consumes_all("threads"), what="it answers again")


# --- show ---------------------------------------------------------------------------------------


def shown(operator: Operator, *ids: str) -> dict[str, Any]:
    said = operator.do("task", "show", *ids, "--json")
    assert said.code == 0, said.all
    return {task["id"]: task for task in said.json["tasks"]}


def place(operator: Operator, id_: str) -> dict[str, Any] | None:
    places = shown(operator, id_)[id_]["places"]
    return places[0] if places else None


def test_each_task_is_shown_where_it_is(
    fleet: Operations, ann: Operator, held: tuple[int, str]
) -> None:
    reserved = [fleet.fleet.send(number, queue="forks") for number in numbers(4)]
    waiting = [fleet.fleet.send(number, queue="forks") for number in numbers(2)]
    nobody = [fleet.fleet.send(number, queue="nobody") for number in numbers(2)]
    later = fleet.fleet.send(next(NUMBERS), queue="threads", countdown=ETA)
    ids = [held[1], *reserved, *waiting, *nobody, later]

    def are_settled() -> bool:
        places = [one["places"] for one in shown(ann, *reserved, later).values()]
        return all(one and one[0]["place"] in {"reserved", "scheduled"} for one in places)

    wait_until(are_settled, what="reserved and scheduled tasks", timeout=60.0)
    before = keys(fleet)
    found = shown(ann, *ids, "no-such")
    assert keys(fleet) == before
    (runs,) = found[held[1]]["places"]
    assert (runs["place"], runs["worker"], runs["queue"]) == ("active", "forks@rig", "forks")
    assert runs["since"] is not None
    assert found[held[1]]["task"] == "rig.hold"
    assert [found[one]["places"][0]["worker"] for one in reserved] == ["forks@rig"] * 4
    assert [found[one]["places"][0]["ahead"] for one in waiting] == [0, 1]
    assert [found[one]["places"][0]["queue"] for one in nobody] == ["nobody"] * 2
    assert found[later]["places"][0]["eta"] is not None
    assert found["no-such"]["places"] == []
    assert found["no-such"]["revoked"] == dict.fromkeys(NODES, False)
    text = ann.do("task", "show", *ids, "no-such").out
    assert "waits in nobody, 1 message ahead of it" in text
    assert "seen nowhere now: ended, never sent, or on its way" in text
    assert "result not known: no result backend is configured here" in text
    fleet.redis.delete("nobody")


def test_what_is_stored_of_a_task_and_its_arguments_are_shown_masked(
    fleet: Operations, operator: MakeOperator, tmp_path: Path
) -> None:
    config = tmp_path / "celery-ops.yaml"
    results = f"    results: {json.dumps(fleet.server.url(1))}\n    services:"
    config.write_text(fleet.config.read_text().replace("    services:", results))
    ann = operator("ann", "--config", str(config))
    failed = fleet.fleet.send(next(NUMBERS), task="rig.sick", queue="forks")
    secret = fleet.fleet.send(
        next(NUMBERS), task="rig.hold", queue="nobody", kwargs={"password": "open-sesame"}
    )
    wait_until(lambda: shown(ann, failed)[failed]["result"] is not None, what="a result")
    result = shown(ann, failed)[failed]["result"]
    assert (result["state"], result["error"]) == ("FAILURE", "TypeError: " + result["error"][11:])
    assert "Traceback" in result["traceback"]
    text = ann.do("task", "show", failed, secret).out
    assert "result: FAILURE at" in text
    assert "nothing is stored (not ended, its results are not kept, or expired)" in text
    assert "'password': ***" in text
    assert "open-sesame" not in text + json.dumps(shown(ann, secret))
    left_out = ann.do("task", "revoke", failed, "--yes")
    assert left_out.code == 7, left_out.all
    assert f"{failed} has ended (FAILURE, says the result backend)" in told(left_out)
    fleet.redis.delete("nobody")


def test_hostile_ids_and_names_stay_text(fleet: Operations, ann: Operator) -> None:
    evil = "\x1b[31m\n\u202eevil"
    fleet.fleet.send(next(NUMBERS), task="rig.hold", queue="nobody", task_id=evil, shadow=evil)
    for said in (
        ann.do("task", "show", evil),
        ann.do("task", "revoke", "--filter", "task == 'rig.hold'", "--plan"),
        ann.do("task", "revoke", "--name", "rig.hold", "--yes"),
    ):
        assert said.code == 0, said.all
        assert "\x1b" not in said.all
        assert "\u202e" not in said.all
    assert evil in revoked_in(fleet)["forks@rig"]
    fleet.redis.delete("nobody")
