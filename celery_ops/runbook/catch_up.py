"""What beat sends at once when it starts again.

An entry that came due while beat was stopped is sent once, however often it did (FACTS, measured).
The file scheduler and django-celery-beat know when each was sent last, RedBeat keeps when each is
due; a beat that lost its schedule file catches nothing up.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import BrokerUnreachable
from celery_ops.fleet import schedules
from celery_ops.fleet.schedules import Due
from celery_ops.model import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, PeriodicTask, Service
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.stage import Stage

_SHOWN = 8
_KEPT = "if it kept its schedule"


def foreseen(services: Iterable[Service], schedule: Schedule, snapshot: FleetSnapshot) -> list[str]:
    """For a plan: of those that are stopped what they would send now, and of the others in general,
    for by whom they are stopped and for how long is not known yet.
    """
    found = []
    for service in services:
        name = str(service.ref)
        since = stopped_at(name, snapshot)
        found.append(
            f"when {name} starts, {_in_general(schedule)}"
            if since is None
            else f"{name} {told(schedule, since, snapshot.at)}"
        )
    return found


async def tell(stage: Stage, step: str, targets: Sequence[Target], snapshot: FleetSnapshot) -> str:
    """Write down, before they start, what they send at once; the same for the step's end."""
    begun = [one for one in targets if stage.recall.peek(step, one.name) is None]
    since = {one.name: stopped_at(one.name, snapshot) for one in begun}
    known = {name: at for name, at in since.items() if at is not None}
    if not known:
        return ""
    schedule = Schedule(unknown=("the broker was away",))
    with suppress(BrokerUnreachable):
        schedule = await schedules.read(stage.surveyor.broker, snapshot)
    says = {name: told(schedule, at, snapshot.at) for name, at in known.items()}
    for name, text in says.items():
        stage.say(name, text, step)
    return "".join(f"; {name} {text}" for name, text in says.items())


def stopped_at(name: str, snapshot: FleetSnapshot) -> datetime | None:
    """Since when it is recorded as stopped; None: it is not."""
    records = [one.at for one in snapshot.taken if one.key == f"service:{name}"]
    return min(records, default=None)


def told(schedule: Schedule, since: datetime, now: datetime) -> str:
    """For how long it was stopped, and what it sends at once if it starts now."""
    away = as_duration(max(0.0, (now - since).total_seconds()))
    entries: dict[Due, list[PeriodicTask]] = {due: [] for due in Due}
    for one in schedule.entries:
        entries[schedules.due(one, schedule, since, now)].append(one)
    parts = [f"was stopped for {away}: {_sure(schedule, entries[Due.YES])}"]
    if entries[Due.PERHAPS]:
        parts.append(f"perhaps {_named(entries[Due.PERHAPS])}")
    if entries[Due.NO]:
        parts.append(f"{counted(len(entries[Due.NO]), 'other')} did not come due")
    return "; ".join(parts) + _not_known(schedule)


def _sure(schedule: Schedule, due: Sequence[PeriodicTask]) -> str:
    if not schedule.entries:
        return f"each entry that came due meanwhile is sent once, at once, {_KEPT}"
    if not due:
        return "nothing is surely due at once"
    kept = "" if all(one.due_at is not None for one in due) else f", {_KEPT}"
    if len(due) == 1:
        return f"{_named(due)} is sent at once{kept}"
    return f"these {len(due)} are sent at once, once each{kept}: {_named(due)}"


def _in_general(schedule: Schedule) -> str:
    says = f"each entry that came due meanwhile is sent once, at once, {_KEPT}"
    which = f": of {_named(schedule.entries)}" if schedule.entries else ""
    return says + which + _not_known(schedule)


def _not_known(schedule: Schedule) -> str:
    unknown = "; ".join(schedule.unknown)
    if not schedule.entries and not unknown:
        unknown = "no worker tells a schedule"
    return f" (not known: {unknown})" if unknown else ""


def _named(entries: Sequence[PeriodicTask]) -> str:
    """As people write them; the most frequent last, for they are missed least."""
    ordered = sorted(entries, key=lambda one: -(schedules.interval(one) or 0.0))
    named = [f"{one.name} ({one.when})" for one in ordered[:_SHOWN]]
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(named) + more
