"""Machines, and what supervisors run on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from celery_ops.model.told import Reading

if TYPE_CHECKING:
    from celery_ops.model.beats import SeenProcesses
    from celery_ops.model.machine import HostFacts, Restarts, Retry, Usage
    from celery_ops.model.releases import HostReleases


class ServiceState(StrEnum):
    """A supervisor's own verdict, in one vocabulary for all supervisors."""

    RUNNING = "running"
    STARTING = "starting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"


_COLD = frozenset({"QUIT", "SIGQUIT", "KILL", "SIGKILL"})


@dataclass(frozen=True, slots=True)
class Hazard:
    """What stopping or starting a service would do to tasks or to other services, and what helps.

    `forbids`: it is not to be stopped or restarted as it is, and a drain before does not help.
    """

    says: str
    fix: str
    forbids: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRef:
    """What a supervisor runs on a host, as configured.

    `worker` is the node name expected there (`%h` already replaced), `beat` says it is a scheduler,
    `server` is where the supervisor listens if not at its usual place.
    """

    host: str
    supervisor: str
    name: str
    worker: str | None = None
    beat: bool = False
    server: str | None = None

    def __str__(self) -> str:
        return f"{self.supervisor} {self.name} on {self.host}"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What a supervisor says of one service, and what it would do to its tasks.

    `pid` is the main process's on its host. `identity` is the supervisor's own name for this life
    of it (InvocationID, `start`, StartedAt). `clean_exit` tells of the last stop: None while
    running or when it cannot be known.
    """

    state: ServiceState
    pid: int | None
    identity: str | None
    started_at: datetime | None
    clean_exit: bool | None
    says: str
    stop_grace: float | None = None
    """Seconds between the stop signal and SIGKILL. None: not known, or SIGKILL never comes."""
    restarts_itself: bool | None = None
    """Started again whenever it ends, cleanly or not (`Restart=always`, `autorestart=true`)."""
    signals_children: bool | None = None
    """The stop signal reaches the pool's children too: running tasks are lost (FACTS: even
    acks_late).
    """
    stop_signal: str | None = None
    startable: bool | None = None
    """False: once stopped it cannot be started again (masked, its definition gone or broken)."""
    arguments: tuple[str, ...] | None = None
    """The main process's command line, where its host could be asked."""
    restarts: int | None = None
    """How often its supervisor started it again unasked, since it was last told to start it."""
    retry: Retry | None = None
    """Set where it ended though it should run, by what its supervisor does about that."""
    hazards: tuple[Hazard, ...] = ()
    """Beyond what the fields above tell."""
    inner_pid: int | None = None
    """The main process's pid in its own container, which is the one its worker tells."""
    node: str | None = None
    """The node name that its command line makes where it runs. In containers the pid proves little:
    it is 1 in most of them.
    """
    reaches_worker: bool | None = None
    """False: the stop signal does not get to the worker, which is killed when the grace is over or
    at once: PID 1 of its container is a shell that keeps it, or has no handler for it.
    """
    at_boot: str | None = None
    """How it is set to be started when its host boots, in its supervisor's word (`enabled`), as far
    as a stop for good can unset that; empty: it is not. None: not known.
    """
    comes_back: str = ""
    """What starts it again unasked, whatever is unset; empty: nothing that is known."""

    @property
    def told_pid(self) -> int | None:
        """The pid that a worker in it tells."""
        return self.pid if self.inner_pid is None else self.inner_pid

    @property
    def stops_cold(self) -> bool:
        """It is told to stop by a signal on which a worker does not wait for what it runs."""
        return self.stop_signal in _COLD

    @property
    def cuts_off(self) -> bool:
        """A stop ends what the worker runs, or it is not known not to."""
        kept = self.reaches_worker is False
        return kept or self.stops_cold or self.signals_children is not False


@dataclass(frozen=True, slots=True)
class Service:
    """A configured service and the last reading of its status; None: never answered."""

    ref: ServiceRef
    status: Reading[ServiceStatus] | None
    error: str | None = None
    usage: Reading[Usage] | None = None
    """Of the process that `status` names; None where its host did not tell."""
    restarted: Restarts | None = None
    """Within the last minutes, as far as somebody watched."""
    release: Reading[str] | None = None
    """What the process that `status` names runs; None: not known."""

    @property
    def state(self) -> ServiceState:
        """What its supervisor said last; UNKNOWN if it never answered."""
        return self.status.value.state if self.status is not None else ServiceState.UNKNOWN


@dataclass(frozen=True, slots=True)
class Host:
    """A machine. `error` says why it cannot be reached, `since` from when on.

    `silent_since`: nothing was heard of it since it was asked then, and that may still come.
    `unread` says why its facts could not be read although it is reached.
    """

    name: str
    address: str
    error: str | None = None
    since: datetime | None = None
    reached_at: datetime | None = None
    """When it last answered anything; None: never yet."""
    silent_since: datetime | None = None
    facts: Reading[HostFacts] | None = None
    unread: str | None = None
    releases: Reading[HostReleases] | None = None
    """None: not configured, or never read; `releases_unread` says why."""
    releases_unread: str | None = None
    processes: Reading[SeenProcesses] | None = None
    """Of Celery's; None: never read. `processes_unread` says why not, or why not just now."""
    processes_unread: str | None = None

    @property
    def reachable(self) -> bool | None:
        """None: not known, or not known any more."""
        if self.error is not None:
            return False
        return None if self.reached_at is None or self.silent_since is not None else True
