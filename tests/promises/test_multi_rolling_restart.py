"""The main jobs where Celery's manual has led people: `celery multi`, with systemd and without, and
commands of somebody's own. Under load, and no task is lost or run twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.hosts import begun
from tests.promises.down_and_up import down_and_up_again
from tests.rig import wait_until
from tests.rig.detached import end_all
from tests.rig.host_fleet import host_fleet
from tests.rig.load import Load
from tests.rig.operations import COMMON, CONF
from tests.rig.operator import Operators
from tests.rig.poller import Poller, Sampler
from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

RESTART = ("runbook", "rolling-restart", "--yes", "--json", "-p", "hold=1s")
HALF = ("-p", "keep_available=50%")
TASKS_BEFORE = 10
OPTIONS = (
    *("--pool=prefork", "--concurrency=2", "--loglevel=INFO"),
    *("--without-gossip", "--without-mingle"),
)
FORKING = {
    "Type": "forking",
    "ExecStart": (
        "/bin/sh -c 'exec python3 -m celery -A rigapp multi start %i --queues=$QUEUES_%i"
        f" --pidfile=/run/celery-%i/%%n.pid --logfile=/home/celery/%%n%%I.log {' '.join(OPTIONS)}'"
    ),
    "RuntimeDirectory": "celery-%i",
    "PIDFile": "/run/celery-%i/%i.pid",
}
"""As Celery's manual has it, with a unit for each node."""


def test_nodes_of_celery_multi_with_a_forking_unit_each(tmp_path: Path) -> None:
    with host_fleet(tmp_path / "fleet", "web1", unit=FORKING) as fleet:
        ann = fleet.operator(tmp_path, "ann")
        before = fleet.incarnations()
        with Load(fleet.fleet, *fleet.consumers) as load:
            wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
            run = ann.do(*RESTART, *HALF, "-p", "allow_gap=mail")
            down_and_up_again(ann, fleet.poller, goes=["w2@web1"], runs=fleet.running)
        load.settle(logs=fleet.logged)
        _no_task_was_lost(run, load, fleet.fleet)
        assert fleet.redis.hlen("unacked") == 0
        after = fleet.incarnations()
        assert all(after[node] and after[node] != before[node] for node in before)
        for one in fleet.members:
            told = fleet.show(one, "ActiveState", "NRestarts", "Result", "MainPID")
            assert told.pop("MainPID") != "0"
            assert told == {"ActiveState": "active", "NRestarts": "0", "Result": "success"}
        fleet.dismiss()


def test_nodes_without_a_supervisor_and_those_behind_commands(tmp_path: Path) -> None:
    with unsupervised(tmp_path) as here:
        before = here.pids()
        with Load(here.fleet, COMMON) as load:
            wait_until(lambda: len(here.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
            with Sampler(here.poller) as sampler:
                run = here.operator.do(*RESTART, *HALF)
            node = f"{MULTI}@here"
            down_and_up_again(
                here.operator, here.poller, goes=[node], runs=here.running, workers=node
            )
        load.settle(logs=here.logged)
        plan = str(run.events[0]["plan"])
        assert f"kill -s TERM $(cat {here.folder}/{MULTI}.pid)" in plan
        assert f"multi start {MULTI}@here" in plan
        _no_task_was_lost(run, load, here.fleet)
        after = here.pids()
        assert all(after[name] != before[name] for name in before)
        assert sampler.least(COMMON) == 1
        here.operator.stop()


def _no_task_was_lost(run: Said, load: Load, fleet: Fleet) -> None:
    """All have ended, or `settle` had not returned."""
    assert run.code == 0, run.all
    assert load.sent > 2 * TASKS_BEFORE
    assert load.twice() == []
    assert set(fleet.starts()) == set(load.numbers)


MULTI, OWN = "m1", "c1"
CTL = """\
node=$1 pid=$(cat "$1.pid" 2>/dev/null)
case $2 in
status) if [ -n "$pid" ] && kill -0 "$pid"; then echo "pid=$pid"; else exit 3; fi ;;
start) exec "$PYTHON" -m celery -A rigapp worker --detach -n "$node@here" \
    "--pidfile=$PWD/$node.pid" "--logfile=$node.log" {options} ;;
stop) kill "$pid" && while kill -0 "$pid"; do sleep 0.1; done ;;
esac 2>/dev/null
"""


@dataclass(frozen=True)
class Unsupervised:
    """Two workers on this machine: one of `celery multi`, one behind a script."""

    folder: Path
    fleet: Fleet
    poller: Poller
    operator: Operator

    def pids(self) -> dict[str, str]:
        return {name: (self.folder / f"{name}.pid").read_text() for name in (MULTI, OWN)}

    def running(self) -> set[str]:
        """The node of `celery multi`, if the process of its pidfile lives."""
        pidfile = self.folder / f"{MULTI}.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pidfile.read_text()), 0)
            return {f"{MULTI}@here"}
        return set()

    def logged(self, _: object) -> str:
        return "\n".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))


@contextlib.contextmanager
def unsupervised(folder: Path) -> Iterator[Unsupervised]:
    server = RedisServer(folder / "redis")
    app = folder / "app"
    fleet = Fleet(app, server.url(0), server.url(1), CONF)
    operators = Operators(())
    ann = operators.hire(folder, "ann", "--config", str(folder / "celery-ops.yaml"))
    (app / "ctl").write_text(CTL.format(options=" ".join(OPTIONS)))
    (folder / "celery-ops.yaml").write_text(_configuration(server.url(0), app, fleet))
    poller = Poller(server.client())
    everybody = Counter({COMMON: 2})
    try:
        started = ann.do("worker", "start", "*", "--yes")
        assert started.code == 0, started.all
        wait_until(lambda: poller.consumers() == everybody, what="both workers", timeout=60)
        yield Unsupervised(app, fleet, poller, ann)
    finally:
        operators.dismiss()
        end_all(app)
        _forget(app, folder / "celery-ops.yaml")
        fleet.stop()
        server.stop()


def _forget(app: Path, config: Path) -> None:
    """Remove what was noted of these two on this machine."""
    own = json.loads(config.read_text())["contexts"]["here"]["services"][1]["commands"]
    for key in (
        begun.key("multi", MULTI, f"{app}/{MULTI}.pid"),
        begun.key("commands", OWN, *own["start"], "", *own["stop"]),
    ):
        for note in Path(tempfile.gettempdir(), f"celery-ops-{os.getuid()}").glob(f"{key}.*"):
            note.unlink()


def _configuration(broker: str, app: Path, fleet: Fleet) -> str:
    settings = [f"{name}={value}" for name, value in fleet.environment().items()]
    within = ["env", f"--chdir={app}", f"PYTHON={sys.executable}", *settings]
    start = [*within, sys.executable, "-m", "celery", "-A", "rigapp", "multi", "start"]
    files = [f"--pidfile={app}/%n.pid", f"--logfile={app}/%n%I.log"]
    multi = {"multi": MULTI, "start": [*start, f"{MULTI}@here", *files, *OPTIONS]}
    verbs = {verb: [*within, "sh", "ctl", OWN, verb] for verb in ("status", "start", "stop")}
    services = [
        {"host": "local", "worker": f"{MULTI}@here", **multi},
        {"host": "local", "worker": f"{OWN}@here", "commands": {"name": OWN, **verbs}},
    ]
    # JSON is YAML.
    return json.dumps({"contexts": {"here": {"broker": broker, "services": services}}})
