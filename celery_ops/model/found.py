"""What is found on a host that nobody has described yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from celery_ops.model.services import ServiceRef


class Role(StrEnum):
    """What a Celery process is there for."""

    WORKER = "worker"
    BEAT = "beat"


@dataclass(frozen=True, slots=True)
class CeleryProcess:
    """A process of Celery's that was found on a host, and the service that owns it.

    `role` and `node` are what its command line tells; None: it does not. `age` is in seconds.
    `says` is why there is no `service`, or what is wrong with it, and `fix` what helps.
    """

    pid: int
    role: Role | None
    node: str | None
    age: float | None
    service: ServiceRef | None
    says: str = ""
    fix: str = ""
    inner_pid: int | None = None
    """Its pid in its own container, which is the one its worker tells."""
    has_beat: bool = False
    """A worker that is a scheduler too (`-B`)."""
    app: str | None = None
    """The application it was started with (`-A`), as written."""
    start: tuple[str, ...] = ()
    """What starts it again in the background, for one that no supervisor runs."""


@dataclass(frozen=True, slots=True)
class IdleService:
    """A service that would run Celery and does not run now; `app` is the application's name.

    `service.worker` is the node name that its command line tells.
    """

    service: ServiceRef
    app: str | None


@dataclass(frozen=True, slots=True)
class Discovered:
    """What was found on a host: `hostname` is what it calls itself, `notes` say what could not be
    seen.
    """

    host: str
    hostname: str
    is_root: bool
    processes: tuple[CeleryProcess, ...]
    idle: tuple[IdleService, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rights:
    """Who we are on a host. `refused`: services that we may not start and stop there, why not, and
    what helps; `refused_for_good`: those of the others that we may not enable and disable.
    """

    user: str
    refused: Mapping[ServiceRef, tuple[str, str]]
    refused_for_good: Mapping[ServiceRef, tuple[str, str]] = field(default_factory=dict)
