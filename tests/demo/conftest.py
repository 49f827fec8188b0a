"""Real demos for the tests: each in a state directory of its own, each ended whatever happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_ops import demo as demos
from celery_ops.demo.layout import Addresses, Layout
from celery_ops.demo.processes import kill_members, members
from celery_ops.demo.servers import redis_server, require_supervisor
from celery_ops.errors import OpsError
from tests.rig.missing import missing

DEADLINE = 60.0
ROOT = Path(__file__).resolve().parents[2]

StartDemo = Callable[[], demos.Demo]


def require_servers() -> None:
    """Skip where Redis or supervisord is missing; fail there in CI, which has to have them."""
    try:
        redis_server()
        require_supervisor()
    except OpsError as error:
        missing(error.says)


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fail, naming it, if it never is."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {DEADLINE:.0f} s: {what}")
        time.sleep(0.05)


def left_of(demo: demos.Demo) -> list[str]:
    """What of a demo is still there."""
    left = [f"process {process.pid}" for process in members(demo.session, demo.directory)]
    if demo.directory.exists():
        left.append(str(demo.directory))
    return left


def addresses(demo: demos.Demo) -> Addresses:
    return Addresses.read(Layout(demo.directory))


@contextmanager
def own_state(directory: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        yield


@contextmanager
def ending(started: list[demos.Demo]) -> Iterator[None]:
    try:
        yield
    finally:
        for demo in started:
            demos.stop(demo)
            kill_members(demo.session, demo.directory, within=5)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """An empty state directory: no demo of another test, or of the user, is seen."""
    with own_state(tmp_path / "state"):
        yield tmp_path / "state"


@pytest.fixture
def start_demo(state: Path) -> Iterator[StartDemo]:
    """Starts demos that are entered in `state` and end with the test."""
    require_servers()
    assert not state.exists()
    started: list[demos.Demo] = []

    def start() -> demos.Demo:
        started.append(demos.start(owner_pid=os.getpid()))
        return started[-1]

    with ending(started):
        yield start


@pytest.fixture(scope="module")
def shared_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demos.Demo]:
    """One demo for all tests of a module that only look at it."""
    require_servers()
    with own_state(tmp_path_factory.mktemp("state")), pytest.MonkeyPatch.context() as patch:
        # Celery's command line obeys these; a demo must not.
        patch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
        patch.setenv("APP", "nosuch.app")
        demo = demos.start(owner_pid=os.getpid())
        with ending([demo]):
            yield demo
