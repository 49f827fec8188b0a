"""The verbs of beat on machines: schedulers are units of systemd, stopped and started over SSH.

Each host's own systemd tells what came of it; so does the broker, of what is owed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.host_fleet import HostFleet, beat_of, host_fleet
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

BRIEFLY = ("-p", "silence=1s")
SENDS, STANDS_BY = beat_of("web1"), beat_of("web2")
REBEAT = """
name: rebeat
summary: Another life of the scheduler.
risk: low
steps:
  - restart: beat
    timeout: 20s
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostFleet]:
    """One scheduler runs; the other does not, and never shall."""
    with host_fleet(tmp_path_factory.mktemp("fleet"), "web1", "web2", beats=True) as made:
        write_runbook(made.folder, "rebeat", REBEAT)
        made.hosts["web2"].run("systemctl", "stop", STANDS_BY.name)
        yield made


@pytest.fixture(autouse=True)
def only_one_sends(fleet: HostFleet) -> Iterator[None]:
    wait_until(lambda: active(fleet) == "active", what="the scheduler runs")
    yield
    assert active(fleet) == "active"
    assert fleet.show_unit(STANDS_BY, "ActiveState", "NRestarts") == {
        "ActiveState": "inactive",
        "NRestarts": "0",
    }
    assert fleet.nothing_is_taken()


def active(fleet: HostFleet) -> str:
    return fleet.show_unit(SENDS, "ActiveState")["ActiveState"]


def life(fleet: HostFleet) -> str:
    return fleet.show_unit(SENDS, "InvocationID")["InvocationID"]


def taken(fleet: HostFleet) -> list[str]:
    entries: Any = fleet.redis.hgetall("celery-ops:taken")
    return [json.loads(value)["service"]["name"] for value in entries.values()]


def test_all_that_send_are_stopped_and_one_is_started_again(
    fleet: HostFleet, ann: Operator
) -> None:
    before = life(fleet)
    fleet.hosts["web2"].run("systemctl", "start", STANDS_BY.name)
    seen = ann.do("beat", "--json").json
    assert (seen["senders"], seen["problems"][0]["rule"]) == (2, "two-beats")
    stopped = ann.do("beat", "stop", "--yes", *BRIEFLY)
    assert stopped.code == 0, stopped.all
    for one in (SENDS, STANDS_BY):
        stands = {"ActiveState": "inactive", "Result": "success"}
        assert fleet.show_unit(one, *stands) == stands
    assert len(taken(fleet)) == 2
    assert f"{SENDS} is stopped\n      celery-ops -c hosts beat start" in stopped.out
    assert "no process of one on web1, web2" in stopped.out
    started = ann.do("beat", "start", "--yes", *BRIEFLY)
    assert started.code == 0, started.all
    assert f"{STANDS_BY} stays stopped" in started.out
    assert life(fleet) not in {"", before}
    assert ann.do("beat", "--json").json["senders"] == 1


def test_one_that_stays_stopped_is_owed_its_start_no_more(
    fleet: HostFleet, ann: Operator, bob: Operator
) -> None:
    """The other one is given back as ever."""
    fleet.hosts["web2"].run("systemctl", "start", STANDS_BY.name)
    stopped = ann.do("beat", "stop", "--yes", *BRIEFLY)
    assert stopped.code == 0, stopped.all
    fleet.hosts["web2"].run("systemctl", "start", STANDS_BY.name)
    refused = bob.do("beat", "forget", str(STANDS_BY), "--yes")
    assert (refused.code, len(taken(fleet))) == (7, 2), refused.all
    fleet.hosts["web2"].run("systemctl", "stop", STANDS_BY.name)
    forgot = bob.do("beat", "forget", str(STANDS_BY), "--yes")
    assert forgot.code == 0, forgot.all
    assert len(taken(fleet)) == 1
    started = ann.do("beat", "start", "--yes", *BRIEFLY)
    assert started.code == 0, started.all
    assert active(fleet) == "active"


def test_a_restart_is_another_life(fleet: HostFleet, ann: Operator) -> None:
    before = life(fleet)
    said = ann.do("runbook", "rebeat", "--yes")
    assert said.code == 0, said.all
    assert life(fleet) not in {"", before}
    assert fleet.show_unit(SENDS, "NRestarts") == {"NRestarts": "0"}, "it was nobody but us"


def test_one_that_does_not_come_back_is_owed_and_can_be_given_back_by_another(
    fleet: HostFleet, ann: Operator, bob: Operator
) -> None:
    fault = fleet.hosts["web1"].root / "srv/rig/faults/beat.dies"
    fault.touch()
    fault.chmod(0o644)
    try:
        said = ann.do("runbook", "rebeat", "--yes")
        assert said.code == 4, said.all
        assert f"owed: {SENDS} is stopped\n      celery-ops -c hosts beat start" in said.out
    finally:
        fault.unlink()
        # Else systemd refuses further starts for ten seconds: whoever mends a cause takes longer.
        fleet.hosts["web1"].run("systemctl", "reset-failed", SENDS.name)
    assert taken(fleet) == [SENDS.name]
    given = bob.do("runs", "adopt", ann.journals()[-1].stem, "--yes")
    assert given.code == 0, given.all


def test_an_undo_starts_it_again(fleet: HostFleet, ann: Operator) -> None:
    before = life(fleet)
    stopped = ann.do("beat", "stop", "--yes", *BRIEFLY)
    assert stopped.code == 0, stopped.all
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all
    assert f"{SENDS}: start it again" in undone.err
    assert life(fleet) not in {"", before}
