"""A purge whose messages a real fail-over has put back, right after they were parked: Sentinel
promotes a replica that had been cut off before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from celery_ops.broker import connect
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from celery_ops.runbook.backups import read
from celery_ops.runbook.events import Ending, EventKind
from tests.broker.test_store_moving import envelope, number_of
from tests.rig.sentinel import sentinel_rig
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from celery_ops.ports import Clock
    from celery_ops.runbook.journal import Event
    from tests.rig.sentinel import SentinelRig

pytestmark = pytest.mark.rig

COUNT = 20


class OnRedis(Operation):
    """The engine on a real broker, in real time; there are no workers and no hosts."""

    def __init__(self, directory: Path, broker: Any) -> None:
        super().__init__(directory, broker=broker)
        self.now = cast("Clock", SystemClock())

    def process(self, since: object = None) -> Clock:
        del since
        return self.now


@pytest.mark.parametrize("at", ["parked", "written"])
async def test_a_purge_that_a_fail_over_has_taken_back_is_done_again_or_is_none(
    tmp_path: Path, at: str
) -> None:
    """Once the file is written, it destroys nothing, and says where the messages may be."""
    with sentinel_rig(tmp_path / "redis") as rig:
        broker = await connect(Secret(rig.url()), rig.options(), clock=SystemClock())
        try:
            await purged(OnRedis(tmp_path, broker), rig, at)
        finally:
            await broker.close()


async def purged(operation: OnRedis, rig: SentinelRig, at: str) -> None:
    with rig.client() as client:
        client.lpush("mail", *(envelope(number) for number in range(COUNT)))
    (replica,) = rig.replicas
    is_over = False

    def fail_over(event: Event) -> None:
        nonlocal is_over
        says = event.outcome.says if event.outcome else ""
        if event.event is EventKind.INTENT and event.verb == "park" and not is_over:
            rig.estrange(replica)
        if event.event is EventKind.RESULT and f" {at} " in says and not is_over:
            is_over = True
            old = rig.master
            rig.fail_over()
            rig.reconcile(replica)
            old.start()

    plan = await operation.plan("purge-queue", queue="mail")
    (move,) = plan.moves
    ran = await operation.take_up(operation.write_down(plan), then=fail_over)
    with rig.client() as client:
        raws: Any = client.lrange("mail", 0, -1)
        others: Any = client.keys("celery-ops.parked*") + client.keys("celery-ops:tickets")
    assert others == [], ran.told()
    assert (await read(Path(move.file))).count == COUNT
    if at == "parked":
        assert ran.ending is Ending.DONE, ran.told()
        assert "it is parked again" in ran.told()
        assert ran.end.says.startswith(f"{COUNT} messages of mail purged")
        assert raws == []
    else:
        assert ran.ending is not Ending.DONE, ran.told()
        assert "nothing was destroyed" in ran.end.says
        assert [number_of(raw) for raw in reversed(raws)] == list(range(COUNT))
