"""A Redis that is killed and started again: its workers forget what they had reserved.

Celery clears what it had prefetched when it loses its connection, while the messages stay in
`unacked`, which the append-only file has kept: nobody runs them before the visibility timeout.
"""

from __future__ import annotations

import contextlib
import xmlrpc.client
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
    """Some live on; others end, as kombu 5.7 may if it cannot reconnect at once. These are started
    again: of a queue that no known worker consumes nothing can be proved.
    """
    numbers = set(range(1, 7))
    for number in numbers:
        queue = "threads" if number % 2 else "prefork"
        fleet.fleet.send(number, queue=queue, countdown=25.0)
    wait_until(lambda: fleet.numbers_of_unacked() == numbers, what="all of them are held")
    fleet.server.kill()
    fleet.server.start()

    def all_are_found() -> bool:
        status = ann.status()
        for one in status["workers"]:
            if one["state"] == "stopped":
                with contextlib.suppress(xmlrpc.client.Fault):  # it is being started already
                    fleet.start(one["name"].removesuffix("@rig"))
        return len(status["orphans"] or ()) == len(numbers)

    wait_until(all_are_found, what="six orphans", timeout=90)
    done = ann.do("runbook", "restore-orphans", "--yes")
    assert done.code == 0, done.all
    wait_until(lambda: fleet.fleet.ends().keys() == numbers, what="all have ended", timeout=60)
    assert set(fleet.fleet.starts().values()) == {1}
    assert set(fleet.fleet.ends().values()) == {1}
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    assert ann.status()["orphans"] == []
