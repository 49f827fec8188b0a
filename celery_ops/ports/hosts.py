"""Hosts, the commands that run on them, and the supervisors."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

    from celery_ops.errors import CommandFailed, StreamFailed
    from celery_ops.model import HostFacts, SeenProcesses, ServiceRef, ServiceStatus
    from celery_ops.ports.releases import ReleaseLayout


@dataclass(frozen=True, slots=True)
class Command:
    """What to run on a host: an argv (never a shell line), environment, and bytes for its stdin.

    `shown` is what people see in a plan: it contains no secret. Empty: the argv itself.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = field(default=b"", repr=False)  # a password may be in it
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. Output is bounded; `truncated` says that some is missing."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    truncated: bool = False


class Shell(Protocol):
    """One host that can run commands."""

    async def run(self, command: Command, *, timeout: float) -> Completed:
        """Run it to its end.

        Raise HostUnreachable if it could not be started or its end cannot be known; after `timeout`
        seconds its process group is ended and CommandFailed is raised.
        """
        ...

    def stream(self, command: Command) -> AsyncGenerator[bytes, None]:
        """What it prints on stdout, as it comes, until it ends or the reader closes this.

        Whoever reads slowly slows the command down: no more than some hundred kilobytes wait here.
        Close it (`contextlib.aclosing`) to end the command's process group; that raises
        HostUnreachable, after a few seconds, if a host does not tell that it is gone. Raise
        HostUnreachable if the command could not be started or the connection is lost, StreamFailed
        if it ends with anything but 0, CommandFailed if too many are followed on that host.
        """
        ...


class Supervisor(Protocol):
    """Builds commands for one kind of supervisor and reads what they print. Runs nothing itself.

    Effects are conditional: `expect` is the `ServiceStatus.identity` they were planned against; if
    another life runs meanwhile the command does nothing and `read_effect` says so.
    """

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command that asks about several services of the same host and server."""
        ...

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]: ...

    def start(self, service: ServiceRef) -> Command: ...

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command: ...

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        """Return if the supervisor accepted it; raise CommandFailed with what it said if not.

        Accepted is not done: both start and stop return at once, and are proved by status.
        """
        ...

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """To be streamed: the last lines of a service's log, then what is added to it.

        Raise CommandFailed for a name that is not one service.
        """
        ...

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        """Why `log` ended: a sentence, and what helps."""
        ...


@runtime_checkable
class BootSupervisor(Supervisor, Protocol):
    """One that can be told whether it starts a service when its host boots, and that tells how that
    is set (`ServiceStatus.at_boot`). Others just lack these two.
    """

    def stop_for_good(self, service: ServiceRef, *, expect: str | None) -> Command:
        """As `stop`, in one command with unsetting that it is started at boot."""
        ...

    def start_for_good(self, service: ServiceRef, *, at_boot: str) -> Command:
        """As `start`, in one command with setting how it is started at boot, by the word for it."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process with all its descendants. `memory` in bytes, `cpu` in seconds since it began, that
    of children that have ended included; `started` tells its lives apart.
    """

    processes: int
    memory: int | None
    cpu: float
    started: int


@dataclass(frozen=True, slots=True)
class HostReading:
    """What one look at a host told: its own facts, and the process trees that were asked for."""

    facts: HostFacts
    trees: Mapping[int, ProcessTree]


class Hosts(Protocol):
    """The hosts of a context and the supervisors on them."""

    def shell(self, host: str) -> Shell: ...

    def supervisor(self, kind: str) -> Supervisor: ...

    async def arguments(self, host: str, pids: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """Command lines of processes; a pid that is gone is left out."""
        ...

    async def facts(self, host: str, pids: Collection[int]) -> HostReading:
        """How a host is doing, and what these main processes use; a pid that is gone is left out.

        Raise HostUnreachable, CommandFailed or UsageError.
        """
        ...

    async def processes(self, host: str) -> SeenProcesses:
        """The main processes of Celery's there, whoever runs them.

        Raise HostUnreachable, CommandFailed or UsageError.
        """
        ...

    def release_layout(self, host: str) -> ReleaseLayout | None:
        """How that host keeps releases; None where that is not configured."""
        ...

    async def close(self) -> None: ...
