"""What a probe step is meant for, what it would do, and what stands in its way. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.model import WorkerState
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.priorities import MOST_SENT, ROUNDS
from celery_ops.runbook.schema import CurrentWorker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery_ops.config.contexts import Probe
    from celery_ops.model import FleetSnapshot, RegisteredTask, Worker
    from celery_ops.runbook.plan import Plan, Where
    from celery_ops.runbook.schema import ProbeStep

CONFIGURED = "configured"
"""The word for the queues of the context's own `probe`."""
CONSUMED = "consumed"
"""The word for every queue that one of our workers consumes when the plan is made."""
UNCONFIGURED = (
    "no probe is configured for this context: name a task that does no harm, and the queues it is"
    " for, in celery-ops.yaml: probe: {task: myproject.ping, queues: [default]}"
)
LEFT_OUT = "no probe is configured: nothing is probed"
_NOTHING_TO_UNDO = "nothing to take back: it expires by itself"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class WayIn:
    """The queue by which a certain worker is reached best, and all who consume it; no queue: it
    consumes none.
    """

    queue: str
    consumers: tuple[Worker, ...]
    is_only: bool
    """It is known that nobody else consumes the queue."""
    ready: int | None = None
    """The messages that wait there; None: they cannot be counted."""


def way_in(name: str, snapshot: FleetSnapshot) -> WayIn:
    """The queue that the worker shares with the fewest, and of these the shortest."""
    worker = snapshot.worker(name)
    queues = worker.queues if worker is not None and worker.answers else None
    ready = {queue.name: queue.ready for queue in snapshot.queues}
    ways = [
        WayIn(
            queue,
            snapshot.consumers_of(queue),
            is_only=only_consumer(queue, snapshot) == name,
            ready=ready.get(queue),
        )
        for queue in queues or ()
    ]
    nothing = WayIn("", (), is_only=False)
    return min(
        ways,
        key=lambda way: (len(way.consumers), way.ready or 0, way.queue),
        default=nothing,
    )


def only_consumer(name: str, snapshot: FleetSnapshot) -> str:
    """The one worker that consumes a queue; empty if there are others, or may be: a silent worker
    has not said what it consumes.
    """
    queue = next((one for one in snapshot.queues if one.name == name), None)
    consumers = snapshot.consumers_of(name)
    is_known = queue is not None and queue.consumers == len(consumers) == 1
    return consumers[0].name if is_known else ""


def consumed(snapshot: FleetSnapshot) -> tuple[str, ...]:
    """What the workers within the scope consume, as far as they tell."""
    ours = [worker for worker in snapshot.workers if worker.mine and worker.answers]
    return tuple(sorted({queue for worker in ours for queue in worker.queues or ()}))


def planned_queues(step: ProbeStep, plan: Plan) -> tuple[str, ...]:
    """What a step of its own was planned for."""
    actions = [one.actions for one in plan.steps if one.id == step.id]
    return tuple(one.target for several in actions for one in several if one.target is not None)


def queues_of(
    step: ProbeStep, probe: Probe, scope: Mapping[str, object], consumed: Sequence[str]
) -> tuple[str, ...]:
    """The queues that are probed, each once; for `probe: worker` none is named.

    `consumed` are those that this word stands for.
    """
    if isinstance(step.queues, CurrentWorker):
        return ()
    written = ",".join(resolve(slot, scope) for slot in step.queues)
    named = [name for name in map(str.strip, written.split(",")) if name]
    words = {CONFIGURED: probe.queues, CONSUMED: consumed}
    return tuple(dict.fromkeys(queue for name in named for queue in words.get(name, (name,))))


def timeout_of(step: ProbeStep, probe: Probe, scope: Mapping[str, object]) -> float:
    """Seconds that each probe has, waiting included."""
    return probe.timeout if step.timeout is None else resolve(step.timeout, scope)


def in_words(
    step: ProbeStep, probe: Probe | None, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> str:
    """What the step is about, in one line."""
    if probe is None:
        return "probe"
    if isinstance(step.queues, CurrentWorker):
        return f"probe worker (at most {as_duration(timeout_of(step, probe, scope))} each)"
    queues = ", ".join(queues_of(step, probe, scope, consumed(snapshot))) or "no queue"
    return f"probe {queues} (at most {as_duration(timeout_of(step, probe, scope))} each)"


def obstacles(
    step: ProbeStep, probe: Probe | None, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> list[str]:
    """Why a probe would fail as the fleet is now."""
    if probe is None:
        return [] if step.optional else [UNCONFIGURED]
    if isinstance(step.queues, CurrentWorker):
        return []  # who it is, and what it consumes, is seen when it is its turn
    queues = queues_of(step, probe, scope, consumed(snapshot))
    found = [] if queues else [no_queue(step)]
    for queue in queues:
        consumers = snapshot.consumers_of(queue)
        strangers = [worker.name for worker in consumers if knows(worker, probe.task) is False]
        if not consumers:
            found.append(unconsumed(queue, snapshot))
        elif strangers:
            does = "does" if len(strangers) == 1 else "do"
            says = f"{listed(strangers)} {does} not know the task {probe.task}, and would discard"
            found.append(f"{says} a probe of {queue}: let the code have it, or name another task")
    return found


def planned(
    step: ProbeStep, where: Where, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> PlannedStep:
    """The step at its own, outside of a roll: each queue is a target."""
    if step.optional and where.probe is None:
        return PlannedStep(step.id, LEFT_OUT)
    done = actions(step, where, snapshot, scope)
    return PlannedStep(step.id, in_words(step, where.probe, snapshot, scope), actions=done)


def actions(
    step: ProbeStep,
    where: Where,
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
    target: str | None = None,
) -> tuple[PlannedAction, ...]:
    """What is sent where, and what will prove its end; for a `target` of a roll, or by queue."""
    probe = where.probe
    if probe is None:
        return ()
    if isinstance(step.queues, CurrentWorker):
        timeout = as_duration(timeout_of(step, probe, scope))
        return _to_worker(step, target or "", probe.task, timeout, where, snapshot)
    found: list[PlannedAction] = []
    for queue in queues_of(step, probe, scope, consumed(snapshot)):
        consumers = snapshot.consumers_of(queue)
        ready = next((one.ready for one in snapshot.queues if one.name == queue), None)
        behind = "messages that cannot be counted" if ready is None else counted(ready, "message")
        timeout = as_duration(timeout_of(step, probe, scope))
        names = listed(worker.name for worker in consumers) or "nobody"
        says = (
            f"send {probe.task}, without arguments, to {queue}: behind {behind}, consumed by"
            f" {names}; it expires after {timeout}"
        )
        found += _proved(step, target or queue, says, probe.task, consumers, where)
        if resolve(step.priorities, scope):
            found += _in_order(step, queue, probe.task, consumers)
    return tuple(found)


def _in_order(
    step: ProbeStep, queue: str, task: str, consumers: Sequence[Worker]
) -> tuple[PlannedAction, ...]:
    """What shows in which order priorities are served, where the queue has them."""
    names = listed(worker.name for worker in consumers) or "nobody"
    where = f"where {queue} has priorities"
    return (
        PlannedAction(
            step.id,
            queue,
            f"{where}: control enable_events {{}} to {names}",
            "control disable_events {}, where they were off",
        ),
        PlannedAction(
            step.id,
            queue,
            f"{where}: send {task} with several of them in one step, at most {MOST_SENT} in each of"
            f" {ROUNDS} rounds, and compare the order in which each worker receives them",
            _NOTHING_TO_UNDO,
        ),
    )


def _proved(
    step: ProbeStep,
    target: str | None,
    sends: str,
    task: str,
    consumers: Sequence[Worker],
    where: Where,
) -> tuple[PlannedAction, ...]:
    """What is sent, and what will prove its end: its result, or what is switched on for that."""
    if where.results and not ignores_result(task, consumers):
        says = f"{sends}, and its end is proved by its result in {where.results}"
        return (PlannedAction(step.id, target, says, _NOTHING_TO_UNDO),)
    ours = listed(worker.name for worker in consumers if worker.mine)
    names = ours or "those of ours that consume it then"
    events = f"control enable_events {{}} to {names}: its end is proved by task events"
    undo = "control disable_events {}, where they were off"
    return (
        PlannedAction(step.id, target, events, undo),
        PlannedAction(step.id, target, sends, _NOTHING_TO_UNDO),
    )


def _to_worker(
    step: ProbeStep, name: str, task: str, timeout: str, where: Where, snapshot: FleetSnapshot
) -> tuple[PlannedAction, ...]:
    way = way_in(name, snapshot)
    if not way.queue:
        says = f"send {task} to a queue that it consumes then: it consumes none now"
        return (PlannedAction(step.id, name, says, _NOTHING_TO_UNDO),)
    if way.is_only:
        says = f"send {task} to {way.queue}, which it alone consumes; it expires after {timeout}"
        return _proved(step, name, says, task, way.consumers, where)
    others = len(way.consumers) - 1
    shares = f"shares with {counted(others, 'worker')}" if others else "may share with others"
    says = (
        f"send {task} to {way.queue}, which it {shares}, again and again until it is the one that"
        f" runs it, for at most {timeout}"
    )
    itself = [worker for worker in way.consumers if worker.name == name]
    return _proved(step, name, says, task, itself, replace(where, results=""))


def no_queue(step: ProbeStep) -> str:
    """Its parameters are empty."""
    return f"step {step.id} names no queue to probe"


def unconsumed(queue: str, snapshot: FleetSnapshot) -> str:
    """Nobody would take a message from that queue; and who might, but does not answer."""
    silent = [one.name for one in snapshot.workers if one.state is WorkerState.SILENT]
    perhaps = f" ({listed(silent)} {'is' if len(silent) == 1 else 'are'} silent)" if silent else ""
    return f"nobody consumes {queue}{perhaps}: a probe would not be taken from it"


def ignores_result(task: str, consumers: Iterable[Worker]) -> bool:
    """One of these says that no result backend hears how the task ends."""
    found = (_registered(worker, task) for worker in consumers)
    return any(one is not None and one.ignores_result is True for one in found)


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    known = list(names)
    more = len(known) - _SHOWN
    return ", ".join(known[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def knows(worker: Worker, task: str) -> bool | None:
    """Whether a worker registers that task; None: it has not told."""
    return None if worker.registered is None else _registered(worker, task) is not None


def _registered(worker: Worker, task: str) -> RegisteredTask | None:
    known = worker.registered.value if worker.registered is not None else ()
    return next((one for one in known if one.name == task), None)
