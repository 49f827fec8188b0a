"""How findings put it: names cut to a readable length, counts, sizes and times."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from celery_ops.model import Service, ServiceStatus

NAME_LENGTH = 80


def cut(name: str) -> str:
    """A name that somebody gave, as long as it may be."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def time(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%H:%M:%S} UTC"


def status_of(service: Service | None) -> ServiceStatus | None:
    return service.status.value if service is not None and service.status is not None else None
