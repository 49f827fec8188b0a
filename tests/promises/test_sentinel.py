"""A master that dies while it is watched and while runs go on: all go on, and claim nothing else.

Real workers, supervised, on a Redis with three sentinels; all want passwords. No worker
holds an unacknowledged message when the master dies: what Celery makes of these is its own affair.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.operations import CONF, CONTEXT, Program
from tests.rig.operator import Operators
from tests.rig.poller import Poller
from tests.rig.redis import RedisServer
from tests.rig.sentinel import MASTER_NAME, SentinelRig, sentinel_rig
from tests.rig.supervisord import supervisord
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Event, Operator
    from tests.rig.supervisord import Rig

pytestmark = pytest.mark.rig

OF_REDIS, OF_SENTINELS = "s3cr3t-of-redis", "s3cr3t-of-sentinels"
PROGRAMS = (Program("w1"), Program("w2"))
NODES = tuple(program.node_name for program in PROGRAMS)


class OnSentinel:
    """Two supervised workers, and the operators who look after them."""

    def __init__(self, folder: Path, redis: SentinelRig, fleet: Fleet, rig: Rig) -> None:
        self.redis = redis
        self.fleet = fleet
        self._operators = Operators([OF_REDIS.encode(), OF_SENTINELS.encode()])
        self._config = folder / "celery-ops.yaml"
        services = [
            {
                "host": "local",
                "supervisord": one.name,
                "worker": one.node_name,
                "server": rig.server,
            }
            for one in PROGRAMS
        ]
        context = {
            "broker": redis.url(login="${LOGIN}"),
            "broker_options": redis.options() | {"sentinel_kwargs": {"password": "${SENTINELS}"}},
            "services": services,
        }
        # JSON is YAML, too.
        self._config.write_text(json.dumps({"default": CONTEXT, "contexts": {CONTEXT: context}}))

    def operator(self, directory: Path, name: str, *options: str) -> Operator:
        options = options or ("--config", str(self._config))
        return self._operators.hire(directory, name, *options)

    def leaks(self) -> list[str]:
        return self._operators.leaks()

    def dismiss(self) -> None:
        self._operators.dismiss()

    def consuming(self) -> dict[str, list[str]]:
        """Which queues each worker says it consumes; nobody where the master is away."""
        with self.redis.client() as client:
            said = Poller(client).consuming()
        return {node: [queue["name"] for queue in queues] for node, queues in said.items()}

    def all_consume(self) -> bool:
        return self.consuming() == {
            program.node_name: sorted(program.all_queues) for program in PROGRAMS
        }

    def taken(self) -> int:
        with self.redis.client() as client:
            found: Any = client.hlen("celery-ops:taken")
        return int(found)


VARIABLES = {"LOGIN": f":{OF_REDIS}@", "SENTINELS": OF_SENTINELS}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnSentinel]:
    folder = tmp_path_factory.mktemp("fleet")
    counts = RedisServer(folder / "counts")
    passwords = {"password": OF_REDIS, "sentinel_password": OF_SENTINELS}
    try:
        with sentinel_rig(folder / "redis", **passwords) as redis:
            conf = CONF | {"broker_transport_options": redis.options()}
            url = redis.url(login=f":{OF_REDIS}@")
            fleet = Fleet(folder / "app", url, counts.url(1), conf, server=redis.client)
            sections = {one.name: one.settings(fleet, folder / "app") for one in PROGRAMS}
            with supervisord(sections) as rig:
                made = OnSentinel(folder, redis, fleet, rig)
                wait_until(made.all_consume, what="workers", timeout=120)
                yield made
                made.dismiss()
                fleet.stop()
    finally:
        counts.stop()


def restart(*words: str) -> tuple[str, ...]:
    given = ("-p", "workers=w1@rig", "-p", "allow_gap=w1", "-p", "hold=1s")
    return ("runbook", "rolling-restart", "--yes", *given, *words)


def test_a_run_and_those_who_watch_go_on_through_a_fail_over(
    fleet: OnSentinel, ann: Operator, bob: Operator
) -> None:
    """The worker drains when the master dies: it stays drained, is restarted, and is given back."""
    fleet.fleet.send(1, task="rig.hold", queue="w1")
    wait_until(lambda: 1 in fleet.fleet.starts(), what="a task that does not end")
    watching = bob.start("status", "--json", "--watch", **VARIABLES)
    restarting = ann.start(*restart("--json"), **VARIABLES)
    ann.until_draining()
    wait_until(lambda: said_of_broker(watching.said) == [""], what="a look while all is well")

    old = fleet.redis.master
    fleet.redis.fail_over()
    wait_until(lambda: len(fleet.consuming()) == len(NODES), what="workers are back", timeout=120)
    assert fleet.consuming()["w1@rig"] == [], "what was taken stays taken"
    assert fleet.taken() == 1
    old.start()
    fleet.fleet.release(1)
    done = restarting.wait()
    assert done.code == 0, done.all
    assert fleet.fleet.starts() == fleet.fleet.ends() == {1: 1}
    assert fleet.taken() == 0
    wait_until(fleet.all_consume, what="both consume again")

    wait_until(lambda: said_of_broker(watching.said)[-1] == "", what="all is well again")
    watching.interrupt()
    watching.wait()
    said = said_of_broker(watching.said)
    assert said[0] == said[-1] == ""
    lost = [one for one in said if one]
    assert lost, "it was seen to be away"
    for one in lost:
        assert one.startswith("not reachable since")
        assert MASTER_NAME in one
        assert f"127.0.0.1:{old.port}" in one
    fleet.redis.wait_until_whole()


def test_a_run_that_begins_right_after_a_fail_over_finds_what_is_there(
    fleet: OnSentinel, ann: Operator
) -> None:
    """Drained on one master, given back on another: the record has come with it."""
    given = ("-p", "workers=w1@rig", "-p", "allow_gap=w1")
    drained = ann.do("runbook", "drain-worker", "--yes", *given, **VARIABLES)
    assert drained.code == 0, drained.all
    old = fleet.redis.master
    fleet.redis.fail_over()
    old.start()
    wait_until(lambda: len(fleet.consuming()) == len(NODES), what="workers are back", timeout=120)
    status = ann.do("status", "--json", **VARIABLES).json
    assert [one["worker"] for one in status["taken"]] == ["w1@rig"]
    resumed = ann.do("worker", "resume", "w1@rig", "--yes", **VARIABLES)
    assert resumed.code == 0, resumed.all
    wait_until(fleet.all_consume, what="both consume again")
    assert fleet.taken() == 0
    fleet.redis.wait_until_whole()


def test_a_drain_of_a_queue_goes_on_through_a_fail_over(fleet: OnSentinel, ann: Operator) -> None:
    """Its last task has been acknowledged: nobody but a worker knows of it, and it is away too."""
    fleet.fleet.send(10, task="rig.hold", queue="w1")
    wait_until(lambda: 10 in fleet.fleet.starts(), what="a task that does not end")
    given = ("-p", "queue=w1", "-p", "timeout=5m")
    draining = ann.start("runbook", "drain-queue", "--yes", "--json", *given, **VARIABLES)
    ann.until(lambda event: "1 task of it running" in says(event), "the task is seen to run")

    old = fleet.redis.master
    fleet.redis.fail_over()
    ann.until(lambda event: says(event).startswith("not known: "), "the broker is seen to be away")
    wait_until(lambda: len(fleet.consuming()) == len(NODES), what="workers are back", timeout=120)
    old.start()
    seen = len(ann.events())
    for number in (11, 12):
        fleet.fleet.send(number, 0.5, queue="w1")
    ann.until(lambda event: event in ann.events()[seen:] and "running" in says(event), "it goes on")
    assert draining.process.poll() is None, "the task has not ended"
    fleet.fleet.release(10)
    done = draining.wait()
    assert done.code == 0, done.all
    for number in (10, 11, 12):
        assert fleet.fleet.starts()[number] == fleet.fleet.ends()[number] == 1
    told = [says(event) for event in done.events]
    assert [one for one in told if one.startswith("empty, nothing of it is held or runs")]
    away = [one for one in told if one.startswith("not known: ")]
    assert all(MASTER_NAME in one for one in away)
    fleet.redis.wait_until_whole()


def test_a_move_goes_on_through_a_fail_over_and_moves_each_once(
    fleet: OnSentinel, ann: Operator
) -> None:
    """A filtered half, to an exact limit, at a rate: the master dies in the midst of it, and who is
    promoted has not heard of the last that moved.
    """
    night, day = "night", "day"
    numbers = range(1_000, 1_600)
    for number in numbers:
        fleet.fleet.send(number, task="rig.work_late" if number % 2 else "rig.work", queue=night)
    before = waiting(fleet, night)
    assert before == list(numbers)
    meant = before[:400:2]
    given = ("--filter", "task == 'rig.work'", "--limit", "200", "--rate", "50/s", "--yes")
    (replica,) = fleet.redis.replicas
    moving = ann.start("queue", "move", night, "--to", day, *given, **VARIABLES)
    wait_until(lambda: len(waiting(fleet, day)) >= 30, what="some have moved")
    fleet.redis.estrange(replica)
    moved = len(waiting(fleet, day))
    wait_until(lambda: len(waiting(fleet, day)) >= moved + 20, what="some more have moved")
    old = fleet.redis.master
    old.kill()
    wait_until(lambda: "It is tried again." in moving.said, what="the broker is seen to be away")
    with fleet.redis.client(replica) as client:
        known: Any = client.llen(day)
    assert 0 < known <= moved, "in the midst of it, and the replica does not know of all"
    fleet.redis.wait_for_master(old)
    fleet.redis.reconcile(replica)
    old.start()
    done = moving.wait()
    assert done.code == 0, done.all
    assert f"200 messages of {night} moved to {day}; 400 wait in {night} now" in done.all
    assert "the broker has forgotten that" in done.all
    assert "did not go" not in done.all
    assert waiting(fleet, day) == meant
    assert waiting(fleet, night) == [number for number in before if number not in set(meant)]

    wait_until(lambda: len(fleet.consuming()) == len(NODES), what="workers are back", timeout=120)
    with fleet.redis.client() as client, client.pipeline() as pipe:
        for queue in 200 * [day] + 400 * [night]:
            pipe.rpoplpush(queue, "w2")
        pipe.execute()
    wait_until(lambda: set(numbers) <= fleet.fleet.ends().keys(), what="all have run", timeout=240)
    for counts in (fleet.fleet.starts(), fleet.fleet.ends()):
        assert Counter(counts[number] for number in numbers) == {1: len(numbers)}
    fleet.redis.wait_until_whole()


def says(event: Event) -> str:
    return str((event.get("outcome") or {}).get("says", ""))


def waiting(fleet: OnSentinel, queue: str) -> list[int]:
    """The numbers of the tasks that wait there, the one that is served next first."""
    with fleet.redis.client() as client:
        raws: Any = client.lrange(queue, 0, -1)
    shown = [json.loads(raw)["headers"]["argsrepr"] for raw in reversed(raws)]
    return [int(re.findall(r"\d+", one)[0]) for one in shown]


def said_of_broker(printed: str) -> list[str]:
    """What each look said of the broker; empty: nothing was wrong, and everybody answered."""
    looks: list[Event] = [
        json.loads(line) for line in printed.splitlines(keepends=True) if line.endswith("}\n")
    ]
    said = []
    for look in looks:
        wrong = [one["says"] for one in look["problems"] if "not reachable" in one["says"]]
        if wrong or look["complete"]:
            said.append(wrong[0] if wrong else "")
    # Looks that say the same are one.
    return [one for index, one in enumerate(said) if index == 0 or one != said[index - 1]]
