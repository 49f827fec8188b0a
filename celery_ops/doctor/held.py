"""Rules about messages that workers hold, or held before they died, and about parked ones."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.doctor.rules import Found, rule
from celery_ops.model import Level, parked
from celery_ops.model.holding import hold_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, HeldMessage, Unproven

_REDIS = "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html"
_LONGEST_NAME = 80
_A_DAY = 86400.0


@rule("orphaned-messages", Level.ERROR, source=_REDIS + "#visibility-timeout")
def _orphaned_messages(snapshot: FleetSnapshot) -> Iterator[Found]:
    by_queue: dict[str, list[HeldMessage]] = {}
    for message in snapshot.orphans or ():
        by_queue.setdefault(message.queue or "", []).append(message)
    for queue, messages in sorted(by_queue.items()):
        since = min(message.since for message in messages)
        what = "1 message lies" if len(messages) == 1 else f"{len(messages)} messages lie"
        yield Found(
            _cut(queue),
            f"{what} where a dead worker left {'it' if len(messages) == 1 else 'them'}, since "
            f"{_moment(since, snapshot.at)}: nobody holds and nobody will run "
            f"{'it' if len(messages) == 1 else 'them'} before {_by_itself(snapshot)}",
            _restore(queue),
        )


@rule("held-by-nobody-visible", Level.WARNING, source=_REDIS + "#visibility-timeout")
def _held_by_nobody_visible(snapshot: FleetSnapshot) -> Iterator[Found]:
    """What the next look will settle is no finding yet."""
    for one in snapshot.unproven:
        if one.settles:
            continue
        since = min(message.since for message in one.messages)
        what = counted(len(one.messages), "message")
        verb = "is" if len(one.messages) == 1 else "are"
        yield Found(
            _cut(one.queue) if one.queue is not None else "held messages",
            f"{what} {verb} held by nobody visible, since {_moment(since, snapshot.at)}: {one.why}"
            + ("" if one.expected else "; so it is not known whether they are lost"),
            _way_out(one),
            level=Level.INFO if one.expected else None,
        )


def _way_out(one: Unproven) -> str:
    if one.expected:
        return "Nothing to do as a rule: they run in their turn, and a warm stop gives them back."
    if one.vouch_for:
        names = shlex.quote(",".join(one.vouch_for))
        return (
            "Configure the services of all workers, so that it can be proved; or, if you know that "
            f"they and no others run: celery-ops runbook restore-orphans -p vouched={names}"
        )
    return "Mend that first (or wait until it answers), then look again: what is lost shows then."


def _restore(queue: str) -> str:
    command = "celery-ops runbook restore-orphans"
    return command if len(queue) > _LONGEST_NAME else f"{command} -p queue={shlex.quote(queue)}"


def _by_itself(snapshot: FleetSnapshot) -> str:
    """When Redis would do it. The shortest timeout of all who consume there counts (FACTS 3)."""
    told = [one.stats.value.visibility_timeout for one in snapshot.workers if one.stats]
    known = [seconds for seconds in told if seconds is not None]
    if not known:
        return "Redis' visibility timeout (1h unless the workers set another)"
    return f"Redis' visibility timeout of {as_duration(min(known))}"


def _moment(at: datetime, now: datetime) -> str:
    day = "" if abs((now - at).total_seconds()) < _A_DAY else f"{at:%Y-%m-%d} "
    return f"{day}{at:%H:%M:%S} UTC"


@rule("parked-messages", Level.INFO, source="README.md")
def _parked_messages(snapshot: FleetSnapshot) -> Iterator[Found]:
    """A run took them out of the way; nothing consumes them until somebody gives them back."""
    hold = hold_of(snapshot.taken)
    for queue in snapshot.queues:
        place = parked(queue.name)
        if place is not None and hold is not None and place.run == hold.run:
            continue  # `task-held` speaks of them
        if place is not None and queue.ready:
            yield Found(
                _cut(place.queue),
                f"{counted(queue.ready, 'message')} parked by the run {place.run}",
                f"celery-ops queue unpark {shlex.quote(queue.name)} gives them back",
            )


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
