"""Nodes that run by themselves: small programs with pidfiles, on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.config.detached import DetachedNode, detached
from celery_ops.errors import CommandFailed
from celery_ops.hosts import begun
from celery_ops.hosts.local import LocalShell
from celery_ops.hosts.multi import Multi
from celery_ops.model import ServiceRef, ServiceState
from celery_ops.ports import Completed
from tests.hosts.contract import Program, Supervised, SupervisorContract
from tests.hosts.streaming import logged, why_none
from tests.rig import wait_until
from tests.rig.detached import end_all, is_gone, node
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_ops.ports import Command

pytestmark = pytest.mark.rig

BEGUN = (Program.POLITE, Program.STUBBORN, Program.SLOW, Program.BROKEN)


def service(name: str) -> ServiceRef:
    return ServiceRef("local", "multi", name)


@pytest_asyncio.fixture
async def supervised(tmp_path: Path) -> AsyncIterator[Supervised]:
    nodes = {
        ("local", one.value): node(tmp_path, one.value)
        for one in Program
        if one is not Program.UNKNOWN
    }
    adapter = Multi(nodes, folder=str(tmp_path))
    services = {one: service(one.value) for one in Program}
    rig = Supervised(LocalShell(), adapter, services, lambda: None)
    try:
        for one in BEGUN:
            await rig.start(one)
        yield rig
    finally:
        end_all(tmp_path)


class TestMulti(SupervisorContract):
    """The contract of all supervisors."""

    knows_its_services = True

    gives_up = "exit code 1: The module nope was not found."
    longest_shown = 1000  # the argv is the user\'s own, and shown whole


async def test_what_no_supervisor_does_is_told(supervised: Supervised) -> None:
    polite = await supervised.until(Program.POLITE, ServiceState.RUNNING)
    assert (polite.stop_signal, polite.stop_grace) == ("SIGTERM", None)
    assert (polite.signals_children, polite.restarts_itself) == (False, False)
    assert (polite.startable, polite.hazards) == (True, ())


def test_what_is_started_has_the_environment_of_a_login_and_no_other(tmp_path: Path) -> None:
    adapter = Multi({("local", "polite"): node(tmp_path, "polite")})
    assert adapter.start(service("polite")).env == ()


async def test_a_node_that_is_killed_has_not_ended_cleanly(supervised: Supervised) -> None:
    running = await supervised.until(Program.STUBBORN, ServiceState.RUNNING)
    await supervised.stop(Program.STUBBORN, running.identity)
    stopping = await supervised.until(Program.STUBBORN, ServiceState.STOPPING)
    assert running.pid is not None
    assert "told to stop" in stopping.says
    os.kill(running.pid, signal.SIGKILL)
    killed = await supervised.until(Program.STUBBORN, ServiceState.FAILED)
    assert (killed.clean_exit, killed.pid, killed.identity) == (False, None, None)
    assert "killed by a signal" in killed.says
    await supervised.start(Program.STUBBORN)
    again = await supervised.until(Program.STUBBORN, ServiceState.RUNNING)
    assert again.identity != running.identity


@contextlib.contextmanager
def another_program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as other:
        yield other
        other.kill()


@pytest.mark.parametrize("expect", [None, "same"])
async def test_a_pid_that_another_program_has_is_told_and_never_signalled(
    supervised: Supervised, tmp_path: Path, expect: str | None
) -> None:
    running = await supervised.until(Program.POLITE, ServiceState.RUNNING)
    await supervised.stop(Program.POLITE, running.identity)
    await supervised.until(Program.POLITE, ServiceState.STOPPED)
    with another_program() as other:
        (tmp_path / "polite.pid").write_text(f"{other.pid}\n")
        [status] = await supervised.status(Program.POLITE)
        with pytest.raises(CommandFailed, match="another program has"):
            await supervised.stop(Program.POLITE, expect and running.identity)
        with pytest.raises(CommandFailed, match="another program has") as caught:
            await supervised.start(Program.POLITE)
        assert other.poll() is None
        (tmp_path / "polite.pid").unlink()
    assert (status.state, status.pid, status.startable) == (ServiceState.FAILED, None, False)
    assert "remove the pidfile" in str(caught.value.fix)


async def test_a_node_of_a_longer_name_is_another(supervised: Supervised, tmp_path: Path) -> None:
    running = await supervised.until(Program.POLITE, ServiceState.RUNNING)
    shorter = {("local", "pol"): replace(node(tmp_path, "pol"), pidfile=f"{tmp_path}/polite.pid")}
    adapter = Multi(shorter, folder=str(tmp_path / "other"))
    stop = await LocalShell().run(adapter.stop(service("pol"), expect=None), timeout=10)
    with pytest.raises(CommandFailed, match="another program has"):
        adapter.read_effect(service("pol"), stop)
    assert running.pid is not None
    assert not is_gone(running.pid)


@pytest.mark.parametrize("written", ["", "no number\n", "-1\n", "1 2\n"])
async def test_a_pidfile_without_a_pid_is_unknown_or_a_stranger(
    supervised: Supervised, tmp_path: Path, written: str
) -> None:
    (tmp_path / "idle.pid").write_text(written)
    [status] = await supervised.status(Program.IDLE)
    assert status.state in {ServiceState.UNKNOWN, ServiceState.FAILED}
    assert status.pid is None
    with pytest.raises(CommandFailed, match="left alone"):
        await supervised.start(Program.IDLE)
    (tmp_path / "idle.pid").unlink()


async def test_what_others_wrote_where_our_notes_belong_is_not_used(tmp_path: Path) -> None:
    (tmp_path / f"celery-ops-{os.getuid()}").symlink_to(tmp_path)
    adapter = Multi({("local", "polite"): node(tmp_path, "polite")}, folder=str(tmp_path))
    completed = await LocalShell().run(adapter.start(service("polite")), timeout=10)
    with pytest.raises(CommandFailed, match="cannot be noted in"):
        adapter.read_effect(service("polite"), completed)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for everybody: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="multi-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        end_all(Path(folder))


async def test_a_node_of_another_user_is_not_signalled_in_vain(open_folder: Path) -> None:
    """Told when its status is read, so before a plan; `sudo: true` becomes its user."""
    if os.getuid() != 0:
        missing("root, who alone can act as somebody else")
    known = {("local", "polite"): node(open_folder, "polite")}
    adapter, one = Multi(known, folder=str(open_folder)), service("polite")
    await LocalShell().run(adapter.start(one), timeout=10)
    pidfile = open_folder / "polite.pid"
    wait_until(pidfile.exists, what="a node")
    status = adapter.read_status([one], await _as_nobody(adapter.status([one])))[one]
    assert (status.state, status.pid) == (ServiceState.RUNNING, int(pidfile.read_text()))
    assert [hazard.forbids for hazard in status.hazards] == [True]
    with pytest.raises(CommandFailed, match="could not be signalled") as caught:
        adapter.read_effect(one, await _as_nobody(adapter.stop(one, expect=status.identity)))
    assert "USER ALL=(OWNER)" in str(caught.value.fix)
    may = replace(adapter, sudo=frozenset({"local"}))
    allowed = may.read_status([one], await _as_nobody(may.status([one])))[one]
    assert allowed.hazards == ()


async def _as_nobody(command: Command) -> Completed:
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    return await LocalShell().run(replace(command, argv=(*become, *command.argv)), timeout=10)


async def test_its_log_is_followed(tmp_path: Path) -> None:
    adapter = Multi({("local", "polite"): node(tmp_path, "polite")})
    assert "cannot be read" in (await why_none(LocalShell(), adapter, service("polite"))).says
    (tmp_path / "polite.log").write_text("one\ntwo\nthree\n")
    seen = await logged(LocalShell(), adapter, service("polite"), b"three", lines=2)
    assert seen == b"two\nthree\n"


MULTI = ("celery", "multi", "start")


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [
        ("w1", (*MULTI, "w1", "-A", "p"), ("/var/run/celery/w1.pid", "/var/log/celery/w1.log")),
        ("w1@web1", (*MULTI, "w1@web1", "--pidfile=/r/%n.pid", "-f", "/l/%N%I.log"),
         ("/r/w1.pid", "/l/w1.log")),
        ("w1", (*MULTI, "w1", "-A", "proj", "-p", "/r/a.pid", "--logfile=l"), ("/r/a.pid", None)),
        ("w1", ("celery", "worker", "--detach", "--pidfile=/r/w.pid"), ("/r/w.pid", None)),
    ],
)  # fmt: skip
def test_its_start_command_tells_where_its_files_are(
    name: str, start: tuple[str, ...], expected: tuple[str, str | None]
) -> None:
    pidfile, log = expected
    assert detached(name, start, None, None) == DetachedNode(pidfile, start, log)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ((*MULTI, "w1", "w2"), "w1 and no other node"),
        ((*MULTI, "3", "-A", "p"), "w1 and no other node"),
        ((*MULTI, "w1", "--queues", "mail"), "w1 and no other node"),
        ((*MULTI, "w1", "--pidfile=/r/%h.pid"), "write pidfile"),
        ((*MULTI, "w1", "--pidfile=r.pid"), "a path from the root"),
        (("/etc/init.d/celeryd", "start"), "write pidfile"),
    ],
)
def test_a_start_command_that_is_not_for_one_node_is_refused(
    start: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        detached("w1", start, None, None)


def said(*, group: str, mine: str, uid: int = 0, kills: str = "") -> Completed:
    """What STATUS prints of the node `polite`, which lives in that control group."""
    key = begun.key("multi", "polite", NODE.pidfile)
    head = f"hertz=100\nbtime=1795000000\nroot=0::/init.scope\nmine=0::{mine}\n{kills}\nuid={uid}"
    node = f"node={key}\nkind=node\npid=40\nlife=b:40:1500\nmay=yes\ngroup=0::{group}\n"
    return Completed(0, f"{head}\n{node}".encode(), b"", 0.1)


NODE = DetachedNode("/run/celery/polite.pid", ("celery",))
SESSION = "/user.slice/user-9.slice/session-3.scope"


@pytest.mark.parametrize(
    ("group", "mine", "startable"),
    [
        ("/system.slice/celery.service", SESSION, False),
        ("/system.slice/celery.service", "/system.slice/celery.service", True),
        ("/system.slice/ssh.service", SESSION, True),
        ("/user.slice/user-9.slice/session-1.scope", SESSION, True),
    ],
)
def test_a_node_of_a_systemd_unit_is_not_to_be_started_by_hand(
    group: str, mine: str, *, startable: bool
) -> None:
    adapter, one = Multi({("local", "polite"): NODE}), service("polite")
    found = adapter.read_status([one], said(group=group, mine=mine))[one]
    assert (found.state, found.identity) == (ServiceState.RUNNING, "b:40:1500")
    assert found.startable is startable
    assert ("belongs to systemd's celery.service" in found.says) is not startable


@pytest.mark.parametrize(("uid", "startable"), [(1000, False), (0, True)])
def test_where_a_logout_ends_what_was_started_that_is_told(uid: int, *, startable: bool) -> None:
    adapter, one = Multi({("local", "polite"): NODE}), service("polite")
    printed = said(group=SESSION, mine=SESSION, uid=uid, kills="KillUserProcesses=yes")
    found = adapter.read_status([one], printed)[one]
    assert found.startable is startable
    assert ("would not outlive the connection" in found.says) is not startable
