"""`smoke` with real workers: in which order priorities are served is proved, or it is said why it
is not; and it is no failure unless it is wrong.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.mortal import Death, When
from tests.rig.operations import COMMON, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Said

pytestmark = pytest.mark.rig

TWINS = (Program("twin1", queues=("twins",)), Program("twin2", queues=("twins",)))
PROVED = "priorities are served in order: "


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), Program("one"), *TWINS) as made:
        yield made


def probing(fleet: Operations, options: str = "") -> Path:
    """The configuration of the fleet, with a probe."""
    path = fleet.folder / "probing.yaml"
    more = f"    probe: {{task: rig.quiet, queues: [{COMMON}]}}\n"
    more += f"    broker_options: {options}\n" if options else ""
    path.write_text(fleet.config.read_text().replace("    services:\n", f"{more}    services:\n"))
    return path


def smoke(
    fleet: Operations, hire: MakeOperator, queue: str, *, options: str = "", timeout: str = "20s"
) -> Said:
    """What the shipped runbook says of a queue; `options` are the broker's, as JSON."""
    ann = hire("ann", "--config", str(probing(fleet, options)))
    given = ("-p", f"queues={queue}", "-p", f"timeout={timeout}")
    return ann.do("runbook", "smoke", "--yes", "--json", *given)


def outcome(said: Said, queue: str) -> tuple[str, str]:
    """The last result about a queue's priorities."""
    of = [one for one in said.events if one.get("step") == "1 priorities"]
    ends = [one["outcome"] for one in of if one["event"] == "result" and one["target"] == queue]
    return ends[-1]["result"], ends[-1]["says"]


@pytest.mark.parametrize("queue", ["one", "twins"], ids=["one worker", "two workers"])
def test_idle_workers_on_redis_receive_them_in_order(
    fleet: Operations, operator: MakeOperator, queue: str
) -> None:
    said = smoke(fleet, operator, queue)
    assert said.code == 0, said.all
    result, says = outcome(said, queue)
    assert (result, says.startswith(PROVED)) == ("done", True), said.all
    redis: Any = fleet.redis
    wait_until(lambda: redis.hlen("unacked") == 0, what="nothing is held")
    assert not redis.keys(f"{queue}*"), "nothing stays behind"


def _answers(fleet: Operations, node: str) -> bool:
    return any(one.node == node for one in fleet.poller.ask("active_queues"))


@contextlib.contextmanager
def faulty(fleet: Operations, fault: str) -> Iterator[None]:
    """The worker `one` with a fault, which it does not have any more afterwards."""
    path = fleet.folder / "app" / "faults" / f"one.{fault}"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    try:
        fleet.stop("one")
        fleet.start("one")
        wait_until(lambda: _answers(fleet, "one@rig"), what="it answers")
        yield
    finally:
        path.unlink()
        fleet.stop("one")
        fleet.start("one")


def test_a_worker_that_serves_them_upside_down_is_found_out(
    fleet: Operations, operator: MakeOperator
) -> None:
    with faulty(fleet, "upside-down"):
        said = smoke(fleet, operator, "one")
    assert said.code == 1, said.all
    assert "one: priorities are not served in order, of which 0 comes first: one@rig" in said.all
    assert "in each of 3 rounds" in said.all


def test_priorities_that_nobody_takes_are_a_failure(
    fleet: Operations, operator: MakeOperator
) -> None:
    with faulty(fleet, "first-only"):
        said = smoke(fleet, operator, "one", timeout="3s")
    assert said.code == 1, said.all
    assert "one: nobody takes messages of priority 3, 6, 9: probes wait" in said.all
    wait_until(lambda: fleet.redis.keys("one*") == [], what="they have expired")


def test_steps_that_workers_do_not_look_at_are_not_sent_to(
    fleet: Operations, operator: MakeOperator
) -> None:
    said = smoke(fleet, operator, "one", options="{priority_steps: [0, 5]}")
    assert said.code == 0, said.all
    _, says = outcome(said, "one")
    assert says == (
        "order not proved: one@rig consumes with priority_steps [0, 3, 6, 9], the context has"
        " [0, 5] (broker_options)"
    )
    assert fleet.redis.keys("one*") == []


def test_a_backlog_of_others_is_no_false_alarm(fleet: Operations, operator: MakeOperator) -> None:
    redis: Any = fleet.redis
    numbers = range(40)
    for number in numbers:
        fleet.fleet.send(number, 0.4, queue="one", priority=3)
    said = smoke(fleet, operator, "one", timeout="5s")
    assert said.code == 0, said.all
    assert outcome(said, "one") == (
        "done",
        "order not proved: not within 5s: probes of 3, 6, 9 wait",
    )
    wait_until(lambda: fleet.fleet.ends().keys() >= set(numbers), what="their ends")
    wait_until(lambda: redis.hlen("unacked") == 0, what="nothing is held")
    assert set(fleet.fleet.starts().values()) == {1}


def test_events_are_off_again_and_none_is_asked_for_on_request(
    fleet: Operations, operator: MakeOperator
) -> None:
    fleet.poller.ask("disable_events")
    assert smoke(fleet, operator, "one").code == 0
    replies = {one.node: str(one.value) for one in fleet.poller.ask("enable_events")}
    fleet.poller.ask("disable_events")
    assert not [name for name, said in replies.items() if "already" in said]


@pytest.mark.parametrize("when", list(When))
def test_one_whose_executor_is_killed_goes_on_and_leaves_no_events_on(
    fleet: Operations, operator: MakeOperator, when: When
) -> None:
    fleet.poller.ask("disable_events")
    ann = operator("ann", "--config", str(probing(fleet)))
    variables = Death("probe priorities", when).variables(ann.home / "mortal")
    said = ann.do("runbook", "smoke", "--yes", "-p", "queues=twins", **variables)
    assert said.code == 9, said.all
    said = ann.do("runs", "resume", "--json")
    assert said.code == 0, said.all
    assert outcome(said, "twins")[1].startswith(PROVED)
    replies = {one.node: str(one.value) for one in fleet.poller.ask("enable_events")}
    fleet.poller.ask("disable_events")
    assert not [name for name, said in replies.items() if "already" in said]
    redis: Any = fleet.redis
    wait_until(lambda: redis.hlen("unacked") == 0, what="nothing is held")
    assert not redis.keys("twins*")
