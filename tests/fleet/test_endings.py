"""What is gathered of ended tasks where there are very many, or not all can be read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_ops.errors import ResultsUnreachable
from celery_ops.fleet import endings
from celery_ops.fleet.survey import Surveyor
from celery_ops.fleet.tracing import Tracer
from celery_ops.model import StoredResult
from tests.standin.broker import StandinBroker, StandinResults
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet
from tests.standin.hosts import StandinHosts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from celery_ops.fleet.endings import Endings

MOST = 10


class Many(StandinResults):
    """So many have ended, the last one first; each portion takes some seconds."""

    def __init__(self, fleet: StandinFleet, count: int, *, seconds: float = 0.0) -> None:
        super().__init__(fleet)
        self._clock = fleet.clock
        self._count = count
        self._seconds = seconds

    async def all_stored(self) -> AsyncGenerator[dict[str, StoredResult], None]:
        if self.says:
            raise ResultsUnreachable(self.says)
        now = self._clock.now()
        for number in reversed(range(self._count)):
            await self._clock.sleep(self._seconds)
            ended_at = now + timedelta(seconds=number)
            yield {str(number): StoredResult("FAILURE", ended_at=ended_at, traceback="x")}


async def gathered(count: int, *, first: bool, seconds: float = 0.0, says: str = "") -> Endings:
    fleet = StandinFleet(VirtualClock())
    fleet.add_worker("a@web1")
    broker, clock = StandinBroker(fleet), fleet.clock
    results = Many(fleet, count, seconds=seconds)
    results.says = says
    surveyor = Surveyor(
        broker, StandinHosts(fleet), context="test", services=fleet.refs, clock=clock
    )
    meant = endings.Meant(
        judge=lambda id_, _: None if id_ == "3" else True,
        name=lambda id_, _: id_,
        ids=(),
        most=MOST,
        first=first,
    )
    tracer = Tracer(broker, clock, results=None)
    return await endings.look(tracer, broker, results, clock, await surveyor.refresh(), meant)


async def test_of_more_than_can_be_done_those_that_ended_first_are_kept() -> None:
    found = await gathered(100, first=True)
    assert list(found.results) == [str(number) for number in range(MOST + 1) if number != 3]
    assert (found.beyond, found.undecided) == (100 - MOST - 1, 1)
    assert not any(one.traceback for one in found.results.values())


async def test_without_a_limit_the_look_ends_where_there_are_too_many() -> None:
    found = await gathered(100, first=False)
    assert len(found.results) == MOST + 1
    assert (found.beyond, found.notes) == (0, ())


async def test_a_look_that_takes_too_long_ends_and_says_so() -> None:
    found = await gathered(8, first=False, seconds=20.0)
    assert 0 < len(found.results) < 8
    assert found.notes == ("not all results were looked at: after 1m some were left",)


async def test_results_that_cannot_be_read_are_told() -> None:
    assert (await gathered(8, first=True, says="They are away.")).notes == ("They are away.",)
