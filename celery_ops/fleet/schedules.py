"""What schedulers send, and when: from what workers tell of their settings, and from RedBeat's own
entries. Never from a file of beat's: that is pickled, and whoever reads it runs it.

A worker's settings have the schedule of its application, which is that of its scheduler too, unless
the two run another release. What a database adds (django-celery-beat) is not in them.
"""

from __future__ import annotations

import re
from datetime import timedelta
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any

from celery_ops.config.units import as_duration
from celery_ops.fleet import crontabs
from celery_ops.model import PeriodicTask, Schedule, Targets
from celery_ops.ports import Question

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Broker

ASKED = 20
"""So many workers are asked: more would say the same."""
REPLY_TIMEOUT = 3.0
UTC_ZONE = "UTC"
REDBEAT = "RedBeat's own entries"
_MOST = 5_000
_LONGEST_TEXT = 200
_FREQ = re.compile(r"<freq: (?P<number>[\d.]{1,12}) (?P<unit>second|minute|hour|day)s?>")
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_DELTA = re.compile(
    r"(?:(?P<days>\d{1,6}) days?, )?(?P<h>\d{1,2}):(?P<m>\d\d):(?P<s>\d\d(?:\.\d{1,6})?)"
)
_CRONTAB = re.compile(r"<crontab: (?P<fields>.+) \((?P<order>m/h/dM/MY/d|m/h/d/dM/MY)\)>")


class Due(Enum):
    """Whether an entry has come due meanwhile."""

    YES = "yes"
    PERHAPS = "perhaps"
    NO = "no"


async def read(broker: Broker, snapshot: FleetSnapshot) -> Schedule:
    """All that is told of it now. Raise BrokerUnreachable."""
    names = tuple(one.name for one in snapshot.workers if one.answers and one.mine)[:ASKED]
    told: dict[str, dict[str, Any]] = {}
    if names:
        round_ = await broker.ask(
            (Question.CONF,), to=Targets(names), timeout=REPLY_TIMEOUT, known=names
        )
        for reply in round_.replies[Question.CONF]:
            if isinstance(reply.value, dict):
                told[reply.node] = reply.value
    own = await broker.redbeat()
    return joined(told, own, snapshot)


def joined(
    told: dict[str, dict[str, Any]],
    own: tuple[PeriodicTask, ...] | None,
    snapshot: FleetSnapshot,
) -> Schedule:
    """One schedule: of two entries with one name RedBeat's own counts, and else both do."""
    names = {one.name for one in own or ()}
    entries: dict[PeriodicTask, None] = dict.fromkeys(own or ())
    tells: list[str] = [REDBEAT] if own else []
    for worker, conf in told.items():
        found = [one for one in _entries(conf) if one.name not in names]
        tells += [worker] if found else []
        entries |= dict.fromkeys(found)
    zones = {_zone(conf) for conf in told.values()}
    deadlines = [_number(conf.get("beat_cron_starting_deadline")) for conf in told.values()]
    return Schedule(
        entries=tuple(entries),
        told_by=tuple(tells),
        zone=zones.pop() if len(zones) == 1 else None,
        deadline=min((one for one in deadlines if one is not None), default=None),
        unknown=tuple(_unknown(told, own, snapshot)),
    )


def shortest(schedule: Schedule) -> tuple[float, PeriodicTask] | None:
    """The least that lies between two times of one entry, in seconds; None where none is known."""
    found = [(seconds, one) for one in schedule.entries if (seconds := interval(one)) is not None]
    return min(found, key=lambda pair: pair[0], default=None)


def interval(entry: PeriodicTask) -> float | None:
    """Seconds between two times, at least; None where that is not known."""
    if entry.crontab is None:
        return entry.every
    crontab = crontabs.parse(entry.crontab)
    return None if crontab is None else crontab.shortest


def due(entry: PeriodicTask, schedule: Schedule, since: datetime, now: datetime) -> Due:
    """Whether it came due while its scheduler was stopped, since then; one that was sent before as
    it should.
    """
    if entry.due_at is not None:
        return Due.YES if entry.due_at <= now else Due.NO
    if entry.every is not None:
        return Due.YES if (now - since).total_seconds() >= entry.every else Due.PERHAPS
    crontab = None if entry.crontab is None else crontabs.parse(entry.crontab)
    if crontab is None or schedule.zone is None:
        return Due.PERHAPS
    if schedule.deadline is not None:
        since = max(since, now - timedelta(seconds=schedule.deadline))
    came = crontab.came_due(since, now, schedule.zone)
    return Due.PERHAPS if came is None else Due.YES if came else Due.NO


def _entries(conf: dict[str, Any]) -> Iterator[PeriodicTask]:
    told = conf.get("beat_schedule")
    for name, one in list(told.items() if isinstance(told, dict) else ())[:_MOST]:
        if not isinstance(one, dict):
            continue
        task, when = str(one.get("task") or ""), one.get("schedule")
        every = _every(when)
        crontab = _crontab(when)
        if every is not None:
            yield PeriodicTask(str(name), task, f"every {as_duration(every)}", every)
        elif crontab is not None:
            yield PeriodicTask(str(name), task, f"crontab {' '.join(crontab)}", crontab=crontab)
        else:
            yield PeriodicTask(str(name), task, str(when)[:_LONGEST_TEXT])


def _every(when: object) -> float | None:
    """As Celery tells it: a number, a `timedelta`, or a `schedule`, the last two as texts."""
    if isinstance(when, int | float):
        return _number(when)
    if not isinstance(when, str) or len(when) > _LONGEST_TEXT:
        return None
    if match := _FREQ.fullmatch(when):
        return _number(match["number"], _SECONDS[match["unit"]])
    if match := _DELTA.fullmatch(when):
        days, hours = int(match["days"] or 0), int(match["h"])
        return _number(days * 86400 + hours * 3600 + int(match["m"]) * 60 + float(match["s"]))
    return None


def _crontab(when: object) -> tuple[str, str, str, str, str] | None:
    if not isinstance(when, str) or len(when) > _LONGEST_TEXT:
        return None
    match = _CRONTAB.fullmatch(when)
    fields = match["fields"].split(" ") if match else []
    if match is None or len(fields) != len(match["order"].split("/")):
        return None
    by = dict(zip(match["order"].split("/"), fields, strict=True))
    return by["m"], by["h"], by["dM"], by["MY"], by["d"]


def _zone(conf: dict[str, Any]) -> str | None:
    """Celery goes by UTC unless it is told otherwise, or has to ask its host."""
    named = conf.get("timezone")
    if isinstance(named, str) and named:
        return named
    return None if conf.get("enable_utc") is False else UTC_ZONE


def _number(value: object, times: float = 1.0) -> float | None:
    """A time in seconds that is one."""
    try:
        seconds = float(value) * times if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return None
    return seconds if isfinite(seconds) and seconds > 0 else None


def _unknown(
    told: dict[str, dict[str, Any]], own: tuple[PeriodicTask, ...] | None, snapshot: FleetSnapshot
) -> Iterator[str]:
    kinds = " ".join(_schedulers(told.values(), snapshot)).lower()
    if not told:
        yield "no worker tells its settings"
    if "django_celery_beat" in kinds:
        yield "django-celery-beat's database is not read"
    elif told and own is None and "redbeat" not in kinds and _any_untold(snapshot):
        yield "what a database adds, if it has one"
    if "redbeat" in kinds and own is None:
        yield "RedBeat's entries are not in this broker, or cannot be read"


def _any_untold(snapshot: FleetSnapshot) -> bool:
    """A scheduler is stopped, and its supervisor does not tell how it is started."""
    stopped = (one.service for one in snapshot.beats if one.service and not one.running)
    return any(one.status is None or not one.status.value.arguments for one in stopped)


def _schedulers(confs: Iterable[dict[str, Any]], snapshot: FleetSnapshot) -> Iterator[str]:
    """The classes of scheduler that are named anywhere."""
    for conf in confs:
        yield str(conf.get("beat_scheduler") or "")
    for host in snapshot.hosts:
        for process in host.processes.value.processes if host.processes is not None else ():
            yield process.scheduler or ""
    for service in snapshot.services:
        if service.ref.beat and service.status is not None:
            yield " ".join(service.status.value.arguments or ())
