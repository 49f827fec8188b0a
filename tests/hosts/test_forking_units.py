"""Units of `Type=forking`, as Celery's manual writes them for `celery multi`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool, unit_hazards, units
from celery_ops.hosts.systemd import Systemd
from celery_ops.model import ServiceRef, ServiceState
from tests.hosts.contract import TIMEOUT, DaemonContract, Program, Supervised
from tests.rig import wait_until
from tests.rig.systemd_hosts import systemd_hosts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_ops.model import ServiceStatus
    from tests.rig.systemd_hosts import SystemdHost

pytestmark = pytest.mark.rig

HOST = "web1"
DAEMON = """( trap "{then}" TERM; while :; do sleep 0.05; done ) & echo $$! > /run/{name}.pid"""


def forking(name: str, then: str = "exit 0", **keys: str) -> dict[str, str]:
    return {
        "Type": "forking",
        "PIDFile": f"/run/{name}.pid",
        "ExecStart": f"/bin/sh -c '{DAEMON.format(then=then, name=name)}'",
        "KillMode": "mixed",
        "TimeoutStopSec": "10",
        "WantedBy": "multi-user.target",
        **keys,
    }


UNITS: dict[str, dict[str, str]] = {
    Program.POLITE: forking("polite"),
    Program.STUBBORN: forking("stubborn", "", TimeoutStopSec="1"),
    Program.SLOW: forking("slow", "sleep 1; exit 0"),
    Program.GROUP: forking("group", KillMode="control-group"),
    Program.BROKEN: forking("broken", ExecStart="false"),
    Program.IDLE: {"Type": "forking", "ExecStart": "true"},
}


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with systemd_hosts(HOST, units=UNITS) as [host]:
        services = {program: ServiceRef(HOST, "systemd", program.value) for program in Program}
        adapter = HostPool(only_broker("redis://unused")).supervisor("systemd")
        yield Supervised(host.shell(), adapter, services, host.mute_systemd)


class TestForkingUnits(DaemonContract):
    """The contract of all supervisors."""

    gives_up = "exit-code"


# What stands for nodes here: `celery` is a script, and its words are what systemd shows of it.
NODES = "/bin/sh -c 'for n in {names}; do sleep 1000 & echo $$! > /run/celery/$$n.pid; done'"
STOPWAIT = """/bin/sh -c 'kill $$(cat /run/celery/{name}.pid) || echo "{name}: DOWN"; \
: celery multi stopwait {name}'"""
SHARED = {"Type": "forking", "RuntimeDirectory": "celery", "WantedBy": "multi-user.target"}
PROBLEMS: dict[str, dict[str, str]] = {
    "first": {
        **SHARED,
        "ExecStart": NODES.format(names="first"),
        "ExecStop": STOPWAIT.format(name="first"),
    },
    "both": {**SHARED, "ExecStart": NODES.format(names="a b"), "RuntimeDirectoryPreserve": "yes"},
    "foreground": {
        "Type": "forking",
        "TimeoutStartSec": "2",
        "ExecStart": "/bin/sh -c 'sleep 1000; : celery -A proj worker'",
    },
}


@pytest.fixture(scope="module")
def host() -> Iterator[SystemdHost]:
    with systemd_hosts(HOST, units=PROBLEMS) as [one]:
        yield one


async def statuses(host: SystemdHost, *names: str) -> Sequence[ServiceStatus]:
    asked = [ServiceRef(HOST, "systemd", name) for name in names]
    done = await host.shell().run(Systemd().status(asked), timeout=TIMEOUT)
    return list(Systemd().read_status(asked, done).values())


async def test_a_unit_of_several_nodes_is_not_to_be_stopped_or_restarted(host: SystemdHost) -> None:
    [both] = await statuses(host, "both")
    assert (both.state, both.pid) == (ServiceState.RUNNING, None)
    [hazard] = both.hazards
    assert hazard.forbids
    assert "with several nodes" in hazard.says
    assert "a unit of its own" in hazard.fix


async def test_a_stop_that_removes_the_pidfiles_of_a_neighbour_is_told(host: SystemdHost) -> None:
    host.run("systemctl", "start", "first")
    first, both = await statuses(host, "first", "both")
    [hazard] = first.hazards
    assert hazard.says == "when it stops, systemd removes /run/celery with the pidfiles of both"
    assert not hazard.forbids
    assert [one.forbids for one in both.hazards] == [True], "it preserves them"
    assert first.signals_children is False, "its ExecStop= has waited"
    assert host.run("ls", "/run/celery").split() == ["a.pid", "b.pid", "first.pid"]
    host.run("systemctl", "stop", "first")
    assert host.run("ls", "/run/celery", check=False) == "", "so it is: measured, not read"


async def test_a_forking_unit_that_does_not_fork_is_told_before_systemd_ends_it(
    host: SystemdHost,
) -> None:
    host.run("systemctl", "start", "--no-block", "foreground")
    [starting] = await statuses(host, "foreground")
    assert (starting.state, starting.startable) == (ServiceState.STARTING, False)
    assert "does not fork" in starting.says
    [hazard] = starting.hazards
    assert "after 2s systemd takes the start for failed" in hazard.says
    wait_until(
        lambda: host.run("systemctl", "is-failed", "foreground", check=False) == "failed\n",
        what="the end of what never came up",
    )


@pytest.mark.parametrize(
    ("stop", "signals"),
    [
        ("", True),
        ("argv[]=/bin/celery multi stopwait w1 --pidfile=/run/celery/%n.pid ;", False),
        ("argv[]=/bin/sh -c ${CELERY_BIN} multi stop w1 ;", True),
        ("argv[]=/usr/local/bin/stop-w1 ;", None),
    ],
)
def test_what_its_stop_command_does_to_the_children_is_known(
    stop: str, signals: bool | None
) -> None:
    unit = {"KillMode": "control-group", "Type": "forking", "ExecStop": stop}
    assert unit_hazards.signals_children(unit) is signals
    assert unit_hazards.signals_children({**unit, "KillMode": "mixed"}) is False


@pytest.mark.parametrize(
    ("start", "never"),
    [
        ("/bin/celery -A proj worker -n w1@%h", True),
        ("/usr/bin/python3 -m celery -A proj beat", True),
        ("/bin/celery -A proj worker --detach -n w1@%h", False),
        ("/bin/celery -A proj worker -D", False),
        ("/bin/celery multi start worker -A proj", False),
        ("/bin/sh -c ${CELERY_BIN} -A $CELERY_APP multi start $CELERYD_NODES", False),
        ("/usr/local/bin/start-w1", False),
    ],
)
def test_a_command_that_stays_in_the_foreground_is_recognised(start: str, never: bool) -> None:
    exec_start = f"{{ path={start.partition(' ')[0]} ; argv[]={start} ; ignore_errors=no ; pid=0 }}"
    assert unit_hazards.never_comes_up({"Type": "forking", "ExecStart": exec_start}) is never
    assert not unit_hazards.never_comes_up({"Type": "simple", "ExecStart": exec_start})
    assert units.status("x", {"Type": "simple", "ExecStart": exec_start}).hazards == ()
