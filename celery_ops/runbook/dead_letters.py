"""Looks, when a plan is made, where the messages of a dead-letter queue came from.

Each place that they go back to is a move of its own. What cannot be returned stays, and is counted
with the reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.config.units import counted
from celery_ops.fleet.peeking import MOST_LOOKED_AT, look
from celery_ops.model import Address, parked
from celery_ops.runbook.looks import Found, estimate, known, marking, of_a_look
from celery_ops.runbook.origins import Origins, Returned, Unfit, Untold
from celery_ops.runbook.plan import PlannedMove
from celery_ops.runbook.probes import listed
from celery_ops.runbook.schema import QueueVerb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_ops.fleet.peeking import Look
    from celery_ops.model import FleetSnapshot, StoredMessage
    from celery_ops.ports import MessageStore
    from celery_ops.runbook.moves import Wanted


_REASONS = 8
"""So many are told one by one."""


@dataclass(slots=True)
class _Group:
    """Those that go to one queue: how many, and from where, as they say."""

    count: int = 0
    origins: dict[Address, None] = field(default_factory=dict)
    untold: bool = False


@dataclass(slots=True)
class _Tally:
    """What is found, message by message."""

    groups: dict[str, _Group] = field(default_factory=dict)
    stay: Counter[str] = field(default_factory=Counter)
    sent_to: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    unexpiring: int = 0
    changed: int = 0
    from_text: int = 0
    ids: Counter[str] = field(default_factory=Counter)


async def scouted(
    store: MessageStore,
    wanted: Wanted,
    *,
    params: Mapping[str, object],
    now: datetime,
    run: str,
    snapshot: FleetSnapshot,
) -> Found:
    """Raise UsageError, BrokerUnreachable, or PreconditionFailed where they cannot be looked at."""
    if wanted.verb is QueueVerb.UNWRAP:
        wanted.fields.check()
    if wanted.to and (wanted.to == wanted.queue or parked(wanted.to) is not None):
        return Found((), [f"{wanted.to} is no queue to return messages to"], [])
    judge = wanted.judge(params, now)
    seen = await look(
        store,
        wanted.queue,
        skip=0,
        limit=MOST_LOOKED_AT,
        wants=lambda message: True if judge is None else known(judge(message)),
    )
    names = {one.name for one in snapshot.queues} | {
        name for worker in snapshot.workers for name in worker.queues or ()
    }
    tally = await _tallied(store, wanted, seen, now=now, names=names)
    moves = tuple(
        PlannedMove(
            step=wanted.step,
            queue=wanted.queue,
            messages=group.count if wanted.limit else estimate(seen, group.count),
            surely=seen.left == 0 or wanted.limit is not None,
            to=to,
            ticket=f"{run} {wanted.step} {number}",
            origins=tuple(group.origins),
            untold=group.untold,
        )
        for number, (to, group) in enumerate(tally.groups.items())
    )
    return Found(moves, [], _hazards(tally, seen, wanted, marks=store.marks))


async def _tallied(
    store: MessageStore, wanted: Wanted, seen: Look, *, now: datetime, names: set[str]
) -> _Tally:
    tally = _Tally()
    origins = Origins(store, wanted, sender="")
    led: dict[Address, str | Untold] = {}
    left = wanted.limit
    for placed in seen.wanted:
        found = origins.of(placed.message)
        if isinstance(found, Unfit):
            tally.stay[found.why] += 1
            continue
        address = found.address
        if isinstance(address, Address) and address not in led:
            led[address] = await _leads_to(store, address, names, wanted)
        to = led[address] if isinstance(address, Address) else address
        if isinstance(to, Untold) and not wanted.to:
            tally.stay[to.why] += 1
            continue
        if left == 0:
            break
        if isinstance(to, Untold):
            tally.sent_to[to.why] += 1
        left = None if left is None else left - 1
        group = tally.groups.setdefault(to if isinstance(to, str) else wanted.to, _Group())
        group.count += 1
        if isinstance(address, Address):
            group.origins[address] = None
        else:
            group.untold = True
        _note(tally, placed.message, found, now)
    return tally


def _note(tally: _Tally, message: StoredMessage, found: Returned, now: datetime) -> None:
    expires = found.message.expires
    tally.expired += expires is not None and expires <= now
    tally.unexpiring += message.expiry_removed
    tally.changed += found.message.raw != message.raw
    tally.from_text += found.from_text
    if found.message.id is not None:
        tally.ids[found.message.id] += 1


async def _leads_to(
    store: MessageStore, address: Address, names: set[str], wanted: Wanted
) -> str | Untold:
    queues = await store.leads_to(address, names)
    match queues:
        case (one,) if one != wanted.queue:
            return one
        case (_,):
            return Untold(f"they name {shown(str(address))}, which is {wanted.queue} itself")
        case ():
            return Untold(f"there is no queue {shown(str(address))}, where they came from")
    return Untold(f"{shown(str(address))} is of several queues ({listed(queues)})")


def _reasons(counts: Counter[str], does: str) -> list[str]:
    """The most frequent ones each for itself: what a message names is up to its sender."""
    reasons = counts.most_common()
    says = [f"{counted(count, 'message')} {does}: {why}" for why, count in reasons[:_REASONS]]
    if len(reasons) > _REASONS:
        others = sum(count for _, count in reasons[_REASONS:])
        says.append(f"{counted(others, 'message')} {does}, for other reasons of these kinds")
    return says


def _hazards(tally: _Tally, seen: Look, wanted: Wanted, *, marks: bool) -> list[str]:
    queue, says = wanted.queue, of_a_look(seen, wanted)
    if seen.left:
        says.append(
            f"what came from elsewhere than those of {queue} that were looked at stays there: once"
            " these have gone, plan it again"
        )
    says += _reasons(tally.stay, f"of {queue} will stay there")
    says += _reasons(tally.sent_to, f"of {queue} will go to {wanted.to}")
    is_unwrap = wanted.verb is QueueVerb.UNWRAP
    if is_unwrap and not (wanted.fields.args and wanted.fields.kwargs):
        paths = {"args": wanted.fields.args, "kwargs": wanted.fields.kwargs}
        missing = " and ".join(name for name, path in paths.items() if not path)
        says.append(f"it is not said where wrappers have {missing}: the originals get none")
    again = sum(tally.ids.values()) - len(tally.ids)
    if again:
        says.append(
            f"{counted(again, 'message')} of {queue} would go with an id that another one of them"
            " has: such a task runs as often as it is there"
        )
    if tally.from_text:
        says.append(f"the arguments of {tally.from_text:,} are texts of JSON, and read as such")
    if tally.changed and not is_unwrap:
        says.append(
            f"the broker's notes of their deaths (x-death) are taken from"
            f" {counted(tally.changed, 'message')}: they begin anew, and with the notes RabbitMQ"
            " could destroy one that dies again, as in a cycle"
        )
    if tally.expired:
        says.append(
            f"{counted(tally.expired, 'message')} of {queue} would go and has expired by now:"
            " workers throw that away as revoked"
            if tally.expired == 1
            else f"{tally.expired:,} messages of {queue} would go and have expired by now: workers"
            " throw those away as revoked"
        )
    if tally.unexpiring:
        says.append(
            f"{counted(tally.unexpiring, 'message')} had an expiration that the broker removed at"
            " its end: it does not come back"
        )
    if marks and seen.looked_at:
        says.append(marking(wanted))
    return says
