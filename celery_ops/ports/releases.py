"""How releases are told and switched on a host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from celery_ops.model import HostReleases, ServiceRef
    from celery_ops.ports.hosts import Command, Completed


@dataclass(frozen=True, slots=True)
class ReleasesReading:
    """What one look at a host told of its releases, and of the processes that were asked for.

    All moments are seconds since the host was booted: `at`, when it was read; `since`, when the
    current release became so at the latest, None where the layout does not tell, and infinite where
    nothing follows from it about what a process runs; `started`, by pid, of every process that is
    there. `runs` are the releases of those that are seen to run one.
    """

    host: HostReleases
    at: float
    since: float | None = None
    started: Mapping[int, float] = field(default_factory=dict)
    runs: Mapping[int, str] = field(default_factory=dict)


class ReleaseLayout(Protocol):
    """Builds commands for one host's way of keeping releases, and reads what they print. Runs
    nothing.

    What concerns a host that lacks the tools, the directory or the right raises CommandFailed.
    """

    def look(self, pids: Collection[int]) -> Command:
        """One command for the host, and the releases of these processes."""
        ...

    def read(self, completed: Completed) -> ReleasesReading: ...

    def why_not(self, service: ServiceRef) -> str:
        """Why a start of that service does not bring it to the current release; empty: it does, as
        far as can be told.
        """
        ...

    def activate(self, release: str, *, expect: str | None) -> Command:
        """Make it the one that services are started with from now on, in one step.

        Nothing is changed if another one than `expect` is current (None: any), unless that is
        `release` already. Raise UsageError for what cannot be the name of a release.
        """
        ...

    def read_activated(self, release: str, completed: Completed) -> None:
        """Return if it is the current one now; raise CommandFailed with the reason if not."""
        ...

    def tasks(self, release: str, *, pid: int | None) -> Command | None:
        """Ask which task names that release registers; `pid` is a worker that runs there, whose
        interpreter and environment are used where they are needed. None: it cannot be asked.
        """
        ...

    def read_tasks(self, release: str, completed: Completed) -> frozenset[str]: ...
