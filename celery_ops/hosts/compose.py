"""Docker compose: the containers of its services, found by the labels that it gives them.

What is there is asked and changed by docker itself, whichever compose made it: a restart through
compose would make a new container wherever its file, or the image, has changed since. Compose is
only needed for a container that is gone: `docker compose` if that is there, else `docker-compose`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.config.services import COMPOSED
from celery_ops.errors import CommandFailed
from celery_ops.hosts import containers
from celery_ops.hosts.docker import Docker, is_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.hosts.containers import Container, Seen
    from celery_ops.model import ServiceRef

_ONES_OWN = "label=com.docker.compose.oneoff=False"


@dataclass(frozen=True, slots=True)
class Composed:
    """`project/service`, or `project/service/2` for one of its replicas."""

    project: str
    service: str
    number: str = ""

    def is_made_as(self, container: Container) -> bool:
        mine = (container.project, container.service) == (self.project, self.service)
        return mine and not container.is_one_off and self.number in {"", container.number}


@dataclass(frozen=True, slots=True)
class Compose(Docker):
    """The Supervisor port for services of compose. `files` are the compose files of those that a
    start may make anew, by their paths on the host.
    """

    files: Mapping[ServiceRef, tuple[str, ...]] = field(default_factory=dict)

    def _many(self, services: Sequence[ServiceRef]) -> tuple[str, ...]:
        """Labels are joined by and: of several projects all of compose's containers are asked."""
        projects = {composed(one).project for one in services}
        value = f"={projects.pop()}" if len(projects) == 1 else ""
        return (f"label={containers.PROJECT}{value}",)

    def _one(self, service: ServiceRef) -> tuple[str, ...]:
        one = composed(service)
        labels = {containers.PROJECT: one.project, containers.SERVICE: one.service}
        labels |= {containers.NUMBER: one.number} if one.number else {}
        return (*(f"label={label}={value}" for label, value in labels.items()), _ONES_OWN)

    def _makes(self, service: ServiceRef) -> tuple[str, ...]:
        files, one = self.files.get(service, ()), composed(service)
        if not files or one.number:
            return ()
        return (" ".join(f"--file {file}" for file in files), one.project, one.service)

    def _of(self, service: ServiceRef, seen: Seen) -> list[Container]:
        one = composed(service)
        return [container for container in seen.containers if one.is_made_as(container)]

    def _not_found(self, service: ServiceRef, names: Sequence[str]) -> CommandFailed:
        one = composed(service)
        words = [name.rpartition(" ")[2] for name in names]
        says = f"docker on {service.host} has no container of compose's {shown(service.name)}"
        make = shlex.join(["docker", "compose", "-p", one.project, "up", "-d", one.service])
        return CommandFailed(
            f"{says}{did_you_mean(service.name, words)}.",
            fix=f"Make it there: {make}. What there is: docker compose ls",
        )

    def _several(self, service: ServiceRef) -> CommandFailed:
        return CommandFailed(
            f"{service} is several containers.",
            fix=f"Write an entry for each: {service.name}/1, {service.name}/2 and so on.",
        )


def composed(service: ServiceRef) -> Composed:
    """What its name says. Raise CommandFailed for one that is no `project/service`."""
    match = COMPOSED.fullmatch(service.name)
    if match is None or not is_word(service.name):
        raise CommandFailed(
            f"{shown(service.name)} is not a service of compose.",
            fix="Write project/service, or project/service/2 for one of its replicas."
            " What there is: docker compose ls",
        )
    return Composed(match["project"], match["service"], match["number"] or "")
