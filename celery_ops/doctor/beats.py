"""The rules about schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.doctor.rules import Found, rule
from celery_ops.doctor.words import cut
from celery_ops.fleet import beats
from celery_ops.model import Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_ops.model import Beat, FleetSnapshot

TWO_BEATS = "two-beats"
BEAT_RULES = frozenset({TWO_BEATS, "beat-unconfigured", "redbeat-lock"})
"""Those that speak of schedulers."""
_LONG_LOCK = 300.0
"""Seconds without any scheduler that are worth a word."""
_CELERY = "https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html"
_REDBEAT = "https://redbeat.readthedocs.io/en/latest/config.html#redbeat-lock-timeout"


@rule(TWO_BEATS, Level.ERROR, source=_CELERY)
def _two_beats(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Schedulers that wait for one lock are one: only its holder sends."""
    groups = beats.senders(snapshot)
    if len(groups) > 1:
        yield Found(
            "beat",
            f"{len(groups)} schedulers run, and nothing keeps one of them from sending: "
            f"{'; '.join(map(_told, groups))}. Each periodic task is sent by each of them",
            "Stop all but one, and disable them so that they stay stopped (celery-ops beat shows "
            "them; celery-ops beat stop stops those that are configured).",
        )


@rule("beat-unconfigured", Level.WARNING, source=_CELERY)
def _beat_unconfigured(snapshot: FleetSnapshot) -> Iterator[Found]:
    for beat in beats.strays(snapshot):
        if beat.worker is not None:
            yield Found(
                cut(beat.worker),
                f"schedules too (-B{_pid(beat)}): its scheduler stops and starts with it, and a "
                "second worker that is started so sends everything once more",
                "Run beat as a service of its own, and take -B off the worker's command line.",
                worker=beat.worker,
                level=Level.INFO if len(beats.senders(snapshot)) == 1 else None,
            )
        else:
            yield Found(
                cut(beat.name),
                f"schedules{_pid(beat, ' (', ')')}, and no service of a scheduler is configured "
                "for it: it cannot be stopped from here",
                "Add its service with beat: true (celery-ops config init finds it), or stop it.",
            )


@rule("redbeat-lock", Level.WARNING, source=_REDBEAT)
def _redbeat_lock(snapshot: FleetSnapshot) -> Iterator[Found]:
    held = snapshot.beat_lock
    if held is not None and held >= _LONG_LOCK:
        yield Found(
            "beat",
            f"RedBeat's lock is held for {as_duration(round(held))} more: if its holder is killed, "
            "nothing is scheduled for so long, whoever stands by",
            "Set redbeat_lock_timeout to 60 or 120 seconds, and beat_max_loop_interval below that.",
        )


def _told(group: Sequence[Beat]) -> str:
    return " or ".join(f"{cut(one.name)}{_pid(one, ' (', ')')}" for one in group)


def _pid(beat: Beat, before: str = ", ", after: str = "") -> str:
    return "" if beat.pid is None else f"{before}pid {beat.pid}{after}"
