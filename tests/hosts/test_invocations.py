"""Command lines: which of them run Celery, as what, and under which node name."""

from __future__ import annotations

import shlex
import socket

import pytest
from celery.utils.nodenames import default_nodename, host_format
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.hosts.invocations import Invocation, detached_start, node_name, of_unit, read
from celery_ops.model import Role

HOSTNAME = "web1.example.com"
WORKER, BEAT = Role.WORKER, Role.BEAT


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/v/bin/python /v/bin/celery -A p worker -n w1@%h", (WORKER, f"w1@{HOSTNAME}")),
        ("/v/bin/python3.11 -m celery -A p worker --hostname=w1@%n", (WORKER, "w1@web1")),
        ("/v/bin/celery -A p worker -c 4", (WORKER, f"celery@{HOSTNAME}")),
        ("celery --app=p --no-color -b redis://h worker -nw1@h", (WORKER, "w1@h")),
        ("celery worker -A p -n lonely", (WORKER, "celery@lonely")),
        ("sh -c 'exec celery -A p worker -n w1@h -Q a,b'", (WORKER, "w1@h")),
        ("bash -lc 'C_FORCE_ROOT=1 celery -A p worker'", (WORKER, f"celery@{HOSTNAME}")),
        ("celery -A p worker -n ${NAME}@%h", (WORKER, None)),
        ("'[celeryd: w1@h:MainProcess] -active- (worker -l INFO)'", (WORKER, "w1@h")),
        ("celery -A p beat", (BEAT, None)),
        ("'[celery beat] -A p beat'", (BEAT, None)),
    ],
)
def test_workers_and_beats_are_recognised(line: str, expected: tuple[Role, str | None]) -> None:
    found = read(shlex.split(line), HOSTNAME)
    assert found is not None
    assert (found.role, found.node) == expected
    assert not found.is_child


@pytest.mark.parametrize(
    "line",
    [
        "",
        "python",
        "celery",
        "celery -A worker inspect ping",
        "celery -A p flower",
        "grep celery worker",
        "vim celery worker",
        "python3 -m celery_ops worker drain w1@h",
        "python3 -m pytest celery worker",
        "sh -c 'unbalanced \" celery worker'",
        "tail -f /var/log/celery/worker.log",
    ],
)
def test_what_only_speaks_of_celery_is_none(line: str) -> None:
    words = [line] if "unbalanced" in line else shlex.split(line)
    assert read(words, HOSTNAME) is None


def test_children_of_a_pool_are_told_by_their_title() -> None:
    assert read(["[celeryd: w1@h:ForkPoolWorker-3]"], HOSTNAME) == Invocation(
        WORKER, "w1@h", is_child=True
    )


@pytest.mark.parametrize("option", ["-B", "--beat"])
def test_a_worker_that_is_a_scheduler_too_is_known(option: str) -> None:
    found = read(["celery", "-A", "p", "worker", option], HOSTNAME)
    assert found is not None
    assert found.has_beat
    assert found.app == "p"


PIECES = ["a", "w1", ".", "-", "@", "%h", "%n", "%d", "%i", "%I", "%%"]


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=6))
def test_names_are_made_as_celery_makes_them(pieces: list[str]) -> None:
    name = "".join(pieces)
    assert node_name(name, socket.gethostname()) == str(host_format(default_nodename(name)))


@pytest.mark.parametrize(
    ("line", "folder", "start"),
    [
        (
            "/v/python3 -m celery -A p worker --pidfile=/w.pid -n w@h --executable=/v/python3",
            "/srv/app",
            "/v/python3 -m celery --workdir=/srv/app -A p worker --detach --pidfile=/w.pid -n w@h",
        ),
        (
            "celery --workdir=/a -A p beat --detach --pidfile=/r/b.pid",
            "/a",
            "celery --workdir=/a -A p beat --detach --pidfile=/r/b.pid",
        ),
        (
            "celery -A p worker --pidfile=/r/w.pid",
            "",
            "celery -A p worker --detach --pidfile=/r/w.pid",
        ),
        ("celery -A p worker --pidfile=w.pid", "/srv", ""),
        ("celery -A p worker", "/srv", ""),
        ("celery -A p status --pidfile=/r/w.pid", "/srv", ""),
    ],
)
def test_what_starts_a_process_again_is_made_of_its_command_line(
    line: str, folder: str, start: str
) -> None:
    assert detached_start(line.split(), folder) == tuple(start.split())


@pytest.mark.parametrize(
    ("line", "node"),
    [
        ("/v/celery -A p multi start w1 --pidfile=/run/celery/%n.pid", f"w1@{HOSTNAME}"),
        ("/v/celery multi start w1@here -A p", "w1@here"),
        ("sh -c 'exec python3 -m celery -A p multi start w1'", f"w1@{HOSTNAME}"),
        ("/v/celery -A p worker -n w1@h", "w1@h"),
    ],
)
def test_the_node_that_a_unit_starts_is_told(line: str, node: str) -> None:
    assert of_unit(shlex.split(line), HOSTNAME) == Invocation(WORKER, node, app="p")


@pytest.mark.parametrize(
    "line",
    [
        "celery multi start w1 w2 -A p",
        "celery multi start 3 -A p",
        "sh -c 'celery -A $APP multi start $NODES'",
        "celery multi stopwait w1",
    ],
)
def test_a_unit_of_several_nodes_or_of_unknown_ones_tells_none(line: str) -> None:
    assert of_unit(shlex.split(line), HOSTNAME) is None


@pytest.mark.parametrize(
    ("line", "scheduler"),
    [
        ("celery -A shop beat -S redbeat.RedBeatScheduler", "redbeat.RedBeatScheduler"),
        ("celery -A shop beat --scheduler=a.b:C -s /tmp/file", "a.b:C"),
        ("celery -A shop beat -s /tmp/file", None),
        ("celery -A shop worker -B --scheduler a.b:C", "a.b:C"),
        ("celery -A shop worker -B -S /var/lib/state.db", None),
    ],
)
def test_the_scheduler_is_told_and_a_workers_state_file_is_none(
    line: str, scheduler: str | None
) -> None:
    found = read(line.split(), HOSTNAME)
    assert found is not None
    assert found.scheduler == scheduler
