"""A rollback on machines: three systemd hosts, six workers, beat on one, two releases, and load.
All the while somebody sends what the earlier release does not know.

The journal tells the order, and so does somebody who knows nothing of celery_ops: each host's link,
each process's own systemd, and the periodic tasks, of which each notes who sent it and who ran it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.poller import Sampler
from tests.rig.released import NEW, OLD, Tick, current, released_fleet, ticks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet
    from tests.rig.operator import Said

pytestmark = pytest.mark.rig

WATCHED = 8
"""Seconds: so many ticks, or nearly."""
ROLLBACK = (
    "runbook",
    "rollback",
    "-p",
    "release=previous",
    "-p",
    "batch=3",
    "-p",
    "silence=2s",
    "-p",
    f"watch={WATCHED}s",
)
TASKS_BEFORE = 20
NOVEL = 100_000
"""The number of the first task that the earlier release does not know."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "drain-first": (),
    # Three batches, not six, and the guard still has to cut them: one consumer of mail a time.
    "rolling": ("-p", "keep_available=50%"),
}


@dataclass(frozen=True)
class RolledBack:
    """What was said and seen during a rollback."""

    fleet: HostFleet
    run: Said
    load: Load
    novel: Load
    sampler: Sampler

    def moment(
        self, event: str, step: str, *, verb: str | None = None, last: bool = False
    ) -> float:
        """When the journal has such a line for the first time, or the last."""
        found = [
            datetime.fromisoformat(one["at"]).timestamp()
            for one in self.run.events
            if one["event"] == event and (one.get("step") or "").startswith(step)
            if verb is None or one.get("verb") == verb
        ]
        assert found, f"no {event} of step {step}"
        return found[-1 if last else 0]

    def least(self, queue: str) -> int:
        """The fewest that ever consumed a queue, itself or in the way of what is parked."""
        return min(
            sample[queue] + sample[f"celery-ops.through.{queue}"] for sample in self.sampler.samples
        )


def rolled_back(folder: Path, fleet: HostFleet, *options: str) -> RolledBack:
    ann = fleet.operator(folder, "ann")
    novel = Load(fleet.fleet, *fleet.consumers, first=NOVEL, every=0.1, tasks=("rig.novel",))
    with Load(fleet.fleet, *fleet.consumers) as load, novel:
        wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
        with Sampler(fleet.poller) as sampler:
            run = ann.do(*ROLLBACK, "--yes", "--json", *options)
    load.settle(logs=fleet.logged)
    return RolledBack(fleet, run, load, novel, sampler)


@pytest.mark.parametrize("strategy", OPTIONS)
def test_a_release_is_rolled_back_under_load(tmp_path: Path, strategy: str) -> None:
    with released_fleet(tmp_path / "fleet") as fleet:
        assert current(fleet) == dict.fromkeys(fleet.hosts, NEW)
        if strategy == "rolling":  # beat runs twice
            told = len(ticks(fleet))
            fleet.hosts["web2"].run("systemctl", "start", "celery-beat")
            wait_until(lambda: _both_send(ticks(fleet)[told:]), what="both send", timeout=60)
        seen = rolled_back(tmp_path, fleet, "-p", f"strategy={strategy}", *OPTIONS[strategy])
        assert seen.run.code == 0, seen.run.all
        assert current(fleet) == dict.fromkeys(fleet.hosts, OLD)
        _no_task_was_lost_or_doubled(seen)
        _none_was_discarded_before_the_end(seen)
        _beat_was_away_all_the_while(seen, watched=WATCHED)
        _all_consume_as_before(seen)
        _each_ran_a_probe(seen)
        if strategy == "drain-first":
            assert seen.least("common") == 0
            drained = seen.moment("result", "3", last=True)
            assert drained < seen.moment("intent", "5", verb="activate")
        else:
            assert seen.least("common") >= 3
            assert seen.least("mail") >= 2
        fleet.dismiss()
        assert fleet.leaks() == []


def _both_send(told: list[Tick]) -> bool:
    """More than once: a slow host sends one before it is told not to, after its boot."""
    times = Counter(one.origin.rpartition("@")[2] for one in told)
    return min(times["web1"], times["web2"]) > 1


def _no_task_was_lost_or_doubled(seen: RolledBack) -> None:
    """All have ended, or `settle` had not returned."""
    assert seen.load.sent > 100
    assert seen.load.twice() == []
    known = {number for number in seen.fleet.fleet.starts() if number < NOVEL}
    assert known == set(seen.load.numbers)
    assert seen.fleet.redis.hlen("unacked") == 0


def _none_was_discarded_before_the_end(seen: RolledBack) -> None:
    """They come until then, so parking goes on; each has run on the later release, or is parked."""
    fleet, novel = seen.fleet, seen.novel
    starts = {number: count for number, count in fleet.fleet.starts().items() if number >= NOVEL}
    assert set(starts.values()) == {1}
    parked = [
        json.loads(raw)["headers"]["id"]
        for key in fleet.redis.keys("celery-ops.parked.*")
        for raw in fleet.redis.lrange(key, 0, -1)
    ]
    assert len(set(parked)) == len(parked) > 50
    lost = novel.sent_with(set(novel.numbers) - starts.keys(), without=parked)
    released = seen.moment("intent", "7", verb="release")
    assert released > seen.moment("result", "8", last=True), "beat was started before"
    assert all(one.at.timestamp() > released for one in lost)
    print(
        f"{novel.sent} sent, {len(starts)} begun, {len(parked)} parked, {len(lost)} after the end"
    )
    says = seen.run.events[-1]["outcome"]["says"]
    assert "sent some until now" in says
    assert "celery-ops task hold rig.novel" in says


def _beat_was_away_all_the_while(seen: RolledBack, *, watched: int) -> None:
    """It is stopped before anything else is done, and started when all else is done."""
    stopped = seen.moment("result", "2")
    started = seen.moment("intent", "8")
    first = min(seen.moment("intent", one) for one in "34567" if _was_done(seen, one))
    assert stopped < first < started
    assert seen.moment("result", "5" if _was_done(seen, "5") else "6", last=True) < started
    told = ticks(seen.fleet)
    assert max(Counter(one.id for one in told).values()) == 1, "none twice"
    senders = list(dict.fromkeys(one.origin for one in told if "web1" in one.origin))
    before, after = (sum(one.origin == sender for one in told) for sender in senders)
    assert all(one.release == OLD for one in told if one.origin == senders[1])
    assert min(one.at for one in told if one.origin == senders[1]) >= started
    assert {one.origin for one in told if one.at >= started} == {senders[1]}, "one sends"
    assert after > watched * 3 / 4, "it was watched for so long"
    assert before > 3


def _was_done(seen: RolledBack, step: str) -> bool:
    return any(
        one["event"] == "intent" and (one.get("step") or "").startswith(step)
        for one in seen.run.events
    )


def _each_ran_a_probe(seen: RolledBack) -> None:
    probed = {
        one["target"]
        for one in seen.run.events
        if one["event"] == "intent" and one.get("verb") == "probe"
    }
    assert probed == {one.node for one in seen.fleet.members}
    with seen.fleet.server.client(1) as counts:
        assert int(counts.hget("pings", "ended") or 0) >= len(probed)


def _all_consume_as_before(seen: RolledBack) -> None:
    assert seen.sampler.samples[0] == seen.sampler.samples[-1] == seen.fleet.consumers
    assert seen.fleet.nothing_is_taken()
    for one in seen.fleet.members:
        told = seen.fleet.show(one, "ActiveState", "NRestarts", "Result")
        assert told == {"ActiveState": "active", "NRestarts": "0", "Result": "success"}
