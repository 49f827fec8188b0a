"""RedBeat's schedule, where it is kept in the broker's Redis under RedBeat's own names.

A sorted set has the key of each entry with the time at which it is due next, and a hash per entry
what it is, in JSON. Under another prefix or in another database it is not seen.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery_ops.config.units import as_duration
from celery_ops.model import PeriodicTask

if TYPE_CHECKING:
    from celery_ops.broker.wire import Wire

MOST = 1_000
"""Entries that are read: those that are due next."""
_SCHEDULE = "redbeat::schedule"
_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")


async def entries(wire: Wire) -> tuple[PeriodicTask, ...] | None:
    """Those that are switched on, the next one first; None: there are none that can be read."""
    command = ("ZRANGEBYSCORE", _SCHEDULE, 0, "+inf", "WITHSCORES", "LIMIT", 0, MOST)
    (found,) = await wire.read_many([command], at_once=False)
    if not isinstance(found, list) or not found:
        return None
    # redis-py pairs members and scores up for some versions of its replies.
    is_paired = isinstance(found[0], tuple | list)
    pairs = found if is_paired else list(zip(found[::2], found[1::2], strict=True))
    told = await wire.read_many(
        [("HGET", key, "definition") for key, _ in pairs], at_once=False
    )  # fmt: skip
    read = (_entry(text, float(score)) for (_, score), text in zip(pairs, told, strict=True))
    return tuple(one for one in read if one is not None)


def _entry(text: object, score: float) -> PeriodicTask | None:
    """Anybody may have written anything there."""
    try:
        one: Any = json.loads(text) if isinstance(text, bytes) else None
        due_at = datetime.fromtimestamp(score, UTC)
    except (ValueError, OverflowError, OSError, RecursionError):
        return None
    if not isinstance(one, dict) or one.get("enabled") is False:
        return None
    name, task = str(one.get("name") or ""), str(one.get("task") or "")
    kind = one["schedule"] if isinstance(one.get("schedule"), dict) else {}
    every = kind.get("every")
    if kind.get("__type__") == "interval" and isinstance(every, int | float) and every > 0:
        return PeriodicTask(name, task, f"every {as_duration(every)}", float(every), due_at=due_at)
    fields = [kind.get(field) for field in _FIELDS]
    if kind.get("__type__") == "crontab" and all(isinstance(one, int | str) for one in fields):
        minute, hour, day, month, weekday = map(str, fields)
        crontab = (minute, hour, day, month, weekday)
        return PeriodicTask(
            name, task, f"crontab {' '.join(crontab)}", crontab=crontab, due_at=due_at
        )
    return PeriodicTask(name, task, "by a rule of its own", due_at=due_at)
