"""What Docker prints of a container, read as a status; and which process in it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from signal import SIGINT, SIGQUIT, SIGRTMIN, SIGTERM
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.hosts import containers, enclosed
from celery_ops.hosts.containers import Seen
from celery_ops.hosts.listing import Process
from celery_ops.model import Retry, ServiceState, ServiceStatus

ID = "ab" * 32
STARTED = "2026-11-26T07:31:32.887110896Z"
SECOND = 10**9
BEGAN = 1795678292 * SECOND
RUNS: dict[str, Any] = {
    "pid": 4000,
    "id": ID,
    "name": "/worker",
    "state": "running",
    "code": 0,
    "error": "",
    "oom": False,
    "started": STARTED,
    "restarts": 0,
    "policy": "always",
    "tries": 0,
    "removed": False,
    "pids": "",
    "signal": "",
    "grace": None,
    "hostname": "c1",
    "path": "celery",
    "args": ["-A", "p", "worker"],
    "project": "",
    "service": "",
    "number": "",
    "oneoff": "",
    "swarm": "",
    "pod": "",
}
ENDED = RUNS | {"pid": 0, "state": "exited"}
TERM = 1 << (SIGTERM - 1)


def seen(*lines: str, **changes: Any) -> Seen:
    told = [f"now={BEGAN // SECOND + 100}", f"container={json.dumps(RUNS | changes)}", *lines]
    return containers.read("\n".join(told).encode())


def process(
    pid: int, arguments: str, *, parent: int = 1, inner: int = 1, handles: int = TERM
) -> list[str]:
    return [
        f"/proc/{pid}/cmdline:" + "\0".join(arguments.split(" ")),
        f"/proc/{pid}/stat:{pid} (x) S {parent} {' '.join(['0'] * 40)}",
        f"/proc/{pid}/status:NSpid:\t{pid}\t{inner}",
        f"/proc/{pid}/status:SigBlk:\t{0:016x}",
        f"/proc/{pid}/status:SigCgt:\t{handles:016x}",
    ]


def status(*lines: str, **changes: Any) -> ServiceStatus:
    read = seen(*lines, **changes)
    [container] = read.containers
    return containers.status(container, read)


def test_a_running_container_tells_its_worker_and_its_life() -> None:
    told = status(*process(4000, "celery -A p worker -n w1@%h"))
    assert (told.state, told.pid, told.inner_pid, told.told_pid) == (
        ServiceState.RUNNING,
        4000,
        1,
        1,
    )
    assert told.identity == f"{ID[:12]}:{STARTED}"
    assert told.node == "w1@c1"
    assert told.arguments == ("celery", "-A", "p", "worker", "-n", "w1@%h")
    assert (told.stop_grace, told.stop_signal, told.restarts_itself) == (10, "SIGTERM", True)
    assert (told.signals_children, told.reaches_worker, told.startable) == (False, True, True)
    assert not told.cuts_off


def test_without_proc_pid_1_is_the_pid_of_its_first_process() -> None:
    told = status()
    assert (told.pid, told.inner_pid, told.reaches_worker, told.node) == (4000, 1, None, None)
    assert status(pids="host").inner_pid is None


@pytest.mark.parametrize(
    ("changes", "state", "clean", "says"),
    [
        (ENDED, ServiceState.STOPPED, True, "stopped cleanly"),
        (ENDED | {"code": 143}, ServiceState.STOPPED, False, "ended by signal SIGTERM"),
        (ENDED | {"code": 137}, ServiceState.FAILED, False, "SIGKILL (it comes 10s after"),
        (ENDED | {"code": 137, "grace": -1}, ServiceState.FAILED, False, "it comes no end after"),
        (ENDED | {"code": 137, "oom": True}, ServiceState.FAILED, False, "want of memory"),
        (ENDED | {"code": 3}, ServiceState.FAILED, False, "exit code 3"),
        (ENDED | {"code": 127}, ServiceState.FAILED, False, "its command is not there"),
        (ENDED | {"error": "no image"}, ServiceState.FAILED, False, "not be started: no image"),
        (ENDED | {"state": "dead"}, ServiceState.FAILED, None, "is dead"),
        (ENDED | {"state": "removing"}, ServiceState.UNKNOWN, None, "is removing"),
        (
            ENDED | {"state": "created", "started": "0001-01-01T00:00:00Z"},
            ServiceState.STOPPED,
            None,
            "never started",
        ),
        (
            ENDED | {"state": "created", "code": 127, "error": "no such file"},
            ServiceState.FAILED,
            None,
            "it could not be started: no such file",
        ),
    ],
)
def test_how_it_ended_is_told(
    changes: dict[str, Any], state: ServiceState, clean: bool | None, says: str
) -> None:
    told = status(**changes)
    assert (told.state, told.clean_exit) == (state, clean)
    assert (told.pid, told.inner_pid, told.identity, told.started_at) == (None, None, None, None)
    assert says in told.says


def test_what_docker_does_about_a_container_that_ended_is_told() -> None:
    again = status(**ENDED | {"state": "restarting", "code": 1, "restarts": 5})
    assert (again.state, again.retry, again.restarts) == (ServiceState.STARTING, Retry.AGAIN, 5)
    assert "docker starts it again; restarted by docker: 5x" in again.says
    tried = ENDED | {"code": 1, "policy": "on-failure", "tries": 3, "restarts": 3}
    assert (status(**tried).retry, status(**tried).restarts_itself) == (Retry.GAVE_UP, False)
    assert status(**tried | {"restarts": 2}).retry is None
    assert "the next start of docker or of its host" in status(**ENDED).says
    assert "of its host" not in status(**ENDED | {"policy": "unless-stopped"}).says


@pytest.mark.parametrize(
    ("kill", "state"),
    [
        (f"{ID} {BEGAN + 5 * SECOND} 15", ServiceState.STOPPING),
        (f"{ID} {BEGAN + 5 * SECOND} 9", ServiceState.STOPPING),
        (f"{ID} {BEGAN + 5 * SECOND} 10", ServiceState.RUNNING),
        (f"{ID} {BEGAN - 5 * SECOND} 15", ServiceState.RUNNING),
        (f"{'cd' * 32} {BEGAN + 5 * SECOND} 15", ServiceState.RUNNING),
        ("nonsense", ServiceState.RUNNING),
    ],
    ids=["stop", "kill", "usr1", "of-the-life-before", "of-another", "not-understood"],
)
def test_a_signal_that_ends_things_is_a_stop_of_this_life(kill: str, state: ServiceState) -> None:
    assert status(f"kill={kill}").state is state


@pytest.mark.parametrize(
    ("handles", "ago", "state"),
    [
        (TERM, 90, ServiceState.STOPPING),
        (0, 90, ServiceState.RUNNING),
        (0, 12, ServiceState.STOPPING),
    ],
    ids=["heard", "deaf", "deaf-within-its-grace"],
)
def test_a_signal_that_nobody_hears_is_no_stop_when_the_grace_is_over(
    handles: int, ago: int, state: ServiceState
) -> None:
    kill = f"kill={ID} {BEGAN + (100 - ago) * SECOND} 15"
    assert status(kill, *process(4000, CELERY, handles=handles)).state is state


def test_a_container_may_ask_for_another_signal() -> None:
    exotic = f"kill={ID} {BEGAN + SECOND} {int(SIGRTMIN)}"
    assert status(exotic).state is ServiceState.RUNNING
    assert status(signal="SIGQUIT").stops_cold
    assert status(signal="3").stop_signal == "SIGQUIT"
    assert status(signal="nonsense").stop_signal == "SIGTERM"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"removed": True}, "removed when it stops"),
        ({"swarm": "shop_worker"}, "the Swarm service shop_worker"),
        ({"pod": "worker-1"}, "the pod worker-1 of Kubernetes"),
    ],
)
def test_what_could_not_be_started_again_is_told(changes: dict[str, Any], says: str) -> None:
    told = status(**changes)
    assert told.startable is False
    assert says in told.says


CELERY = "celery -A p worker"


@pytest.mark.parametrize(
    ("lines", "pid", "reaches", "children"),
    [
        (process(4000, CELERY), 4000, True, False),
        (process(4000, CELERY, handles=0), 4000, False, False),
        (process(4000, "python worker.py"), 4000, True, False),
        ([*process(4000, f"sh -c {CELERY};true", handles=0), *process(4001, CELERY, parent=4000)],
         4001, False, False),
        ([*process(4000, "sh start.sh"), *process(4001, CELERY, parent=4000)], 4001, None, False),
        ([*process(4000, "/sbin/tini -- x"), *process(4001, CELERY, parent=4000)],
         4001, True, False),
        ([*process(4000, "tini -e 143 -sg -- x"), *process(4001, CELERY, parent=4000)],
         4001, True, True),
        ([*process(4000, "dumb-init x"), *process(4001, CELERY, parent=4000)], 4001, True, True),
        ([*process(4000, "dumb-init -c x"), *process(4001, CELERY, parent=4000)],
         4001, True, False),
        ([*process(4000, "tini -- sh"), *process(4001, "bash start.sh", parent=4000, handles=0),
          *process(4002, CELERY, parent=4001)], 4002, False, False),
        ([*process(4000, "watchmedo auto-restart"), *process(4001, CELERY, parent=4000)],
         4001, None, None),
        ([*process(4000, "supervisord"), *process(4001, CELERY, parent=4000),
          *process(4002, CELERY, parent=4000)], 4000, True, None),
        ([*process(4000, CELERY), *process(4001, CELERY, parent=4000)], 4000, True, False),
    ],
    ids=[
        "exec-form", "no-handler", "own-program", "shell", "shell-with-a-trap", "tini",
        "tini-to-the-group", "dumb-init", "dumb-init-to-one", "shell-below-tini", "wrapper",
        "two-workers", "prefork",
    ],
)  # fmt: skip
def test_which_process_counts_and_whether_a_stop_gets_to_it(
    lines: list[str], pid: int, reaches: bool | None, children: bool | None
) -> None:
    told = status(*lines)
    assert (told.pid, told.reaches_worker, told.signals_children) == (pid, reaches, children)
    assert told.cuts_off is (reaches is False or children is not False)


def test_a_process_that_has_just_begun_may_come_to_its_handlers() -> None:
    read = replace(seen(*process(4000, CELERY, handles=0)), now=BEGAN / SECOND + 1)
    assert containers.status(read.containers[0], read).reaches_worker is None


def test_what_is_idle_is_judged_by_what_it_would_run() -> None:
    assert status(**ENDED | {"path": "dumb-init", "args": ["celery"]}).signals_children is True
    assert status(**ENDED).signals_children is False


def test_processes_that_are_each_others_parents_end_the_search() -> None:
    ring = {
        1: Process(1, 2, None, ("a",), ""),
        2: Process(2, 1, None, ("b",), ""),
    }
    assert enclosed.main(1, ("a",), ring).pid == 1


def test_a_signal_says_who_heeds_it() -> None:
    told = Process(1, 0, None, ("a",), "", handles=1 << (SIGINT - 1))
    assert (told.heeds(SIGINT), told.heeds(SIGQUIT)) == (True, False)
    assert Process(1, 0, None, ("a",), "").heeds(SIGTERM) is None


@given(st.binary(max_size=300))
def test_whatever_is_printed_is_read(noise: bytes) -> None:
    containers.read(noise)
    read = containers.read(b"container=" + noise)
    assert [containers.status(one, read) for one in read.containers] == []


@given(
    st.dictionaries(
        st.sampled_from(sorted(RUNS)),
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        max_size=6,
    )
)
def test_whatever_a_container_is_said_to_be_a_status_is_made_of_it(changes: dict[str, Any]) -> None:
    read = containers.read(f"container={json.dumps(RUNS | changes)}".encode())
    for one in read.containers:
        assert containers.status(one, read).says
