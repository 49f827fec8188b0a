"""Whether a queue's priorities are served in the order that its broker promises: which probes can
show it, and what their receptions prove. Pure.

The promise is about messages that wait at the same moment, and about their delivery. A worker
announces what it receives in the order in which it gets it; what several workers have got is not
compared, since nothing tells whose came first. So two probes are compared where one worker has
received both, and only if it is certain that both were waiting when it got the first of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import TYPE_CHECKING

from celery_ops.config.units import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.model import Worker
    from celery_ops.ports import Priorities

MOST_SENT = 150
"""Probes of one queue in one round."""
ROUNDS = 3
_OF_EACH = 4
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Probed:
    """One probe; `place` is when it was sent, among those that were sent with it."""

    level: int
    place: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one round showed, in words; neither: nothing."""

    proved: str = ""
    broken: str = ""


def unsuitable(priorities: Priorities, consumers: Sequence[Worker]) -> str:
    """Why the order cannot be shown by probes; empty: it can perhaps."""
    if not priorities.levels:
        return f"no priorities: {priorities.why}"
    for worker in consumers:
        if worker.stats is None:
            return f"{worker.name} has not told how it consumes"
        own = {**priorities.defaults, **worker.stats.value.priority_options}
        for name, value in priorities.options.items():
            if own.get(name) != value:
                return (
                    f"{worker.name} consumes with {name} {_shown(own.get(name))}, the context has"
                    f" {_shown(value)} (broker_options)"
                )
    if priorities.at_once:
        return ""
    for worker in consumers:
        prefetch = None if worker.stats is None else worker.stats.value.prefetch
        if not prefetch:
            return f"{worker.name} takes whatever comes at once, as far as it tells"
    if len(sending(priorities, consumers)) > MOST_SENT:
        room = counted(_room(consumers), "message")
        return f"its workers take {room} at once, so that no probe of a few has to wait"
    return ""


def sending(priorities: Priorities, consumers: Sequence[Worker]) -> tuple[int, ...]:
    """The levels of the probes, in the order in which they are sent: those that are served last
    come first, so that served first they must have overtaken others.
    """
    upwards = priorities.levels[::-1]
    if priorities.at_once:
        each = min(max(2, len(consumers)), MOST_SENT // len(upwards))
        return tuple(level for level in upwards for _ in range(each))
    lowest = upwards[0]
    several = tuple(level for level in upwards[1:] for _ in range(_OF_EACH))
    return (lowest,) * (_room(consumers) + _OF_EACH) + several + (lowest,) * _OF_EACH


def judge(
    priorities: Priorities, sent: Mapping[str, Probed], received: Mapping[str, Sequence[str]]
) -> Judgement:
    """`received` has the ids that each worker announced, in its order."""
    rank = {level: at for at, level in enumerate(priorities.levels)}
    often = Counter(id_ for ids in received.values() for id_ in ids)
    proved: list[tuple[int, str, str]] = []
    for worker, ids in sorted(received.items()):
        # One that came twice was given back in between: its place tells nothing.
        got = [sent[id_] for id_ in ids if id_ in sent and often[id_] == 1]
        overtaken = 0
        for at, (former, latter) in enumerate_pairs(got):
            if rank[former.level] > rank[latter.level] and _waited(priorities, at, former, latter):
                return Judgement(
                    broken=f"{worker} received priority {former.level} before {latter.level}, which"
                    f" waited as well ({_in_short(got)})"
                )
            is_better = rank[former.level] < rank[latter.level]
            overtaken += is_better and former.place > latter.place
        if overtaken:
            proved.append((overtaken, worker, _in_short(got)))
    if not proved:
        return Judgement()
    _, worker, levels = max(proved)
    as_sent = _in_short(sorted(sent.values(), key=lambda one: one.place))
    return Judgement(proved=f"{worker} received them as {levels}, sent as {as_sent}")


def enumerate_pairs(got: Sequence[Probed]) -> list[tuple[int, tuple[Probed, Probed]]]:
    """Every two of these, with the place of the former."""
    return [(one, (got[one], got[other])) for one, other in combinations(range(len(got)), 2)]


def _waited(priorities: Priorities, at: int, former: Probed, latter: Probed) -> bool:
    """Whether the latter surely waited when the former, the worker's `at`-th, was delivered.

    All that is sent at once does; but a worker that waits for a message gets the first of them that
    was written. Else what was sent earlier does.
    """
    return at > 0 if priorities.at_once else latter.place < former.place


def _room(consumers: Sequence[Worker]) -> int:
    """So many messages they hold at once."""
    stats = [worker.stats.value for worker in consumers if worker.stats is not None]
    return sum(one.prefetch or 0 for one in stats)


def _in_short(probes: Sequence[Probed]) -> str:
    """The levels, each as often as it comes in a row: 9 x3, 0."""
    runs = [(level, len(list(same))) for level, same in groupby(one.level for one in probes)]
    shown = [f"{level} x{times}" if times > 1 else str(level) for level, times in runs[:_SHOWN]]
    return ", ".join(shown) + (" …" if len(runs) > _SHOWN else "")


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)
