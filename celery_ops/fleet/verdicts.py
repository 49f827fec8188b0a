"""The verdict on one worker: what can be proved of its state at one moment.

Pure. It rests on replies, heartbeats, the broker and the supervisors; where they disagree the newer
reading wins, and `says` names what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.fleet.matching import pool_name
from celery_ops.fleet.orphans import Suspects
from celery_ops.fleet.waiting import Waiting
from celery_ops.model import (
    Host,
    Service,
    ServiceRef,
    ServiceState,
    TakenRecord,
    WorkerState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from celery_ops.fleet.known import KnownNode
    from celery_ops.model import Flow, Holder, ServiceStatus
    from celery_ops.ports import QueuesReading

STALLED_AFTER = 10.0
"""Seconds a worker may leave ready messages alone before it is called stalled."""
_NAME_LENGTH = 60
_BUSY_SOLO = "runs a task: a solo pool answers nothing before that has ended"
ALIVE = frozenset({ServiceState.RUNNING, ServiceState.STARTING, ServiceState.STOPPING})


@dataclass(frozen=True, slots=True)
class Known:
    """What a snapshot is made of. `bound` and `queues` are None where the broker could not tell.

    `held` counts, by queue, messages that are held by a consumer and that no worker shows.
    `unanswered` says how many listeners did not answer the last roll call and have no known name,
    `unasked` why nobody can be asked.
    """

    context: str
    broker: str
    at: datetime
    monotonic: float
    nodes: Mapping[str, KnownNode]
    services: Mapping[ServiceRef, Service]
    hosts: tuple[Host, ...] = ()
    bound: frozenset[str] | None = None
    queues: QueuesReading | None = None
    taken: tuple[TakenRecord, ...] = ()
    holder: Holder | None = None
    forwarder: Holder | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0
    unasked: str = ""
    suspects: Suspects | None = field(default_factory=Suspects)
    counted: bool = False
    protected: bool = False
    flows: Mapping[str, Flow] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state, and why."""

    state: WorkerState
    says: str = ""


def judge(
    node: KnownNode,
    service: Service | None,
    record: TakenRecord | None,
    known: Known,
    doubled: Sequence[Service] = (),
) -> Verdict:
    """The state of one worker. `record` is what a run took from this incarnation; `doubled` are the
    services whose processes all bear its name.
    """
    if node.unreadable is not None and node.is_answering:
        return Verdict(
            WorkerState.UNREADABLE,
            f"answers in {node.unreadable[:_NAME_LENGTH]}, which is not loaded: it can run code",
        )
    if doubled:
        return Verdict(WorkerState.CONFLICT, f"{_shared(doubled)}; nothing can be sent to one")
    pids = node.rival_pids(known.at)
    if node.doubled or pids:
        listed = f" (pids {', '.join(map(str, pids))})" if pids else ""
        return Verdict(
            WorkerState.CONFLICT,
            f"two processes{listed} share this name; nothing can be sent to one",
        )
    status = service.status.value if service is not None and service.status is not None else None
    if node.is_answering:
        if status is not None and _is_stopping(node, status):
            return Verdict(WorkerState.STOPPING, "its supervisor is stopping it")
        return _answering(node, record, known)
    return _not_answering(node, service, record, known)


def _shared(doubled: Sequence[Service]) -> str:
    told = [f"pid {one.status.value.pid} ({one.ref})" for one in doubled if one.status is not None]
    number = "two" if len(told) == 2 else str(len(told))
    return f"{number} processes share this name: {', '.join(told)}"


def _is_stopping(node: KnownNode, status: ServiceStatus) -> bool:
    return status.state is ServiceState.STOPPING and status.told_pid in (None, node.pid)


def is_busy_solo(node: KnownNode, service: Service | None, known: Known) -> bool:
    """It answers nothing, which a solo pool cannot while it runs a task, and is known to be there.

    The broker has it bound, and its supervisor said since its last sign of life that the process
    runs: the one that said of itself, or whose command line says, that its pool is a solo one. What
    is frozen or hangs looks the same. False wherever one of these is not known.
    """
    reading = service.status if service is not None else None
    if service is None or reading is None or service.error is not None or node.is_answering:
        return False
    status, stats = reading.value, node.stats
    if status.state is not ServiceState.RUNNING or status.pid is None or node.goodbye_at:
        return False
    if node.seen_at is not None and reading.at < node.seen_at:
        return False
    if node.pid not in (None, status.pid) or node.name not in (known.bound or ()):
        return False
    if stats is not None and stats.value.pid == status.pid:
        return stats.value.pool == "solo"
    return pool_name(status.arguments or ()) == "solo"


# --- a worker that answers -----------------------------------------------------------------------


def _answering(node: KnownNode, record: TakenRecord | None, known: Known) -> Verdict:
    consuming = node.consuming.value if node.consuming is not None else None
    if consuming == ():
        return _drained_or_draining(node, record, known)
    if record is not None and consuming is not None:
        names = {queue.name for queue in consuming}
        gone = [queue.name for queue in record.queues if queue.name not in names]
        if gone:
            return Verdict(
                WorkerState.DRAINING, f"gave up {_listed(gone)}, still consumes {_listed(names)}"
            )
        return Verdict(
            WorkerState.ONLINE, f"run {record.run} took its queues, and it consumes them"
        )
    standstill = node.standstill
    if standstill is not None and known.monotonic - standstill.since >= STALLED_AFTER:
        return Verdict(
            WorkerState.STALLED,
            f"{_listed([standstill.queue])} has messages, yet for "
            f"{known.monotonic - standstill.since:.0f} s it has run nothing",
        )
    if consuming is None:
        return Verdict(WorkerState.ONLINE, "has not said what it consumes")
    return Verdict(WorkerState.ONLINE)


def _drained_or_draining(node: KnownNode, record: TakenRecord | None, known: Known) -> Verdict:
    proof = node.drain
    if proof is None or not proof.proved:
        missing = proof.missing if proof is not None else "proof not begun"
        return Verdict(WorkerState.DRAINING, missing)
    says = [f"quiet for {proof.quiet_for:.1f} s"]
    if node.scheduled is None:
        says.append("ETA tasks unknown")
    elif node.scheduled.value:
        held_back = counted(len(node.scheduled.value), "ETA task")
        says.append(f"holds {held_back}, given back at a stop")
    queues = record.queues if record is not None and record.queues else node.consumed_before
    held = sum(known.held.get(queue.name, 0) for queue in queues)
    if held and _may_be_rate_limited(node):
        says.append(
            f"{counted(held, 'message')} of its queues held by nobody visible: rate-limited tasks?"
        )
    return Verdict(WorkerState.DRAINED, "; ".join(says))


def _may_be_rate_limited(node: KnownNode) -> bool:
    """A worker tells a rate limit wherever there is one; unknown until it told."""
    if node.registered is None:
        return True
    return any(task.may_hide for task in node.registered.value)


# --- a worker that does not ----------------------------------------------------------------------


def _not_answering(
    node: KnownNode, service: Service | None, record: TakenRecord | None, known: Known
) -> Verdict:
    """The last round was not answered, or there was none yet."""
    status = service.status if service is not None else None
    seen_at = node.seen_at
    is_newer = status is not None and (seen_at is None or status.at >= seen_at)
    if service is not None and status is not None and is_newer:
        verdict = _told_by_supervisor(node, service, status.value)
        if verdict is not None:
            return verdict
    left = _left(node, known)
    if left:
        return Verdict(WorkerState.STOPPING, f"{left}; {_process(node, service)}")
    if _is_in_grace(node, known):
        return _in_grace(node, record, known)
    return Verdict(WorkerState.SILENT, _silence(node, service, known))


def _told_by_supervisor(node: KnownNode, service: Service, status: ServiceStatus) -> Verdict | None:
    """The verdict where the supervisor's word, newer than any sign of life, decides."""
    if status.state in (ServiceState.STOPPED, ServiceState.FAILED):
        return Verdict(WorkerState.STOPPED, f"{service.ref}: {status.says or status.state.value}")
    if _is_stopping(node, status):
        return Verdict(WorkerState.STOPPING, f"{service.ref} is stopping it")
    is_alive = service.error is None and status.state in (
        ServiceState.RUNNING,
        ServiceState.STARTING,
    )
    told = status.told_pid
    is_other = node.pid is not None and told is not None and node.pid != told
    if is_alive and (is_other or status.state is ServiceState.STARTING):
        since = "" if status.started_at is None else f" since {_clock_time(status.started_at)}"
        pid = "" if status.pid is None else f" as pid {status.pid}"
        return Verdict(
            WorkerState.SILENT, f"{service.ref} runs{pid}{since}; it has not answered yet"
        )
    return None


def _left(node: KnownNode, known: Known) -> str:
    """How it is known to have begun to stop, or nothing."""
    if node.goodbye_at is not None:
        return f"said goodbye at {_clock_time(node.goodbye_at)}"
    if node.replied_at is not None and known.bound is not None and node.name not in known.bound:
        return "no longer listens to control messages"
    return ""


def _process(node: KnownNode, service: Service | None) -> str:
    status = service.status.value if service is not None and service.status is not None else None
    if service is None:
        return "whether its process still runs tasks, only its host could tell"
    if service.error is not None or status is None:
        return f"{service.ref} cannot tell whether its process still runs"
    pid = status.pid if status.pid is not None else node.pid
    return f"its process {pid} still runs" if status.state in ALIVE else f"{service.ref} stopped"


def _is_in_grace(node: KnownNode, known: Known) -> bool:
    """A round that was missed is not silence yet: it must last, by replies and by heartbeats."""
    seen_at, missed_since = node.seen_at, node.missed_since
    if seen_at is None or (node.replied_at is None and not node.is_beating(known.at)):
        return False
    if node.is_beating(known.at):
        return missed_since is None or known.at - missed_since < node.lost_after
    return known.at - seen_at < node.lost_after


def _in_grace(node: KnownNode, record: TakenRecord | None, known: Known) -> Verdict:
    if node.replied_at is None:
        return Verdict(WorkerState.ONLINE, "heard by its heartbeat; has not answered yet")
    says = f"did not answer since {_clock_time(node.missed_since)}"
    earlier = _answering(node, record, known).state
    if earlier in (WorkerState.DRAINED, WorkerState.DRAINING):
        return Verdict(WorkerState.DRAINING, says)
    return Verdict(WorkerState.ONLINE, says)


def _silence(node: KnownNode, service: Service | None, known: Known) -> str:
    reading = service.status if service is not None else None
    status = reading.value if reading is not None else None
    says = [_since_when(node, known)]
    if is_busy_solo(node, service, known):
        return f"{says[0]}; {_BUSY_SOLO} (its service runs, pid {status.pid if status else None})"
    host = _host(service, known)
    if service is not None and host is not None and host.error is not None:
        says.append(f"nothing is known of its process: {host.name} is not reachable: {host.error}")
    elif service is not None and service.error is not None:
        says.append(f"nothing is known of its process: {service.ref}: {service.error}")
    elif reading is not None and status is not None and status.state in ALIVE:
        pid = "" if status.pid is None else f" (pid {status.pid})"
        is_old = node.seen_at is not None and reading.at < node.seen_at
        ran = f"its service ran{pid} when it was last asked, at {_clock_time(reading.at)}"
        mute = f"alive but mute: its service runs{pid}; busy solo pool, frozen or hung"
        says.append(ran if is_old else mute)
    elif status is not None:
        says.append(f"{service.ref if service else ''}: {status.says or status.state.value}")
    return "; ".join(says)


def _host(service: Service | None, known: Known) -> Host | None:
    if service is None:
        return None
    return next((host for host in known.hosts if host.name == service.ref.host), None)


def _since_when(node: KnownNode, known: Known) -> str:
    if node.is_beating(known.at):
        since = _clock_time(node.missed_since)
        return (
            f"heartbeats go on, but no control message is answered since {since}: "
            "is remote control switched off?"
        )
    connected = ", though it is connected" if node.listens_at is not None else ""
    if node.seen_at is not None:
        return f"no reply and no heartbeat since {_clock_time(node.seen_at)}{connected}"
    if connected:
        return "connected to the broker, but does not answer"
    if known.bound is not None and node.name in known.bound:
        return "bound on the broker, but never answered"
    return "never seen"


def _listed(names: Iterable[str]) -> str:
    cut = [name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}…" for name in names]
    return ", ".join(cut) if len(cut) <= 3 else f"{', '.join(cut[:3])} and {len(cut) - 3} more"


def _clock_time(moment: datetime | None) -> str:
    return "the start" if moment is None else f"{moment:%H:%M:%S} UTC"
