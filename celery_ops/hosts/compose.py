"""Docker compose: the containers of its services, found by the labels that it gives them.

What is there is asked and changed by docker itself, whichever compose made it: a restart through
compose would make a new container wherever its file, or the image, has changed since. Compose is
only needed for a container that is gone: `docker compose` if that is there, else `docker-compose`.

Where releases are tags of an image, a start brings in the one that compose's files name by then: a
container of another image, which has stopped, is removed and made anew.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.config.services import COMPOSED
from celery_ops.errors import CommandFailed
from celery_ops.hosts import begun, compose_scripts, containers
from celery_ops.hosts.docker import Docker, is_word
from celery_ops.hosts.units import text_of
from celery_ops.model import ServiceState, ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.config.contexts import ImageRelease
    from celery_ops.hosts.containers import Container, Seen
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Command, Completed

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
    start may make anew, by their paths on the host; with a `release` it brings them to that.
    """

    files: Mapping[ServiceRef, tuple[str, ...]] = field(default_factory=dict)
    release: ImageRelease | None = None

    def start(self, service: ServiceRef) -> Command:
        """As docker's; where releases are images, with the one that is current by then.

        That may remove a stopped container and make another: it goes on by itself on the host, and
        can be told again at any point of it.
        """
        release, makes = self.release, self._makes(service)
        if release is None or not makes:
            return Docker.start(self, service)
        note = begun.key(service.server or "", service.name)
        file, image, variable = release.env_file, familiar(release.name), release.variable
        words = (file, variable, image, *makes, note, compose_scripts.MAKE)
        command = self.command(
            compose_scripts.RENEW, service, self._one(service), *words, shown_as=()
        )
        says = f"docker compose -p {makes[1]} up -d --no-deps {makes[2]}"
        return replace(command, shown=f"docker start {service.name}; of another image: {says}")

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        """As docker's; of one that a start would make, none is as good as a stopped one."""
        command = Docker.stop(self, service, expect=expect)
        if not self._is_made_anew(service):
            return command
        return replace(command, argv=(*command.argv, "none is fine"))

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        lines = text_of(completed.out).split("\n")
        told = dict(line.split("=", 1) for line in lines if "=" in line)
        file = self.release.env_file if self.release is not None else ""
        match told.get("Effect"):
            case "room":
                raise begun.no_room(service, told.get("room", ""))
            case "unresolved":
                raise unresolved(service.name, text_of(completed.err))
            case "blank":
                raise blank(service.name, told.get("Variable", ""), file)
            case "imageless":
                raise CommandFailed(
                    f"{service} was left as it is: its image {shown(told.get('Image', ''))} is not"
                    f" on {service.host}, and nothing is pulled at a start.",
                    fix="See what compose names: docker compose config --images",
                )
            case _:
                Docker.read_effect(self, service, completed)

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

    def _is_made_anew(self, service: ServiceRef) -> bool:
        return self.release is not None and bool(self._makes(service))

    def _status(self, service: ServiceRef, seen: Seen) -> ServiceStatus:
        if self._is_made_anew(service) and not self._of(service, seen):
            says = "it has no container: a start makes one"
            return ServiceStatus(
                ServiceState.STOPPED, None, None, None, None, says=says, startable=True
            )
        return Docker._status(self, service, seen)

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


def unresolved(name: str, said: str) -> CommandFailed:
    """Compose cannot tell what it would start."""
    return CommandFailed(
        f"What compose would start as {name} cannot be told: {' '.join(said.split())[:300]}",
        fix="Try it there: docker compose config --quiet",
    )


def blank(name: str, variable: str, file: str) -> CommandFailed:
    """A container that is made here would differ from those that people make."""
    return CommandFailed(
        f"The variable {shown(variable)} of {name} is set nowhere that compose looks here.",
        fix=f"Write it into {file}, if with nothing after {variable}=",
    )


def familiar(name: str) -> str:
    """As docker lists an image: docker.io/library/redis is redis."""
    return name.removeprefix("docker.io/").removeprefix("library/")
