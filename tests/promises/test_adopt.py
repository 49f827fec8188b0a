"""`runs adopt` gives back what one run has taken, and nothing that others have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

PROGRAMS = (
    Program("w"),
    Program("first", beat=True),
    Program("second", beat=True, autostart=False),
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


def test_a_scheduler_that_another_run_has_stopped_stays_stopped(
    fleet: Operations, ann: Operator, bob: Operator
) -> None:
    for starts in ((), ("second",)):
        fleet.start(*starts)
        stopped = ann.do("beat", "stop", "--yes")
        assert stopped.code == 0, stopped.all
    owed = {one["worker"]: one["run"] for one in bob.status()["taken"]}
    adopted = bob.do("runs", "adopt", owed["supervisord second on local"], "--yes")
    assert adopted.code == 0, adopted.all
    assert fleet.pid("first") == 0
    assert fleet.pid("second") > 0
    assert [one["worker"] for one in bob.status()["taken"]] == ["supervisord first on local"]
    refused = ann.do("beat", "start", "--yes")
    assert refused.code == 7, refused.all
    assert "supervisord second on local" in refused.all
    assert fleet.pid("first") == 0
    assert ann.do("beat", "start", "-p", "other_beats=ignore", "--yes").code == 0
    assert fleet.nothing_is_taken()
