"""Which messages the workers of a release would discard, since it does not register their tasks:
found out when a plan is made, and said in it. Changes nothing.

Celery acknowledges such a message and forgets it, with a line in its log (FACTS 12).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import (
    CommandFailed,
    HostUnreachable,
    PreconditionFailed,
    UsageError,
)
from celery_ops.fleet.peeking import look as peek
from celery_ops.model import HELD, HOLD, parked
from celery_ops.model.holding import HOLDS, behind, held_of, own_names, through
from celery_ops.runbook import held_queues
from celery_ops.runbook.forwarding import MOST_A_SECOND
from celery_ops.runbook.hold_grammar import IGNORE, REFUSE
from celery_ops.runbook.leaving_out import is_left_out
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedSieve, PlannedStep
from celery_ops.runbook.probes import listed
from celery_ops.runbook.scouting import Scouted
from celery_ops.runbook.task_steps import ReleaseStep, SieveStep

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from celery_ops.model import FleetSnapshot, StoredMessage
    from celery_ops.ports import Broker, Hosts, ReleaseLayout
    from celery_ops.runbook.schema import Runbook, Value

ASK_TIMEOUT = 60.0
"""Seconds: an application is imported for it."""
MOST_NAMED = 5
MOST_OF_A_QUEUE = 2_000
"""Messages of a queue that are named in a plan."""
UNSEEN = "?"
"""What stands for the tasks of messages that were not looked at."""
_WINDOW = (
    "a worker that starts consumes its own queues until it is told not to, for some hundredths of a"
    " second as a rule (of gevent and eventlet up to 2s, of solo until its task has ended); it is"
    " behind this run in line, for 2s of what comes, and some 100 messages of a queue at most:"
    " what {release} does not register and comes beyond that may be discarded; it is named at the"
    " end where task events tell it"
)
_WAY = (
    f"all messages of these queues pass through this run meanwhile, about {MOST_A_SECOND:,} a"
    " second; if its process dies, workers that were switched get none of them until celery-ops"
    " runs resume, and none is lost, but one that starts just then consumes its own queues"
)
_NO_HOLD = (
    "on this kind of broker what {release} does not register is put aside once before workers are"
    " switched and once after: what comes meanwhile, its workers discard"
)


@dataclass(frozen=True, slots=True)
class Registered:
    """What hosts told of the tasks of a release; None: none could. `untold` is why, by host."""

    tasks: frozenset[str] | None
    untold: Mapping[str, str] = field(default_factory=dict)


async def look(
    runbook: Runbook,
    params: Mapping[str, Value],
    snapshot: FleetSnapshot,
    broker: Broker,
    hosts: Hosts,
    run: str,
) -> dict[str, Scouted]:
    """What its steps would do that park what a release does not know, by their ids, and those that
    end it.
    """
    found: dict[str, Scouted] = {}
    sieve: PlannedSieve | None = None
    for step in runbook.steps:
        if is_left_out(step, params):
            continue
        if isinstance(step, SieveStep):
            release = resolve(step.release, {"params": params})
            registered = await ask(release, snapshot, hosts)
            waiting = await _waiting(release, registered, snapshot, broker)
            untold = resolve(step.untold, {"params": params})
            found[step.id] = plan(
                step.id, release, registered, waiting, snapshot,
                untold=untold, run=run, holds=broker.beside(HOLDS) is not None,
            )  # fmt: skip
            (sieve,) = found[step.id].sieves
        elif isinstance(step, ReleaseStep) and sieve is not None:
            found[step.id] = _end(step.id, sieve)
    return found


async def ask(release: str, snapshot: FleetSnapshot, hosts: Hosts) -> Registered:
    """Ask the hosts which tasks a release registers: those that all of them name."""
    pids: dict[str, int] = {}
    for worker in snapshot.workers:
        if worker.service is not None and worker.service.ref.host and worker.pid is not None:
            pids.setdefault(worker.service.ref.host, worker.pid)
    names = [host.name for host in snapshot.hosts if host.releases is not None]
    layouts = {name: layout for name in names if (layout := hosts.release_layout(name))}
    told: dict[str, frozenset[str]] = {}
    untold: dict[str, str] = {}

    async def of(host: str, layout: ReleaseLayout) -> None:
        try:
            command = layout.tasks(release, pid=pids.get(host))
            if command is None:
                untold[host] = "no worker runs there whose interpreter could be asked"
                return
            completed = await hosts.shell(host).run(command, timeout=ASK_TIMEOUT)
            told[host] = layout.read_tasks(release, completed)
        except (CommandFailed, HostUnreachable, UsageError) as error:
            untold[host] = f"{error.says} {error.fix}" if error.fix else error.says

    await asyncio.gather(*(of(host, layout) for host, layout in layouts.items()))
    if not told:
        return Registered(None, untold or {"": "no host tells its releases"})
    return Registered(frozenset.intersection(*told.values()), untold)


def plan(
    step: str,
    release: str,
    registered: Registered,
    waiting: Waiting,
    snapshot: FleetSnapshot,
    *,
    untold: str,
    run: str,
    holds: bool,
) -> Scouted:
    """Of one step. Pure; `holds`: workers can be made to consume in another queue's place."""
    if untold not in {IGNORE, REFUSE}:
        says = f"what is done if it cannot be told is {IGNORE} or {REFUSE}, not {untold!r}"
        return _idle(step, release, says, refusals=(says,))
    if registered.tasks is None:
        why = "; ".join(
            f"{host}: {why}" if host else why for host, why in registered.untold.items()
        )
        says = f"which tasks {release} registers cannot be told ({why})"
        if untold == REFUSE:
            return _idle(step, release, says, refusals=(f"step {step}: {says}",))
        danger = f"{says}: nothing is parked, and its workers DISCARD messages of tasks it lacks"
        return _idle(step, release, says, hazards=(danger,))
    owed = next((one for one in snapshot.taken if one.kind in {HOLD, HELD}), None)
    if owed is not None and owed.run != run:
        says = f"{held_queues.in_words(owed)}, and there can be one hold at a time"
        danger = f"{says}: what {release} does not register is not parked; first: {owed.mend}"
        return _idle(step, release, says, hazards=(danger,))
    lacking = _lacking(release, registered.tasks, snapshot)
    if lacking is not None and not lacking and not waiting.unknown:
        says = f"{release} registers all tasks that workers have and that wait"
        return _idle(step, release, says)
    sieve = PlannedSieve(step, release, tuple(sorted(registered.tasks)), concerned(snapshot))
    hazards = [one.format(release=release) for one in ((_WINDOW, _WAY) if holds else (_NO_HOLD,))]
    hazards += [
        f"{host} cannot tell which tasks {release} registers: {why}"
        for host, why in registered.untold.items()
    ]
    if waiting.unknown:
        hazards.append(f"{waiting.in_words} wait, which {release} does not register")
    if lacking:
        hazards.append(f"workers have tasks that {release} lacks: {listed(sorted(lacking))}")
    if not sieve.queues:
        hazards.append("nobody tells which queues are consumed: nothing is parked until one does")
    return Scouted(
        PlannedStep(
            step,
            f"park what {release} does not register, until the end of the switch",
            actions=tuple(_action(sieve, queue, run, holds=holds) for queue in sieve.queues),
        ),
        hazards=tuple(hazards),
        sieves=(sieve,),
    )


def concerned(snapshot: FleetSnapshot) -> tuple[str, ...]:
    """All queues that somebody of ours consumes or is owed. Where nobody tells, and all workers of
    the broker are ours, all that are seen there.
    """
    names = own_names(
        name for worker in snapshot.workers if worker.mine for name in worker.queues or ()
    )
    names |= own_names(queue.name for record in snapshot.taken for queue in record.queues)
    if not names and all(worker.mine for worker in snapshot.workers):
        names = frozenset(queue.name for queue in snapshot.queues)
    return tuple(sorted(one for one in names if parked(one) is None and behind(one) is None))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages that a release does not know: how many of each task, and who sent them."""

    unknown: Mapping[str, int] = field(default_factory=dict)
    origins: Collection[str] = ()
    more: bool = False
    """There may be others, which were not looked at."""

    @classmethod
    def of(cls, messages: Iterable[StoredMessage], *, more: bool = False) -> Waiting:
        seen = tuple(messages)
        origins = sorted({one.origin for one in seen if one.origin})
        return cls(Counter(one.task or UNSEEN for one in seen), origins, more)

    @property
    def count(self) -> int:
        return sum(self.unknown.values())

    @property
    def in_words(self) -> str:
        """`3 messages (shop.new: 2, shop.other: 1; sent by gen7@web1)`."""
        if set(self.unknown) == {UNSEEN}:
            return f"{counted(self.count, 'message')} (not looked at)"
        ordered = sorted(self.unknown.items(), key=lambda one: (-one[1], one[0]))
        names = ", ".join(f"{task}: {count:,}" for task, count in ordered[:MOST_NAMED])
        names += f", and {len(ordered) - MOST_NAMED} more tasks" if ordered[MOST_NAMED:] else ""
        by = listed(self.origins) if self.origins else "senders that they do not tell"
        least = "at least " if self.more else ""
        return f"{least}{counted(self.count, 'message')} ({names}; sent by {by})"


async def _waiting(
    release: str, registered: Registered, snapshot: FleetSnapshot, broker: Broker
) -> Waiting:
    """What waits now. Nothing is looked at where a look marks messages."""
    store = broker.store
    if store is None or store.marks or registered.tasks is None:
        return Waiting()
    sieve = PlannedSieve("", release, tuple(registered.tasks))
    found: list[StoredMessage] = []
    more = False
    for queue in concerned(snapshot):
        try:
            seen = await peek(
                store, queue, skip=0, limit=MOST_OF_A_QUEUE,
                wants=lambda message: sieve.is_unknown(message.task),
            )  # fmt: skip
        except PreconditionFailed:
            continue  # something else than a queue, by that name
        found += [one.message for one in seen.wanted]
        more |= seen.left > 0
    return Waiting.of(found, more=more)


async def left(broker: Broker, place: str) -> Waiting:
    """What is parked there. Raise BrokerUnreachable."""
    store = broker.store
    if store is None:
        return Waiting()
    try:
        count = await store.count(place)
        if not count or store.marks:
            return Waiting({UNSEEN: count} if count else {})
        seen = await store.peek(place, skip=0, count=MOST_OF_A_QUEUE)
    except PreconditionFailed:
        return Waiting()
    known = Waiting.of(seen)
    unseen = count - known.count
    return known if unseen <= 0 else Waiting({**known.unknown, UNSEEN: unseen}, known.origins)


def _lacking(
    release: str, registered: frozenset[str], snapshot: FleetSnapshot
) -> frozenset[str] | None:
    """Tasks that workers have and it does not; None: not all workers have told theirs."""
    sieve = PlannedSieve("", release, tuple(registered))
    workers = [worker for worker in snapshot.workers if worker.mine]
    if not workers or any(one.registered is None or not one.answers for one in workers):
        return None
    return frozenset(
        task.name
        for worker in workers
        for task in (worker.registered.value if worker.registered is not None else ())
        if sieve.is_unknown(task.name)
    )


def _action(sieve: PlannedSieve, queue: str, run: str, *, holds: bool) -> PlannedAction:
    does = f"park {sieve.name} in {held_of(queue, run)}"
    if holds:
        does += f"; have workers consume {through(queue)} in its place, and carry the rest there"
    return PlannedAction(sieve.step, queue, does, f"celery-ops queue unpark {queue}")


def _idle(
    step: str, release: str, says: str, *, refusals: tuple[str, ...] = (),
    hazards: tuple[str, ...] = (),
) -> Scouted:  # fmt: skip
    planned = PlannedStep(step, f"nothing is parked: {says}")
    sieve = PlannedSieve(step, release, idle=says)
    return Scouted(planned, refusals=refusals, hazards=hazards, sieves=(sieve,))


def _end(step: str, sieve: PlannedSieve) -> Scouted:
    if sieve.idle:
        return Scouted(PlannedStep(step, "release: nothing is parked"))
    says = (
        f"workers consume their own queues again; {sieve.name} stays parked. While any of it still"
        " comes, this is put off to the end of the run"
    )
    return Scouted(PlannedStep(step, f"release: {says}"))
