"""A Redis that is killed and started again: its workers forget what they had reserved.

Celery clears what it had prefetched when it loses its connection, while the messages stay in
`unacked`, which the append-only file has kept: nobody runs them before the visibility timeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

KEEPS = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    folder = tmp_path_factory.mktemp("fleet")
    programs = (Program("threads"), Program("prefork", pool="prefork"))
    with operations(folder, *programs, redis=KEEPS) as made:
        yield made


def test_what_the_workers_forgot_is_found_and_runs_once(fleet: Operations, ann: Operator) -> None:
    """Some live on; others end, as kombu 5.7 may when it cannot reconnect at once."""
    numbers = set(range(1, 7))
    for number in numbers:
        queue = "threads" if number % 2 else "prefork"
        fleet.fleet.send(number, queue=queue, countdown=25.0)
    wait_until(lambda: fleet.numbers_of_unacked() == numbers, what="all of them are held")
    fleet.server.kill()
    fleet.server.start()
    wait_until(lambda: len(ann.status()["orphans"] or ()) == 6, what="six orphans", timeout=60)
    done = ann.do("runbook", "restore-orphans", "--yes")
    assert done.code == 0, done.all
    wait_until(lambda: fleet.fleet.ends().keys() == numbers, what="all have ended", timeout=60)
    assert set(fleet.fleet.starts().values()) == {1}
    assert set(fleet.fleet.ends().values()) == {1}
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    assert ann.status()["orphans"] == []
