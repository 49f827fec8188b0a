"""What is read of a machine and of the processes on it: frozen values, no I/O.

A part that a machine does not tell is None, never zero: there may be no `df` on it, or a kernel
that hides other users' processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Retry(StrEnum):
    """What a supervisor does about a service that ended although it should run."""

    AGAIN = "tries again"
    GAVE_UP = "gave up"


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted file system; sizes in bytes. `available` is what users other than root may take."""

    mount: str
    size: int
    used: int
    available: int

    @property
    def fullness(self) -> float:
        """0 to 1, as `df` counts: of what can be used at all, without root's reserve."""
        usable = self.used + self.available
        return self.used / usable if usable > 0 else 1.0


@dataclass(frozen=True, slots=True)
class HostFacts:
    """How a machine is doing. Memory in bytes, uptime in seconds."""

    load: tuple[float, float, float] | None = None
    """Processes that run or wait to, on average over 1, 5 and 15 minutes."""
    cpus: int | None = None
    memory: int | None = None
    memory_available: int | None = None
    """What can be had without swapping: the kernel's own estimate, caches counted as free."""
    disks: tuple[Disk, ...] | None = None
    """The file systems that services write to; not the read-only, remote or virtual ones."""
    uptime: float | None = None

    @property
    def memory_fullness(self) -> float | None:
        """0 to 1."""
        if not self.memory or self.memory_available is None:
            return None
        return max(0.0, 1 - self.memory_available / self.memory)

    @property
    def fullest(self) -> Disk | None:
        """Of the disks, the one with the least share left."""
        return max(self.disks or (), key=lambda disk: disk.fullness, default=None)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a service's main process `pid` uses together with all its descendants.

    `memory` is in bytes, what is resident of each process added up: pages that a forked child still
    shares with its parent count for both. `cores` is CPU time by time between the last two
    readings, None until there are two of the same life.
    """

    pid: int
    processes: int
    memory: int | None
    cores: float | None


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often a service was seen to be started anew, counted since `since`.

    `by_supervisor`: its supervisor's own count of what it did unasked; otherwise each new life
    counts, whoever began it.
    """

    count: int
    since: datetime
    by_supervisor: bool
