"""The schedulers, for people and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_ops.cli.text import Column, table
from celery_ops.config.secret import masked
from celery_ops.config.units import as_duration
from celery_ops.doctor.beats import BEAT_RULES
from celery_ops.fleet import beats
from celery_ops.tui.text import UNKNOWN, age, safe

if TYPE_CHECKING:
    from celery_ops.model import Beat, FleetSnapshot

_BEATS = (
    Column("scheduler", gives=True),
    Column("host"),
    Column("state"),
    Column("age", right=True),
    Column("pid", right=True),
    Column("sends as", gives=True),
    Column("release", optional=True),
    Column("how", gives=True, optional=True),
)


def lines(snapshot: FleetSnapshot, width: int) -> list[str]:
    """Each scheduler, what is wrong with them, and where others may run unseen."""
    rows = [_row(one, snapshot) for one in snapshot.beats]
    found = table(_BEATS, rows, width) if rows else ["no scheduler was found"]
    told = []
    for one in snapshot.problems:
        if one.rule in BEAT_RULES:
            told += [safe(f"{one.level.value}: {one.subject}: {one.says}."), safe(f"  {one.fix}")]
    if snapshot.beat_lock is not None:
        told.append(f"RedBeat's lock is held for {as_duration(round(snapshot.beat_lock))} more")
    told += [
        safe(f"processes that were not seen may schedule on {masked(one)}")
        for one in beats.blind(snapshot.hosts, [host.name for host in snapshot.hosts])
    ]
    return [*found, *([""] if told else []), *told]


def as_json(one: Beat, snapshot: FleetSnapshot) -> dict[str, Any]:
    """A scheduler; `running` is null where that is not known, `configured` false where only its
    process or its answer was found, `doubtful` that it may be another deployment's, `worker` the
    one that it is a part of (`-B`), and `sends_as` the `origin` in its messages.
    """
    service = one.service
    return {
        "name": one.name,
        "host": one.host,
        "running": one.running,
        "state": _state(one),
        "age": _age(one, snapshot),
        "pid": _pid(one),
        "configured": service is not None and service.ref.beat,
        "doubtful": one.doubtful,
        "worker": one.worker,
        "sends_as": one.origin,
        "waits_for_lock": one.waits_for_lock,
        "release": _release(one),
    }


def _row(one: Beat, snapshot: FleetSnapshot) -> tuple[str, ...]:
    pid, how = _pid(one), ""
    if one.worker is not None:
        how = "inside the worker (-B)"
    elif one.service is None:
        how = "not configured; another deployment's?" if one.doubtful else "not configured"
    elif one.waits_for_lock:
        how = "RedBeat: sends, or stands by"
    return (
        one.name if one.service is None or one.worker else one.service.ref.name,
        one.host or UNKNOWN,
        _state(one) or UNKNOWN,
        age(_age(one, snapshot)),
        UNKNOWN if pid is None else str(pid),
        one.origin or UNKNOWN,
        _release(one) or UNKNOWN,
        how,
    )


def _state(one: Beat) -> str | None:
    if one.service is not None and one.service.ref.beat:
        return None if one.service.status is None else one.service.state.value
    return None if one.running is None else "running"


def _age(one: Beat, snapshot: FleetSnapshot) -> float | None:
    if one.service is not None and one.service.ref.beat:
        reading = one.service.status
        return None if reading is None else round(reading.age(snapshot.at), 3)
    host = next((each for each in snapshot.hosts if each.name == one.host), None)
    if host is None or host.processes is None:
        return None
    return round(host.processes.age(snapshot.at), 3)


def _pid(one: Beat) -> int | None:
    if one.pid is not None or one.service is None or one.service.status is None:
        return one.pid
    return one.service.status.value.pid


def _release(one: Beat) -> str | None:
    if one.service is None or one.service.release is None:
        return None
    return one.service.release.value
