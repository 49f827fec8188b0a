"""Real workers are probed by the real command: an end is proved, or it is no success."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.mortal import Death, When
from tests.rig.operations import COMMON, Operations, Program, operations
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

SMOKE = """
name: smoke
summary: Prove that queues work.
risk: low
params:
  queue: {type: text, default: configured}
steps:
  - probe: ${{ params.queue }}
"""
EACH = """
name: each
summary: Prove of each worker that it runs tasks.
risk: low
params:
  workers: {type: workers}
steps:
  - roll: ${{ params.workers }}
    batch: 2
    canary: 0
    settle: 0s
    steps:
      - probe: worker
    verify: {that: worker.online, hold: 0s, timeout: 10s}
"""
QUICK, SLOW, MUTE = "quick@rig", "slow@rig", "mute@rig"
COUNTS = 1


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    programs = (
        Program("quick", pool="prefork"),
        Program("slow"),
        Program("twin1", queues=("twins",)),
        Program("twin2", queues=("twins",)),
        Program("mute", queues=("mute",), arguments=("--without-heartbeat",)),
    )
    with operations(tmp_path_factory.mktemp("fleet"), *programs) as made:
        yield made


class Prober:
    """Operators whose configuration names a probe."""

    def __init__(self, fleet: Operations, hire: MakeOperator) -> None:
        self._fleet = fleet
        self._hire = hire
        self._hired = 0

    def __call__(self, task: str, *, results: bool = True, timeout: str = "10s") -> Operator:
        self._hired += 1
        folder = self._fleet.folder / f"probing-{self._hired}"
        write_runbook(folder, "smoke", SMOKE)
        write_runbook(folder, "each", EACH)
        text = self._fleet.config.read_text()
        stored = json.dumps(self._fleet.server.url(COUNTS))
        more = f"    probe: {{task: {task}, queues: [{COMMON}, quick], timeout: {timeout}}}\n"
        more += f"    results: {stored}\n" if results else ""
        path = folder / "celery-ops.yaml"
        path.write_text(text.replace("    services:\n", f"{more}    services:\n"))
        return self._hire(f"ann{self._hired}", "--config", str(path))


@pytest.fixture
def prober(fleet: Operations, operator: MakeOperator) -> Prober:
    return Prober(fleet, operator)


def with_events(fleet: Operations) -> set[str]:
    """The workers whose task events are on, as nobody had left them: all are off afterwards."""
    replies = {one.node: str(one.value) for one in fleet.poller.ask("enable_events")}
    fleet.poller.ask("disable_events")
    return {name for name, said in replies.items() if "already" in said}


def test_it_is_proved_by_its_result_and_no_event_is_asked_for(
    fleet: Operations, prober: Prober
) -> None:
    said = prober("rig.ping").do("runbook", "smoke", "--yes", "--json")
    assert said.code == 0, said.all
    results = {
        event["target"]: event["outcome"]["says"]
        for event in said.events
        if event["event"] == "result"
    }
    assert results.keys() == {COMMON, "quick"}
    assert "ended at quick@rig, " in results["quick"]
    assert "ended at one of those that consume it (" in results[COMMON]
    assert not any(event.get("verb") == "enable_events" for event in said.events)
    redis: Any = fleet.redis
    assert redis.llen(COMMON) == redis.llen("quick") == redis.hlen("unacked") == 0


@pytest.mark.parametrize("results", [True, False], ids=["results ignored", "no results"])
def test_it_is_proved_by_events_which_are_off_again(
    fleet: Operations, prober: Prober, results: bool
) -> None:
    fleet.poller.ask("disable_events")
    said = prober("rig.quiet", results=results).do("runbook", "smoke", "--yes")
    assert said.code == 0, said.all
    assert "ended at quick@rig, after " in said.all, said.all
    assert " of waiting and " in said.all
    assert with_events(fleet) == set()


def test_events_that_were_on_stay_on(fleet: Operations, prober: Prober) -> None:
    fleet.poller.ask("enable_events")
    said = prober("rig.quiet", results=False).do("runbook", "smoke", "--yes", "-p", "queue=quick")
    assert said.code == 0, said.all
    assert {QUICK, SLOW} <= with_events(fleet)


def test_of_a_worker_that_tells_nothing_it_is_not_known(prober: Prober) -> None:
    ann = prober("rig.quiet", results=False, timeout="2s")
    said = ann.do("runbook", "smoke", "--yes", "-p", "queue=mute")
    assert said.code == 1, said.all
    assert "it was taken from mute, and how it ended is not known" in said.all
    assert "event dispatcher unavailable" in said.all
    assert "(`results`)" in said.all


@pytest.mark.parametrize("results", [True, False], ids=["result", "event"])
def test_a_task_that_fails_is_a_failure_with_its_exception(prober: Prober, results: bool) -> None:
    ann = prober("rig.sick", results=results)
    said = ann.do("runbook", "smoke", "--yes", "-p", "queue=quick")
    assert said.code == 1, said.all
    assert "failed at quick@rig" in said.all
    assert "no database" in said.all


def test_a_backlog_is_counted_and_the_probe_never_runs_afterwards(
    fleet: Operations, prober: Prober
) -> None:
    redis: Any = fleet.redis
    numbers = range(1000, 1010)
    for number in numbers:
        fleet.fleet.send(number, task="rig.hold", queue="slow")
    wait_until(lambda: redis.llen("slow") == 5, what="one runs, four are reserved")
    pings = ended(fleet)
    said = prober("rig.ping", timeout="2s").do("runbook", "smoke", "--yes", "-p", "queue=slow")
    assert said.code == 1, said.all
    assert "not within 2s: it still waits in slow, behind 5 messages" in said.all
    fleet.fleet.release(*numbers)
    wait_until(lambda: len(fleet.fleet.ends().keys() & set(numbers)) == 10, what="their ends")
    wait_until(lambda: redis.llen("slow") == 0, what="an empty queue")
    wait_until(lambda: redis.hlen("unacked") == 0, what="nothing is held")
    assert ended(fleet) == pings


def test_a_queue_without_a_living_consumer_is_refused_and_not_created(
    fleet: Operations, prober: Prober
) -> None:
    ann = prober("rig.ping")
    redis: Any = fleet.redis
    fleet.stop("slow")
    try:
        said = ann.do("runbook", "smoke", "--yes", "-p", "queue=slow")
        assert said.code == 7, said.all
        assert "nobody consumes slow" in said.all
        said = ann.do("runbook", "smoke", "--yes", "-p", "queue=never-heard-of")
        assert said.code == 7, said.all
        assert not redis.exists("slow", "never-heard-of", "_kombu.binding.never-heard-of")
    finally:
        fleet.start("slow")


@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_one_whose_executor_is_killed_is_found_by_its_id(
    fleet: Operations, prober: Prober, when: When
) -> None:
    ann, pings = prober("rig.ping"), ended(fleet)
    variables = Death("probe", when).variables(ann.home / "mortal")
    said = ann.do("runbook", "smoke", "--yes", "-p", "queue=quick", **variables)
    assert said.code == 9, said.all
    said = ann.do("runs", "resume")
    assert said.code == 0, said.all
    assert ended(fleet) - pings == 1, "what was sent is not sent again"


def test_one_whose_executor_is_killed_is_undone_and_leaves_no_events_on(
    fleet: Operations, prober: Prober
) -> None:
    fleet.poller.ask("disable_events")
    ann = prober("rig.quiet", results=False)
    variables = Death("probe", When.AFTER).variables(ann.home / "mortal")
    said = ann.do("runbook", "smoke", "--yes", "-p", "queue=quick", **variables)
    assert said.code == 9, said.all
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all
    assert "quick@rig: switch its task events off again" in undone.err
    assert with_events(fleet) == set()
    assert ann.do("runs", "undo", "--yes").err.strip().endswith("nothing to take back.")


@pytest.mark.parametrize("task", ["rig.ping", "rig.quiet"], ids=["results", "events"])
def test_each_of_two_workers_with_one_queue_is_proved(
    fleet: Operations, prober: Prober, task: str
) -> None:
    fleet.poller.ask("disable_events")
    redis: Any = fleet.redis
    before = set(redis.keys("_kombu*"))
    said = prober(task).do("runbook", "each", "--yes", "--json", "-p", "workers=twin*")
    assert said.code == 0, said.all
    proved = [
        event["outcome"]["says"]
        for event in said.events
        if event["event"] == "result" and event.get("step") == "1.1"
    ]
    assert sorted(says.partition(", ")[0] for says in proved) == [
        "ended at twin1@rig",
        "ended at twin2@rig",
    ]
    assert with_events(fleet) == set()
    assert set(redis.keys("_kombu*")) == before, "nothing stays behind"
    assert redis.llen("twins") == 0


def test_a_worker_is_proved_by_the_queue_that_it_alone_consumes(
    fleet: Operations, prober: Prober
) -> None:
    pings = ended(fleet)
    said = prober("rig.ping").do("runbook", "each", "--yes", "-p", f"workers={QUICK},{SLOW}")
    assert said.code == 0, said.all
    assert "ended at quick@rig, " in said.all
    assert "ended at slow@rig, " in said.all
    assert "enable_events" not in said.all
    assert ended(fleet) - pings == 2


def test_workers_that_are_busy_are_not_passed(fleet: Operations, prober: Prober) -> None:
    redis: Any = fleet.redis
    numbers = range(2000, 2012)
    for number in numbers:
        fleet.fleet.send(number, task="rig.hold", queue="twins")
    wait_until(lambda: redis.llen("twins") == 2, what="both hold all they take")
    ann = prober("rig.ping", timeout="2s")
    said = ann.do("runbook", "each", "--yes", "-p", "workers=twin*")
    fleet.fleet.release(*numbers)
    assert said.code == 1, said.all
    assert "not within 2s: it still waits in twins, behind " in said.all
    wait_until(lambda: len(fleet.fleet.ends().keys() & set(numbers)) == 12, what="their ends")


def ended(fleet: Operations) -> int:
    """How many probes ran to their end."""
    with fleet.server.client(COUNTS) as client:
        counted: Any = client.hget("pings", "ended")
        return int(counted or 0)
