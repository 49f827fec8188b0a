"""A deploy on machines: a release whose workers start and fail their tasks stops at the canary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.released import FAILING, NEW, OLD, current, released_fleet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.rig


def test_a_release_that_fails_its_tasks_stops_at_the_canary_and_is_put_back(
    tmp_path: Path,
) -> None:
    with released_fleet(tmp_path / "fleet", "web1", "web2", old=FAILING) as fleet:
        ann = fleet.operator(tmp_path, "ann")
        before = fleet.incarnations()
        with Load(fleet.fleet, *fleet.consumers) as load:
            wait_until(lambda: len(fleet.fleet.ends()) > 20, what="the fleet is at work")
            run = ann.do(
                *("runbook", "deploy", "-p", f"release={OLD}", "-p", "canary_watch=60s"),
                *("-p", "keep_available=50%", "--yes", "--json"),
            )
        assert run.code == 3, run.all
        assert "a bad release" in run.events[-1]["outcome"]["says"]
        assert current(fleet) == dict.fromkeys(fleet.hosts, NEW)
        after = fleet.incarnations()
        assert sum(after[node] != before[node] for node in before) == 1, "the canary alone"
        assert fleet.poller.consumers() == fleet.consumers
        assert fleet.nothing_is_taken()
        assert load.twice() == []


def test_the_plan_names_producers_that_are_ahead_and_a_scheduler_that_goes_on(
    tmp_path: Path,
) -> None:
    with released_fleet(tmp_path / "fleet", "web1", "web2") as fleet:
        ann = fleet.operator(tmp_path, "ann")
        queue = next(iter(fleet.consumers))
        numbers = range(60)
        for number in numbers:  # more than its workers hold
            fleet.fleet.send(number, task="rig.hold", queue=queue)
        for number in range(3):
            fleet.fleet.send(100 + number, task="rig.unheard", queue=queue)
        try:
            said = ann.do("runbook", "deploy", "-p", f"release={OLD}", "--plan")
        finally:
            fleet.fleet.release(*numbers)
        assert "3 messages of rig.unheard, sent by gen" in said.all, said.all
        assert f"wait in {queue}, and " in said.all
        assert "not know that task" in said.all
        assert "celery-beat.service on web1 is not restarted: it goes on with " in said.all
        assert f"would begin anew with {OLD}" in said.all
        wait_until(lambda: fleet.fleet.ends().keys() >= set(numbers), what="their ends")
