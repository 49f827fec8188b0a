"""Faults in the middle of a run, on real parts: the broker, a worker, a supervisor, the disk, the
lease, and the run's own process.

Each ends in the right state, with the right code, and says what happened; and what is left taken
is seen by an operator who has nothing but the broker.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.liar import liar
from tests.rig.operations import COMMON, Operations, Program, operations
from tests.rig.redis import RedisServer
from tests.rig.runbooks import write_runbook
from tests.rig.small_disk import small_disk
from tests.rig.wall_clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Event, Operator, Said

pytestmark = pytest.mark.rig

ALWAYS = ("w1", "w2", "w3")
NUMBERS = itertools.count(1)
LEASE = "celery-ops:lease"
LEASE_SECONDS = 15.0
"""It is lost if it was not renewed for so long."""
OUTAGE = 30.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    folder = tmp_path_factory.mktemp("fleet")
    counts = RedisServer(folder / "counts")
    try:
        with operations(
            folder,
            *(Program(name) for name in ALWAYS),
            Program("twin", autostart=False),
            Program("twin2", node="twin", queues=(COMMON, "twin"), autostart=False),
            redis=("--appendonly", "yes", "--appendfsync", "always"),
            counts=counts.url(),
        ) as made:
            yield made
    finally:
        counts.stop()


@pytest.fixture(autouse=True)
def nothing_is_left(fleet: Operations) -> Iterator[None]:
    """After every test: nothing is taken, and every worker consumes exactly what it did before."""
    yield
    assert fleet.nothing_is_taken()
    assert not fleet.redis.exists(LEASE)
    wait_until(lambda: fleet.consumes_all(*ALWAYS), what="all queues are consumed again")


def restart(name: str, *words: str) -> tuple[str, ...]:
    given = ("-p", f"workers={name}@rig", "-p", f"allow_gap={name}", "-p", "hold=1s")
    return ("runbook", "rolling-restart", "--yes", *given, *words)


class Held:
    """A task that does not end before it is let go."""

    def __init__(self, fleet: Operations, program: str, number: int) -> None:
        self._fleet = fleet.fleet
        self._number = number
        self._fleet.send(number, task="rig.hold", queue=program)
        wait_until(lambda: number in self._fleet.starts(), what="a task that does not end")

    def let_go(self) -> None:
        self._fleet.release(self._number)
        wait_until(lambda: self._fleet.ends().get(self._number) == 1, what="the task ends")
        assert self._fleet.starts()[self._number] == 1


@pytest.fixture
def hold(fleet: Operations) -> Callable[[str], Held]:
    return lambda program: Held(fleet, program, next(NUMBERS))


def says(words: str) -> Callable[[Event], bool]:
    return lambda event: words in event.get("outcome", {}).get("says", "")


def has_ended(ann: Operator, said: Said, state: str, code: int) -> None:
    """The command, the journal and the list of runs tell the same."""
    assert said.code == code, said.all
    assert f" {state}: " in said.out
    assert ann.do("runs", "--json").json["runs"][0]["state"] == state


def owes(bob: Operator, ann: Operator, node: str, *, kind: str = "queues") -> None:
    """Somebody who has only the broker sees what her last run has left taken, and whose it is."""
    (taken,) = bob.status()["taken"]
    assert (taken["kind"], taken["worker"]) == (kind, node)
    assert taken["run"] == ann.journals()[-1].stem
    assert taken["operator"].startswith("ann@")


def gives_back(bob: Operator, ann: Operator) -> None:
    said = bob.do("runs", "adopt", ann.journals()[-1].stem, "--yes", "--wait", "1m")
    assert said.code == 0, said.all


def is_renewed(fleet: Operations, name: str, pid: int, times: int) -> None:
    assert fleet.pid(name) not in {0, pid}
    assert fleet.spawned(name) == times + 1


# --- the broker -----------------------------------------------------------------------------------


def restarts(server: RedisServer) -> None:
    server.kill()
    server.start()


def restarts_and_has_forgotten(server: RedisServer) -> None:
    server.kill()
    shutil.rmtree(server.directory / "appendonlydir")
    server.start()


def is_frozen(server: RedisServer) -> None:
    """Longer than the lease lives without being renewed."""
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(OUTAGE)
    os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("befalls", [restarts, restarts_and_has_forgotten, is_frozen])
def test_a_broker_that_is_away_for_a_while_is_waited_for(
    fleet: Operations,
    hold: Callable[[str], Held],
    ann: Operator,
    befalls: Callable[[RedisServer], None],
) -> None:
    pid, times = fleet.pid("w1"), fleet.spawned("w1")
    held = hold("w1")
    running = ann.start(*restart("w1"))
    ann.until_draining()
    befalls(fleet.server)
    wait_until(lambda: fleet.poller.consuming().get("w1@rig") == [], what="w1 answers")
    held.let_go()
    said = running.wait()
    has_ended(ann, said, "succeeded", 0)
    lost = any(event["event"] == "lease_lost" for event in ann.events())
    assert lost is (befalls is not restarts), "only the file keeps the lease"
    is_renewed(fleet, "w1", pid, times)


def test_a_full_broker_needs_a_human_and_says_so(
    fleet: Operations, hold: Callable[[str], Held], ann: Operator, bob: Operator
) -> None:
    """Its workers end, too: none of what they say can be written."""
    held = hold("w1")
    running = ann.start(*restart("w1"))
    ann.until_draining()
    fleet.redis.config_set("maxmemory", "1")
    try:
        ann.until(says("refuses to write (OOM)"), "a broker that is full")
        blind = bob.do("status")
        assert blind.code == 69, blind.all
        assert "maxmemory is reached: make room" in blind.err
        running.interrupt()
        ann.until(lambda event: event["event"] == "aborting", "an abort")
        ann.until(lambda event: event["event"] == "intent" and "undo" in event["step"], "an undo")
        running.interrupt()
        said = running.wait()
    finally:
        fleet.redis.config_set("maxmemory", "0")
    has_ended(ann, said, "interrupted", 4)
    owed = "  owed: w1@rig is drained\n      celery-ops -c rig worker resume w1@rig\n"
    assert owed in said.out
    held.let_go()
    owes(bob, ann, "w1@rig")
    wait_until(lambda: fleet.revived(*ALWAYS), what="all answer again")
    gives_back(bob, ann)


# --- a worker, a supervisor -----------------------------------------------------------------------


def test_a_worker_that_is_killed_while_it_drains_is_told_and_owes_nothing(
    fleet: Operations, hold: Callable[[str], Held], ann: Operator
) -> None:
    """What ran in it is lost, by whoever killed it."""
    hold("w1")
    running = ann.start(*restart("w1"))
    ann.until_draining()
    fleet.kill("w1")
    said = running.wait()
    has_ended(ann, said, "failed", 1)
    assert f"was restarted by somebody else: pid {fleet.pid('w1')} instead of" in said.out


def test_a_second_process_of_a_name_stops_the_run_and_what_is_owed_is_named(
    fleet: Operations, hold: Callable[[str], Held], ann: Operator, bob: Operator
) -> None:
    fleet.start("twin")
    held = hold("twin")
    running = ann.start(*restart("twin"))
    ann.until_draining()
    fleet.start("twin2")
    said = running.wait()
    has_ended(ann, said, "failed", 4)
    assert "two processes share this name" in said.out
    assert "fleet.left_drained is 1" in said.out
    owes(bob, ann, "twin@rig")
    held.let_go()
    fleet.stop("twin2")
    gives_back(bob, ann)
    fleet.stop("twin")


LIED_TO = """
name: lied-to
summary: Restarts a worker, and does not wait for long.
risk: medium
params:
  workers: {type: workers}
steps:
  - roll: ${{ params.workers }}
    batch: 1
    keep_available: 0
    on_fail: stop
    steps:
      - drain: worker
        timeout: 1m
      - restart: worker
        timeout: 4s
    verify:
      that: [worker.online]
      timeout: 1m
"""


def test_a_supervisor_that_reports_success_and_did_nothing_is_found_out(
    fleet: Operations, operator: MakeOperator
) -> None:
    write_runbook(fleet.folder, "lied-to", LIED_TO)
    pid = fleet.pid("w1")
    with liar(fleet.rig, "supervisor.stopProcess") as place:
        ann = operator("ann", "--config", str(fleet.config_with("lied", place)))
        said = ann.do("runbook", "lied-to", "--yes", "-p", "workers=w1@rig")
    has_ended(ann, said, "failed", 1)
    assert "did not stop: not within 4s: its supervisor says running" in said.out
    assert fleet.pid("w1") == pid


# --- the clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["+1h", "-1h"])
def test_a_wall_clock_that_is_set_while_a_worker_drains_changes_nothing(
    tmp_path: Path, fleet: Operations, hold: Callable[[str], Held], ann: Operator, by: str
) -> None:
    pid, times = fleet.pid("w1"), fleet.spawned("w1")
    clock = WallClock(tmp_path / "clock")
    held = hold("w1")
    running = ann.start(*restart("w1"), **clock.variables)
    ann.until_draining()
    begun = datetime.now(UTC)
    clock.jump(by)
    assert abs(seconds_off(clock)) > timedelta(minutes=59).total_seconds(), "it jumps there"
    held.let_go()
    has_ended(ann, running.wait(), "succeeded", 0)
    is_renewed(fleet, "w1", pid, times)
    ended = datetime.fromisoformat(ann.events()[-1]["at"])
    assert begun <= ended <= datetime.now(UTC), "a run keeps the clock that it began with"


def seconds_off(clock: WallClock) -> float:
    """What a process that is given this clock has more than we."""
    argv = (sys.executable, "-c", "import time; print(time.time())")
    environment = {**os.environ, **clock.variables}
    told = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    return float(told.stdout) - time.time()


# --- the disk -------------------------------------------------------------------------------------


def test_a_run_whose_disk_is_full_gives_back_what_it_took_and_goes_no_further(
    fleet: Operations, hold: Callable[[str], Held], ann: Operator
) -> None:
    pid = fleet.pid("w1")
    held = hold("w1")
    with small_disk(ann.home / "state", 400) as disk:
        running = ann.start(*restart("w1"))
        ann.until_draining()
        disk.fill(ann.journals()[-1])
        held.let_go()
        said = running.wait()
        has_ended(ann, said, "failed", 1)
        assert f"the disk is full: no room for {ann.journals()[-1]}" in said.out
    assert fleet.pid("w1") == pid


def test_a_run_that_cannot_write_another_word_is_interrupted_and_seen_by_others(
    hold: Callable[[str], Held], ann: Operator, bob: Operator
) -> None:
    held = hold("w1")
    with small_disk(ann.home / "state", 400) as disk:
        running = ann.start(*restart("w1"))
        ann.until_draining()
        journal = ann.journals()[-1]
        run = journal.stem
        journal.with_suffix(".reserve").unlink()
        disk.fill(journal)
        held.let_go()
        said = running.wait()
        assert said.code == 4, said.all
        assert f"{run} was interrupted" in said.err
        assert "worker resume w1@rig" in said.err
        owes(bob, ann, "w1@rig")
        gives_back(bob, ann)


# --- the lease ------------------------------------------------------------------------------------


def is_stolen(fleet: Operations, ann: Operator) -> None:
    """Eve has it from now on, and for as long as she likes."""
    del ann
    lease: Any = fleet.redis.get(LEASE)
    fleet.redis.set(LEASE, eves(json.loads(lease)))


def is_taken_in_her_sleep(fleet: Operations, ann: Operator) -> None:
    """Her executor sleeps past its lease, and Eve takes what is nobody's then."""
    lease: Any = fleet.redis.get(LEASE)
    executor = ann.executor()
    os.kill(executor, signal.SIGSTOP)
    try:
        wait_until(lambda: not fleet.redis.exists(LEASE), what="it ran out", timeout=30)
        fleet.redis.set(LEASE, eves(json.loads(lease)))
    finally:
        os.kill(executor, signal.SIGCONT)


def eves(lease: dict[str, Any]) -> str:
    return json.dumps(lease | {"token": "hers", "operator": "eve@attic", "run": "another"})


@pytest.mark.parametrize("befalls", [is_stolen, is_taken_in_her_sleep])
def test_a_run_whose_lease_somebody_else_has_ends_where_it_waits_and_says_who(
    fleet: Operations,
    hold: Callable[[str], Held],
    ann: Operator,
    bob: Operator,
    befalls: Callable[[Operations, Operator], None],
) -> None:
    pid = fleet.pid("w1")
    held = hold("w1")
    running = ann.start(*restart("w1"))
    ann.until_draining()
    befalls(fleet, ann)
    said = running.wait()  # its task is not let go: the drain would go on for ten minutes
    has_ended(ann, said, "failed", 4)
    assert "LEASE LOST" in said.out
    assert "Somebody else has the lease now: eve@attic runs rolling-restart (another)" in said.out
    assert fleet.pid("w1") == pid
    assert bob.status()["holder"]["operator"] == "eve@attic"
    owes(bob, ann, "w1@rig")
    fleet.redis.delete(LEASE)
    gives_back(bob, ann)
    held.let_go()


def test_a_run_that_slept_while_another_operator_acted_sees_it_and_undoes_nothing_of_his(
    fleet: Operations, hold: Callable[[str], Held], ann: Operator, bob: Operator
) -> None:
    held = hold("w1")
    pid = fleet.pid("w1")
    running = ann.start(*restart("w1"))
    ann.until_draining()
    executor = ann.executor()
    os.kill(executor, signal.SIGSTOP)
    gives_back(bob, ann)
    os.kill(executor, signal.SIGCONT)
    said = running.wait()
    has_ended(ann, said, "failed", 1)
    assert "consumes common, w1 again, which somebody else gave back" in said.out
    assert fleet.pid("w1") == pid
    assert bob.status()["taken"] == []
    held.let_go()
