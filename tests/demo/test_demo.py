"""Real demos: what runs in one, and that nothing of it is left, however it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from celery_ops import demo as demos
from celery_ops.config import contexts
from celery_ops.demo import registry
from celery_ops.demo.layout import WORKERS, Layout
from celery_ops.demo.processes import Process, identify, members
from celery_ops.errors import OpsError, UsageError
from tests.demo.conftest import (
    ROOT,
    StartDemo,
    addresses,
    eventually,
    left_of,
    require_servers,
)

pytestmark = pytest.mark.rig

OWNS_A_DEMO = """
import os, signal, sys, time
from celery_ops import demo
if sys.argv[1] == "catches Ctrl-C":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print(demo.start(owner_pid=os.getpid()).name, flush=True)
time.sleep(600)
"""


def nodes_with_a_heartbeat(demo: demos.Demo) -> set[str]:
    """Every worker announces itself every two seconds: who did so within five."""
    found = set()
    with Redis.from_url(addresses(demo).broker.reveal()) as redis, redis.pubsub() as events:
        events.psubscribe("/0.celeryev/*")
        for _ in range(50):
            event = events.get_message(timeout=0.1)
            if event is not None and event["type"] == "pmessage":
                body = json.loads(base64.b64decode(json.loads(event["data"])["body"]))
                found.add(body["hostname"])
            if len(found) == len(WORKERS):
                break
    return found


def sent(demo: demos.Demo) -> int:
    return asyncio.run(demos.ledger(demo)).sent


def command_line(process: Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def processes_of(demo: demos.Demo) -> tuple[Process, ...]:
    return members(demo.session, demo.directory)


def supervisord_of(demo: demos.Demo) -> Process:
    found = identify(int((demo.directory / "supervisord.pid").read_text()))
    assert found is not None
    return found


def redis_of(demo: demos.Demo) -> Process:
    (found,) = (
        process
        for process in processes_of(demo)
        if Path(f"/proc/{process.pid}/comm").read_text().strip().endswith("-server")
    )
    return found


@contextmanager
def owner(kind: str = "dies at Ctrl-C") -> Iterator[tuple[subprocess.Popen[str], demos.Demo]]:
    """Another process that owns a demo, in a process group as a terminal would give it."""
    command = [sys.executable, "-c", OWNS_A_DEMO, kind]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        demo = demos.find(process.stdout.readline().strip())
        try:
            yield process, demo
        finally:
            process.kill()
            demos.stop(demo)


# --- looking at one that runs ---------------------------------------------------------------------


def test_four_workers_announce_themselves(shared_demo: demos.Demo) -> None:
    expected = {worker.node for worker in WORKERS}
    eventually(lambda: nodes_with_a_heartbeat(shared_demo) == expected, "four heartbeats")


def test_tasks_are_sent_and_done(shared_demo: demos.Demo) -> None:
    before = sent(shared_demo)
    eventually(lambda: sent(shared_demo) > before + 10, "the producer goes on")
    ledger = asyncio.run(demos.ledger(shared_demo))
    assert ledger.sent == ledger.done + ledger.running + ledger.lost + ledger.waiting
    assert (ledger.lost, ledger.twice) == (0, 0)


def test_no_command_line_shows_the_password(shared_demo: demos.Demo) -> None:
    password = addresses(shared_demo).password.reveal()
    lines = [command_line(process) for process in processes_of(shared_demo)]
    assert sum("celery" in line for line in lines) >= len(WORKERS)
    assert not [line for line in lines if password in line]


def test_its_configuration_names_its_context(shared_demo: demos.Demo) -> None:
    configuration = contexts.load(shared_demo.config, {})
    assert configuration.contexts[shared_demo.name].broker == addresses(shared_demo).broker
    assert shared_demo.config.stat().st_mode & 0o077 == 0


def test_its_entry_holds_no_secret(shared_demo: demos.Demo) -> None:
    entries = Path(os.environ["XDG_STATE_HOME"], "celery-ops", "demos").glob("*.json")
    password = addresses(shared_demo).password.reveal()
    assert not [path for path in entries if password in path.read_text()]
    assert password not in repr(shared_demo)


# --- ending ---------------------------------------------------------------------------------------


def test_a_stopped_demo_leaves_nothing(start_demo: StartDemo, state: Path) -> None:
    demo = start_demo()
    eventually(lambda: sent(demo) > 0, "the fleet works")
    demos.stop(demo)
    assert left_of(demo) == []
    assert [path for path in state.rglob("*") if path.is_file()] == []
    assert demos.running() == ()
    demos.stop(demo)


def test_an_owner_that_is_killed_takes_its_demo_along() -> None:
    require_servers()
    with owner() as (process, demo):
        eventually(lambda: sent(demo) > 0, "the fleet works")
        process.kill()
        # Nobody has waited for the owner yet: a zombie is gone all the same.
        eventually(lambda: left_of(demo) == [], "nothing is left")
    assert demo.name not in [one.name for one in demos.running()]


def test_ctrl_c_in_the_owners_terminal_does_not_reach_the_demo() -> None:
    require_servers()
    with owner("catches Ctrl-C") as (process, demo):
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGHUP)
        eventually(lambda: left_of(demo) == [], "the hang-up ended the owner, and so the demo")


def test_a_demo_without_an_owner_runs_until_it_is_stopped(state: Path) -> None:
    require_servers()
    starter = "from celery_ops import demo; print(demo.start(owner_pid=None).name)"
    command = [sys.executable, "-c", starter]
    named = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    demo = demos.find(named.stdout.strip())
    try:
        assert demo.owner is None
        eventually(lambda: sent(demo) > 0, "the fleet works after its starter ended")
    finally:
        demos.stop(demo)
    assert left_of(demo) == []
    assert state.exists()


@pytest.mark.parametrize("victim", ["supervisord", "redis"])
def test_a_server_that_is_killed_takes_the_demo_along(start_demo: StartDemo, victim: str) -> None:
    demo = start_demo()
    supervisord = supervisord_of(demo)
    eventually(lambda: sent(demo) > 0, "the fleet works")
    (supervisord if victim == "supervisord" else redis_of(demo)).signal(signal.SIGKILL)
    eventually(lambda: left_of(demo) == [], "nothing is left")
    assert demos.running() == ()


def test_what_a_killed_keeper_left_is_cleaned_up_by_the_next_look(start_demo: StartDemo) -> None:
    demo = start_demo()
    eventually(lambda: sent(demo) > 0, "the fleet works")
    demo.keeper.signal(signal.SIGKILL)
    eventually(lambda: not demo.alive, "the keeper is gone")
    assert left_of(demo) != []
    assert demos.running() == ()
    assert left_of(demo) == []


async def test_whoever_waits_for_the_end_is_told_of_it(start_demo: StartDemo) -> None:
    demo = start_demo()
    waiting = asyncio.create_task(demos.ended(demo))
    await asyncio.sleep(0)
    assert not waiting.done()
    demo.keeper.signal(signal.SIGTERM)
    await asyncio.wait_for(waiting, 60)


# --- several --------------------------------------------------------------------------------------


def test_two_demos_do_not_disturb_each_other(start_demo: StartDemo) -> None:
    older, newer = start_demo(), start_demo()
    assert older.name != newer.name
    assert addresses(older).port != addresses(newer).port
    eventually(lambda: sent(older) > 0 and sent(newer) > 0, "both fleets work")
    demos.stop(newer)
    assert left_of(newer) == []
    before = sent(older)
    eventually(lambda: sent(older) > before + 5, "the other one goes on")


def test_a_demo_is_found_by_its_name_and_the_newest_by_demo(start_demo: StartDemo) -> None:
    older, newer = start_demo(), start_demo()
    assert demos.running() == (newer, older)
    assert demos.find("demo") == newer
    assert demos.find(older.name) == older
    with pytest.raises(UsageError, match="nosuch") as caught:
        demos.find("nosuch")
    assert older.name in str(caught.value)


@pytest.mark.usefixtures("state")
def test_where_no_demo_runs_the_text_says_how_to_start_one() -> None:
    with pytest.raises(UsageError, match="celery-ops demo") as caught:
        demos.find("demo")
    assert caught.value.says == "No demo is running."


def test_entries_of_other_machines_and_broken_ones_are_left_alone(
    start_demo: StartDemo, state: Path
) -> None:
    demo = start_demo()
    entries = state / "celery-ops" / "demos"
    entry = json.loads((entries / f"{demo.name}.json").read_text())
    foreign = entries / "demo-ffff.json"
    foreign.write_text(json.dumps(entry | {"machine": "elsewhere", "keeper": "1:1"}))
    broken = entries / "demo-eeee.json"
    broken.write_text("{")
    assert demos.running() == (demo,)
    assert foreign.exists()
    assert broken.exists()


def test_a_directory_that_is_not_a_demos_is_never_removed(state: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    registry.enter(demos.Demo("demo-0001", precious, precious, Process(1, 1), None, registry.now()))
    assert demos.running() == ()
    assert precious.exists()
    assert not list(state.rglob("*.json"))


# --- not starting ---------------------------------------------------------------------------------


def test_a_redis_that_does_not_come_up_is_quoted_and_leaves_nothing(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "bin" / "redis-server"
    server.parent.mkdir()
    # As Redis does, it quotes the configuration it does not like.
    server.write_text('#!/bin/sh\ngrep requirepass "$1" >&2\necho no such luck >&2\nexit 1\n')
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{server.parent}{os.pathsep}{os.environ['PATH']}")
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(OpsError, match="Redis ended at once") as caught:
        demos.start(owner_pid=os.getpid())
    assert "no such luck" in caught.value.says
    assert "requirepass ***" in caught.value.says
    assert list(temporary.iterdir()) == []
    assert [path for path in state.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("state")
def test_an_owner_that_does_not_exist_is_refused() -> None:
    require_servers()
    with pytest.raises(UsageError, match="no process"):
        demos.start(owner_pid=2**22 + 1)


def test_a_temporary_directory_too_deep_for_sockets_is_passed_over(
    start_demo: StartDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert start_demo().directory.parent == Path("/tmp").resolve()
    assert list(deep.iterdir()) == []


def test_importing_the_package_loads_neither_celery_nor_redis_nor_supervisor() -> None:
    loaded = "import sys, celery_ops.demo; print(*sys.modules)"
    command = [sys.executable, "-c", loaded]
    modules = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"celery", "kombu", "redis", "supervisor", "textual"} & set(modules.stdout.split())


def test_its_logs_are_in_its_directory(shared_demo: demos.Demo) -> None:
    eventually(lambda: sent(shared_demo) > 0, "the fleet works")
    logs = {path.name for path in Layout(shared_demo.directory).logs.iterdir()}
    assert {f"{worker.name}.log" for worker in WORKERS} <= logs
    assert {"beat.log", "producer.log", "redis.log", "supervisord.log"} <= logs
