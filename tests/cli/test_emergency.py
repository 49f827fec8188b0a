"""What an emergency has taken, handed over to the broker by the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.emergency import KeptRecords
from celery_ops.cli import emergency, state
from celery_ops.model import TakenRecord
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from pathlib import Path

RUN = "20261120-030000-0001"


async def test_that_of_a_journal_nobody_can_read_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can go on with it either; and other commands go on."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    clock = VirtualClock()
    broker = StandinBroker(StandinFleet(clock))
    record = TakenRecord("service", "w@web1", None, (), None, RUN, "ann@desk", clock.now())
    state.runs().mkdir(parents=True)
    (state.runs() / f"{RUN}.jsonl").write_text("not a line of ours\n")
    KeptRecords(emergency.lock(broker)).put(record)
    await emergency.hand_over(broker, clock)
    assert await broker.taken() == (record,)
