"""Whatever happens while a queue is paused: given back in the end, all is consumed as before.

Workers die and join, the broker goes away, executors are killed; the run is gone on with, taken
back or left to another operator. Drawn by seeds, on the stand-in fleet.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.runbook import journal
from celery_ops.runbook.journal import has_ended
from tests.runbook.operation import Operation
from tests.runbook.test_resume import KEPT, killed
from tests.standin.fleet import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

T = TypeVar("T")

QUEUES = ("default", "mail", "reports")
MAIL = {"queue": "mail"}
SEEDS = range(40)


class Draw:
    """The same for a seed, each time and everywhere."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn = 0

    def between(self, least: int, most: int) -> int:
        self._drawn += 1
        digest = hashlib.sha256(f"{self._seed} {self._drawn}".encode()).digest()
        return least + int.from_bytes(digest[:8]) % (most - least + 1)

    def choice(self, some: Sequence[T]) -> T:
        return some[self.between(0, len(some) - 1)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_in_the_end_everybody_consumes_what_it_did(tmp_path: Path, seed: int) -> None:
    draw = Draw(seed)
    operation = Operation(tmp_path)
    fleet = operation.fleet
    for number in range(draw.between(2, 5)):
        others = ("default", "reports")[draw.between(0, 2) :]
        fleet.add_worker(f"w{number}@web1", queues=("mail", *others))
    fleet.add_worker("w3@web1" if len(fleet.workers) < 4 else "w9@web1", queues=("default",))
    for number in range(30):
        fleet.send(QUEUES[number % 3], draw.choice((0.1, 2.0, 9.0)))
    operation.write_runbook("kept", KEPT)
    name, params = draw.choice((("pause-queue", MAIL), ("kept", {"allow_gap": "mail,default"})))
    path = operation.write_down(await operation.plan(name, **params))
    beside = asyncio.ensure_future(disturb(operation, draw))
    line, when = draw.between(3, 14), draw.choice(("before", "after"))
    died = await killed(operation, path, line, when)
    if died and not has_ended(list(journal.read(path))):
        with suppress(BrokerUnreachable):
            await go_on(operation, path, draw)
    beside.cancel()
    await asyncio.gather(beside, return_exceptions=True)
    operation.broker.is_down = False
    await operation.clock.sleep(60)
    told = await adopted(operation)
    await operation.clock.sleep(20)
    fleet.settle()
    assert operation.broker.records == {}, told
    for worker in fleet.workers:
        assert worker.phase is Phase.UP
        assert worker.consuming.keys() == worker.configured.keys(), f"{worker.name}\n{told}"
    assert not fleet.ledger.twice


async def adopted(operation: Operation) -> str:
    """What is left is given back as `runs adopt` does it; what that told."""
    told = []
    records = tuple(operation.broker.records.values())
    stopped = [record.worker for record in records if record.kind == "service"]
    if stopped:
        told.append((await operation.run("start-worker", workers=",".join(stopped))).told())
    if any(record.paused for record in records):
        told.append((await operation.run("resume-queue", **MAIL)).told())
    return "\n".join(told)


async def go_on(operation: Operation, path: Path, draw: Draw) -> None:
    """What becomes of a run whose executor died."""
    match draw.choice(("resume", "undo", "nothing")):
        case "resume":
            await operation.take_up(path)
        case "undo":
            await operation.take_up(path, undo=True)


async def disturb(operation: Operation, draw: Draw) -> None:
    """A few mishaps, one after the other."""
    fleet = operation.fleet
    for number in range(draw.between(0, 3)):
        await operation.clock.sleep(draw.choice((0.3, 1.2, 3.0, 8.0)))
        match draw.choice(("dies", "joins", "away")):
            case "dies":
                victim = draw.choice(fleet.workers)
                if victim.phase is Phase.UP:
                    fleet.kill(victim)
            case "joins":
                fleet.add_worker(f"new{number}@web1", queues=("mail", "reports"))
            case "away":
                operation.broker.is_down = True
                await operation.clock.sleep(draw.choice((0.5, 4.0, 20.0)))
                operation.broker.is_down = False
