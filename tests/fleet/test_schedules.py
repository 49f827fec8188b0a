"""What is known of a schedule, from what Celery tells of its settings and RedBeat keeps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from celery.utils.saferepr import saferepr
from celery.utils.serialization import jsonify

from celery_ops.fleet import schedules
from celery_ops.fleet.schedules import Due
from celery_ops.model import PeriodicTask, Schedule, SeenProcess

if TYPE_CHECKING:
    from tests.fleet.conftest import Lab

NOW = datetime(2026, 11, 26, 3, 0, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


def as_told(**conf: object) -> dict[str, Any]:
    """What a worker answers to `conf`, made by Celery itself."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    told: dict[str, Any] = jsonify(app.conf.table(), unknown_type_filter=saferepr)
    return told


@pytest.mark.parametrize(
    ("written", "every", "when"),
    [
        (10, 10.0, "every 10s"),
        (0.5, 0.5, "every 500ms"),
        (timedelta(minutes=5), 300.0, "every 5m"),
        (timedelta(days=2, seconds=1.5), 172_801.5, "every 2d2s"),
        (schedule(90.0), 90.0, "every 1m30s"),
        (crontab(), 60.0, "crontab * * * * *"),
        (crontab(minute="*/15", hour=3), 900.0, "crontab */15 3 * * *"),
        (crontab(0, 3, day_of_week="mon"), 86_400.0, "crontab 0 3 * * mon"),
        (crontab(minute={0, 30}), None, "<crontab: {0, 30} * * * * (m/h/dM/MY/d)>"),
        (0, None, "0"),
    ],
)
async def test_entries_are_read_as_celery_writes_them(
    lab: Lab, written: object, every: float | None, when: str
) -> None:
    conf = as_told(beat_schedule={"e": {"task": "app.e", "schedule": written}})
    known = schedules.joined({"w1@web1": conf}, None, await lab.surveyor.refresh())
    (entry,) = known.entries
    assert (entry.name, entry.task, schedules.interval(entry)) == ("e", "app.e", every)
    assert entry.when.lower() == when.lower()
    assert known.told_by == ("w1@web1",)


async def test_the_shortest_of_all_is_found_and_each_is_known_once(lab: Lab) -> None:
    conf = as_told(
        timezone="Europe/Berlin",
        beat_schedule={
            "often": {"task": "app.often", "schedule": 10},
            "seldom": {"task": "app.seldom", "schedule": crontab(0, 4)},
        },
    )
    own = (PeriodicTask("often", "app.often", "every 1m", 60.0, due_at=NOW),)
    snapshot = await lab.surveyor.refresh()
    known = schedules.joined({"w1@web1": conf, "w2@web1": conf}, None, snapshot)
    assert [one.name for one in known.entries] == ["often", "seldom"]
    assert known.zone == "Europe/Berlin"
    found = schedules.shortest(known)
    assert found is not None
    assert (found[0], found[1].name) == (10.0, "often")
    known = schedules.joined({"w1@web1": conf}, own, snapshot)
    found = schedules.shortest(known)
    assert found is not None
    assert found[0] == 60.0, "what RedBeat keeps is what it goes by"


async def test_what_cannot_be_known_is_said(lab: Lab) -> None:
    lab.fleet.add_beat()
    snapshot = await lab.surveyor.refresh()
    nobody = schedules.joined({}, None, snapshot)
    assert nobody.unknown == ("no worker tells its settings",)
    scheduler = "django_celery_beat.schedulers:DatabaseScheduler"
    (django,) = schedules.joined({"w": {"beat_scheduler": scheduler}}, None, snapshot).unknown
    assert django == "django-celery-beat's database is not read"
    lab.hosts.strays["web1"] = (
        SeenProcess((9, 1), is_beat=True, scheduler="redbeat.RedBeatScheduler"),
    )
    await lab.surveyor.find_processes()
    snapshot = await lab.surveyor.refresh()
    (away,) = schedules.joined({"w": {}}, None, snapshot).unknown
    assert away.startswith("RedBeat's entries are not in this broker")


@pytest.mark.parametrize(
    "hostile",
    [
        {"beat_schedule": []},
        {"beat_schedule": {"a": None, "b": {"schedule": "<crontab: 9>"}, "c": {"schedule": True}}},
        {"beat_schedule": {"a": {"schedule": "1" * 10_000}}},
        {"beat_schedule": {"a": {"schedule": float("nan")}}, "beat_cron_starting_deadline": "x"},
        {"beat_schedule": {"a": {"schedule": 10**400}}, "timezone": {"x": 1}},
    ],
)
async def test_whatever_a_worker_tells_is_survived(lab: Lab, hostile: dict[str, Any]) -> None:
    known = schedules.joined({"w": hostile}, None, await lab.surveyor.refresh())
    for entry in known.entries:
        schedules.due(entry, known, NOW - HOUR, NOW)
        assert len(entry.when) <= 200


EVERY_10M = PeriodicTask("a", "app.a", "every 10m", 600.0)
AT_THREE = PeriodicTask("b", "app.b", "crontab 0 3 * * *", crontab=("0", "3", "*", "*", "*"))
KEPT = PeriodicTask("c", "app.c", "every 1d", 86_400.0, due_at=NOW)
UTC_ONLY = Schedule(zone="UTC")


@pytest.mark.parametrize(
    ("entry", "known", "away", "due"),
    [
        (EVERY_10M, UTC_ONLY, HOUR, Due.YES),
        (EVERY_10M, UTC_ONLY, HOUR / 60, Due.PERHAPS),
        (AT_THREE, UTC_ONLY, HOUR, Due.YES),
        (AT_THREE, UTC_ONLY, timedelta(seconds=3), Due.NO),
        (AT_THREE, Schedule(), HOUR, Due.PERHAPS),
        (AT_THREE, replace(UTC_ONLY, deadline=2.0), HOUR, Due.NO),
        (AT_THREE, replace(UTC_ONLY, deadline=60.0), HOUR, Due.YES),
        (KEPT, UTC_ONLY, timedelta(0), Due.YES),
        (replace(KEPT, due_at=NOW + HOUR), UTC_ONLY, timedelta(days=9), Due.NO),
        (PeriodicTask("d", "app.d", "at dawn"), UTC_ONLY, HOUR, Due.PERHAPS),
    ],
)
def test_what_came_due_meanwhile(
    entry: PeriodicTask, known: Schedule, away: timedelta, due: Due
) -> None:
    assert schedules.due(entry, known, NOW - away, NOW) is due
