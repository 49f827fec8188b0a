"""django-celery-beat: two schedulers on one database both send, and only one is started again.

What they send goes to a queue that nobody consumes, so somebody who knows nothing of celery_ops can
count who sent how much.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.django_beat import ARGUMENTS, django_beat
from tests.rig.operations import Operations, Program, operations
from tests.rig.runbooks import CAREFUL, write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.rig

ONE, TWO = "supervisord one on local", "supervisord two on local"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Operations]:
    environment = tuple(django_beat(tmp_path / "django").items())
    programs = [
        Program(name, beat=True, arguments=ARGUMENTS, environment=environment)
        for name in ("one", "two")
    ]
    with operations(tmp_path, *programs) as made:
        write_runbook(made.folder, "careful", CAREFUL)
        wait_until(lambda: len(senders(made)) == 2, what="both send")
        yield made


def senders(fleet: Operations, since: int = 0) -> set[str]:
    """Who sent what has come to the queue since it was so long."""
    sent: Any = fleet.redis.lrange("periodic", 0, -1 - since)
    headers = [json.loads(one)["headers"] for one in sent]
    assert {one["periodic_task_name"] for one in headers} <= {"tick"}
    return {one["origin"].partition("@")[0] for one in headers}


def test_two_that_send_are_stopped_proved_silent_and_one_sends_again(
    fleet: Operations, tmp_path: Path
) -> None:
    ann = fleet.operator(tmp_path, "ann")
    seen = ann.do("beat", "--json").json
    assert (seen["senders"], seen["problems"][0]["rule"]) == (2, "two-beats")
    configured = [one for one in seen["beats"] if one["configured"]]
    ours = {one["name"]: one["sends_as"].partition("@")[0] for one in configured}
    assert ours.keys() == {ONE, TWO}
    assert set(ours.values()) == senders(fleet), "both send under the names that were told"
    refused = ann.do("runbook", "careful", "--yes")
    assert (refused.code, "two send" in refused.all) == (7, True), refused.all

    plan = ann.do("beat", "stop", "--plan")
    assert "django-celery-beat's database is not read" in plan.out
    stopped = ann.do("beat", "stop", "--yes", "-p", "silence=2s")
    assert stopped.code == 0, stopped.all
    assert (fleet.pid("one"), fleet.pid("two")) == (0, 0)
    length: Any = fleet.redis.llen("periodic")
    time.sleep(2.0)  # twice as long as its one entry waits
    assert fleet.redis.llen("periodic") == length

    started = ann.do("beat", "start", "--yes", "-p", "silence=2s")
    assert started.code == 0, started.all
    assert f"{ONE} runs; {TWO} stays stopped" in started.out
    assert f"{ONE} was stopped for " in started.out
    assert "rig.work came from gen" in started.out
    assert senders(fleet, length) == {f"gen{fleet.pid('one')}"}
    assert fleet.pid("two") == 0
    assert fleet.nothing_is_taken()
