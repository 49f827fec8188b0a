"""Docker: builds the commands that ask and change a container by its name, and reads their answers.

Only the daemon of the host itself is spoken to, with its own command. Effects go through a constant
script that looks at the container right before it acts on it, and acts on its id: a container that
was made anew meanwhile is left alone. Docker has no conditional stop, so a life that begins within
those milliseconds is not told apart.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts import containers, refusals
from celery_ops.hosts.docker_scripts import LOG, LOOK, MAY_ACT, SEVERAL, START, STOP, UNKNOWN
from celery_ops.hosts.units import text_of
from celery_ops.model import ServiceRef, ServiceState, ServiceStatus
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.errors import StreamFailed
    from celery_ops.hosts.containers import Container, Seen
    from celery_ops.ports import Completed

_PLAIN = (("LC_ALL", "C"), ("TZ", "UTC"))
_NO_DAEMON = ("Cannot connect to the Docker daemon", "failed to connect to the docker", "dial unix")
_NO_RIGHT = "permission denied while trying to connect"
_NO_SUDO = ("sudo:", "Sorry, user", "Sorry, try", "We trust you")


@dataclass(frozen=True, slots=True)
class Docker:
    """The Supervisor port for containers by their names. `sudo` names the hosts on which docker is
    run with `sudo -n` by those who may not write to its socket.
    """

    sudo: frozenset[str] = frozenset()

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command for all of them. Raise ValueError if they are not of one docker."""
        first = services[0]
        if any((one.host, one.server) != (first.host, first.server) for one in services):
            raise ValueError("these services are not of one docker")
        words = ("inspect", *(one.name for one in services))
        return self.command(LOOK, first, self._many(services), containers.SHAPE, shown_as=words)

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        """Each service's status. A name that docker does not know is UNKNOWN and says so."""
        seen = self._read(services[0], completed)
        return {one: self._status(one, seen) for one in services}

    def listing(self, host: str, server: str | None = None) -> Command:
        """One command for all containers of a host."""
        anything = ServiceRef(host, "docker", "all", server=server)
        return self.command(LOOK, anything, (), containers.SHAPE, shown_as=("ps", "--all"))

    def read_listing(self, host: str, completed: Completed) -> tuple[Container, ...]:
        """Raise CommandFailed with the reason if it did not tell."""
        return self._read(ServiceRef(host, "docker", "all"), completed).containers

    def may_act(self, host: str, server: str | None) -> Command:
        """Whether we may ask docker, and start and stop any container with it; does neither."""
        anything = ServiceRef(host, "docker", "all", server=server)
        return self.command(MAY_ACT, anything, (), shown_as=("ps", "--quiet"))

    def read_may_act(self, service: ServiceRef, completed: Completed) -> None:
        """Raise CommandFailed, with what helps, if not."""
        if completed.code:
            raise self.failure(service, completed.code, completed.err)

    def start(self, service: ServiceRef) -> Command:
        """Start the same container again, with the image it was made of; already started is fine.
        Refused while it stops: that would be ignored.
        """
        found, words = self._one(service), ("start", service.name)
        return self.command(START, service, found, *self._makes(service), shown_as=words)

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        """Stop that life of it, with its own grace; already stopped, or stopping, is fine.

        The client goes on by itself until the container has stopped.
        """
        found, words = self._one(service), ("stop", service.name)
        return self.command(STOP, service, found, expect or "", shown_as=words)

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        lines = text_of(completed.out).split("\n")
        told = dict(line.split("=", 1) for line in lines if "=" in line)
        match told.get("Effect"):
            case "unknown":
                others = [line.partition("=")[2] for line in lines if line.startswith("Name=")]
                raise self._not_found(service, others)
            case "several":
                raise self._several(service)
            case "stopping":
                raise refusals.still_stopping(service, told.get("Pid", ""))
            case "held":
                raise refusals.another_incarnation(service, f"pid {told.get('Pid', '')}")
            case _ if completed.code:
                raise self.failure(service, completed.code, completed.err)

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """Follows what it prints, with UTC times, through its next lives too."""
        found, words = self._one(service), ("logs", "--follow", service.name)
        return self.command(LOG, service, found, str(lines), shown_as=words)

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        match ended.code:
            case code if code == UNKNOWN:
                return self._not_found(service, [])
            case code if code == SEVERAL:
                return self._several(service)
            case _ if b"does not support reading" in ended.err:
                return CommandFailed(
                    f"{service} has no log that docker can read: its logging driver sends it away.",
                    fix="See `docker inspect`, HostConfig.LogConfig; json-file and local are read.",
                )
            case code if ended.err:
                return self.failure(service, code, ended.err)
            case _:
                return ended

    # --- how it is found ---

    def _many(self, services: Sequence[ServiceRef]) -> tuple[str, ...]:
        """What `docker ps` is asked for; other containers may be among the answers."""
        return tuple(filter_ for one in services for filter_ in self._one(one))

    def _one(self, service: ServiceRef) -> tuple[str, ...]:
        """Filters that no other container passes."""
        if not is_word(service.name):
            raise CommandFailed(
                f"{shown(service.name)} is not the name of a container.",
                fix="What there is: docker ps --all",
            )
        return (f"name=^/?{re.escape(service.name)}$",)

    def _makes(self, service: ServiceRef) -> tuple[str, ...]:
        """What makes a container that is not there."""
        del service
        return ()

    def _of(self, service: ServiceRef, seen: Seen) -> list[Container]:
        return [one for one in seen.containers if one.name == service.name]

    def _not_found(self, service: ServiceRef, names: Sequence[str]) -> CommandFailed:
        says = f"docker on {service.host} knows no container {shown(service.name)}"
        words = [name.split(" ")[0] for name in names]
        return CommandFailed(
            f"{says}{did_you_mean(service.name, words)}.", fix="What there is: docker ps --all"
        )

    def _several(self, service: ServiceRef) -> CommandFailed:
        return CommandFailed(f"{service} is several containers.", fix="Name one of them.")

    # --- in detail ---

    def _read(self, service: ServiceRef, completed: Completed) -> Seen:
        vanished = b"No such" in completed.err
        if completed.code and not vanished:
            raise self.failure(service, completed.code, completed.err)
        if completed.truncated:
            raise CommandFailed("docker's answer is too long and was cut.")
        return containers.read(completed.out)

    def _status(self, service: ServiceRef, seen: Seen) -> ServiceStatus:
        mine = self._of(service, seen)
        if len(mine) == 1:
            return containers.status(mine[0], seen)
        error = self._several(service) if mine else self._not_found(service, [])
        fix = f" {error.fix}" if mine and error.fix else ""
        says = f"{error.says}{fix}"
        return ServiceStatus(ServiceState.UNKNOWN, None, None, None, None, says=says)

    def command(
        self,
        script: str,
        service: ServiceRef,
        filters: Sequence[str],
        *arguments: str,
        shown_as: Sequence[str],
    ) -> Command:
        """Run a script that begins as all in `docker_scripts` do."""
        sudo = "sudo" if service.host in self.sudo else ""
        words = " ".join(f"--filter {one}" for one in filters)
        prefix = ("sudo", "-n") if sudo else ()
        return Command(
            argv=("sh", "-c", script, "celery-ops", sudo, service.server or "", words, *arguments),
            env=_PLAIN,
            shown=shlex.join([*prefix, "docker", *shown_as]),
        )

    def failure(self, service: ServiceRef, code: int, err: bytes) -> CommandFailed:
        """Why docker did not do as it was told: a sentence, and what helps."""
        text = text_of(err).strip()
        said = " ".join(text.split())[:300] or f"exit code {code}"
        if _NO_RIGHT in text:
            return CommandFailed(
                f"docker may not be asked on {service.host}: {said}",
                fix="Allow it there, and connect anew: usermod -aG docker USER (that is as much as"
                f" root). Or set `sudo: true` for the host, with visudo: {sudoers_line()}",
            )
        if "sudo: not found" in text or text.startswith(_NO_SUDO):
            return CommandFailed(
                f"sudo was refused on {service.host}: {said}",
                fix=f"Allow it there with visudo: {sudoers_line()}",
            )
        if any(mark in text for mark in _NO_DAEMON):
            return CommandFailed(
                f"docker is not running on {service.host}, or cannot be asked ({said}).",
                fix="See `systemctl status docker` there.",
            )
        if code == 127:
            return CommandFailed(
                f"{service.host} has no docker ({said}).", fix="Is it run by another supervisor?"
            )
        return CommandFailed(f"docker refused: {said} ({service}).")


def is_word(name: str) -> bool:
    """Whether it is one word of a command line as it stands."""
    return bool(name) and name.isprintable() and " " not in name


def sudoers_line() -> str:
    """What lets a user ask and command docker; less would have to name every container's id."""
    return "USER ALL=(root) NOPASSWD: /usr/bin/docker"
