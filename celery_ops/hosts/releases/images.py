"""Releases that are tags of a container image; a variable that compose reads has the one in use.

A process is seen to run a release by the image that its container was made of: a tag that means
another image by now is not what it runs. A variable is switched by a rename of the file it stands
in, once compose, which reads that file, was seen to start the release's image with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.config.services import COMPOSED
from celery_ops.errors import CommandFailed
from celery_ops.hosts import compose
from celery_ops.hosts.releases import image_scripts, looks
from celery_ops.model import HostReleases, ServiceRef
from celery_ops.model.releases import in_order, is_name
from celery_ops.ports import Command, ReleasesReading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from celery_ops.config.contexts import ImageRelease
    from celery_ops.hosts.docker import Docker
    from celery_ops.ports import Completed

_CONTAINED = {"docker", "compose"}


@dataclass(frozen=True, slots=True)
class _Listed:
    """The images that a host has, by tag, and when each was made; in order, from old to new."""

    ids: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.ids if is_name(name))

    def told(self, image: str, tag: str) -> str:
        """What people call that image, which was called `tag` when a container was made of it."""
        names = [name for name, found in self.ids.items() if found == image]
        if tag in names:
            return tag
        return names[-1] if names else f"{tag}@{image.removeprefix('sha256:')[:12]}"


@dataclass(frozen=True, slots=True)
class Images:
    """The ReleaseLayout port for tags of an image. `files` are all services of the host, and the
    compose files of those that have any written.

    `app` is empty where a worker's own command line is to say it.
    """

    release: ImageRelease
    host: str
    docker: Docker
    files: Mapping[ServiceRef, tuple[str, ...]]
    app: str = ""

    def look(self, pids: Collection[int]) -> Command:
        """Raise CommandFailed where the services are not of one docker."""
        command = self._command(image_scripts.LOOK, self._image, *self._setting)
        return replace(command, argv=(*command.argv, *map(str, sorted(pids))))

    def read(self, completed: Completed) -> ReleasesReading:
        if completed.code:
            raise self.docker.failure(self._docker, completed.code, completed.err)
        lines = looks.lines_of(completed)
        current, listed = self._current(lines), _listed(lines.get("image", ()))
        same = {name for name in listed.names if listed.ids[name] == listed.ids.get(current)}
        started = looks.began(lines)
        made_of = dict(line.split(" ", 1) for line in lines.get("container", ()) if " " in line)
        runs: dict[int, str] = {}
        for line in lines.get("in", ()):
            pid, _, container = line.partition(" ")
            image, _, called = made_of.get(container, "").partition(" ")
            name, tag = _reference(called)
            if pid.isdecimal() and int(pid) in started and (image and name == self._image):
                runs[int(pid)] = listed.told(image, tag)
        return ReleasesReading(
            HostReleases(current or None, listed.names, frozenset(same - {current})),
            at=looks.number(lines, "at") or 0.0,
            # Whenever it began: a container keeps the image that it was made of.
            since=math.inf,
            started=started,
            runs=runs,
        )

    def why_not(self, service: ServiceRef) -> str:
        if service.supervisor != "compose":
            return (
                f"{service} is none of compose's, and only compose can be told to make its"
                " container anew, of another image"
            )
        if self._composed(service)[2]:
            return (
                f"{service} is a replica, and compose makes none of them anew alone: give each"
                " worker a service of its own"
            )
        if not self.files.get(service):
            return (
                f"no compose files are written for {service}, so its container cannot be made anew:"
                f" {{host: {service.host}, compose: {service.name}, files: [/path/compose.yml]}}"
            )
        return ""

    def activate(self, release: str, *, expect: str | None) -> Command:
        named = looks.checked(release)
        words = (self._image, *self._setting, named, expect or "", self._services)
        command = self._command(image_scripts.ACTIVATE, *words)
        return replace(command, shown=f"{self.release.variable}={named} in {self.release.env_file}")

    def read_activated(self, release: str, completed: Completed) -> None:
        lines = looks.pairs_of(completed)
        effect = next(iter(lines.get("effect", ())), "")
        if completed.code or effect not in {"done", "same"}:
            raise self._not_activated(release, effect, lines, completed)

    def tasks(self, release: str, *, pid: int | None) -> Command | None:
        """Asked of the image itself, in a container that is made for it."""
        named = looks.checked(release)
        if self.release.tasks is not None:
            return Command((*self.release.tasks, named))
        if pid is None:
            return None
        words = (self._image, named, str(pid), self.app, image_scripts.NAMES)
        command = self._command(image_scripts.TASKS, *words)
        says = f"docker run --rm --network none {self._image}:{named}"
        return replace(command, shown=f"{says}: import {self.app or 'the application'}, list tasks")

    def read_tasks(self, release: str, completed: Completed) -> frozenset[str]:
        if self.release.tasks is not None:
            return looks.names_of_tasks(release, completed)
        return looks.told_tasks(
            release,
            completed,
            fix="Write `tasks:` below `image:`, a command that prints them.",
        )

    # --- in detail ---

    @property
    def _image(self) -> str:
        return compose.familiar(self.release.name)

    @property
    def _setting(self) -> tuple[str, str]:
        return self.release.env_file, self.release.variable

    @property
    def _docker(self) -> ServiceRef:
        """Stands for the docker that all containers of the host are of."""
        servers = {one.server for one in self.files if one.supervisor in _CONTAINED}
        if len(servers) > 1:
            raise CommandFailed(
                f"The containers of {self.host} are of several dockers, each with its own images.",
                fix="Make a context for each of them.",
            )
        return ServiceRef(self.host, "docker", self._image, server=next(iter(servers), None))

    @property
    def _services(self) -> str:
        """What compose is asked about, a line for each project and its files."""
        found: dict[tuple[str, str], list[str]] = {}
        for one, files in self.files.items():
            if one.supervisor == "compose" and files:
                project, name, _ = self._composed(one)
                words = " ".join(f"--file {file}" for file in files)
                found.setdefault((project, words), []).append(name)
        return "\n".join(f"{key[0]} {','.join(names)} {key[1]}" for key, names in found.items())

    def _composed(self, service: ServiceRef) -> tuple[str, str, str]:
        match = COMPOSED.fullmatch(service.name)
        return (match["project"], match["service"], match["number"] or "") if match else ("",) * 3

    def _command(self, script: str, *words: str) -> Command:
        listing = ("image", "ls", self._image)
        return self.docker.command(script, self._docker, (), *words, shown_as=listing)

    def _current(self, lines: Mapping[str, list[str]]) -> str:
        """Empty where the variable is. Raise CommandFailed where it cannot be told."""
        tags = lines.get("tag", [])
        if lines.get("set") == ["1"] and len(tags) == 1:
            return tags[0]
        raise self._unset(lines)

    def _unset(self, lines: Mapping[str, list[str]]) -> CommandFailed:
        file, variable = self._setting
        match next(iter(lines.get("set", ())), ""):
            case "nowhere":
                says = f"There is no file {shown(file)} on {self.host}."
            case "unreadable":
                says = f"The file {shown(file)} cannot be read on {self.host}."
            case "0":
                says = f"{file} on {self.host} does not set {variable}."
            case "1":
                says = f"{file} on {self.host} sets {variable} to what is no plain tag."
            case _:
                says = f"{file} on {self.host} sets {variable} more than once."
        return CommandFailed(says, fix=f"One line of it is to read {variable}=TAG.")

    def _not_activated(
        self, release: str, effect: str, lines: Mapping[str, list[str]], completed: Completed
    ) -> CommandFailed:
        one = {key: values[0] for key, values in lines.items()}
        match effect:
            case "missing":
                return looks.missing(release, in_order(lines.get("release", ())))
            case "strange":
                return self._unset(lines)
            case "held":
                return looks.held(one.get("now", ""))
            case "unresolved":
                return compose.unresolved(
                    one.get("project", ""), completed.err.decode(errors="replace")
                )
            case "blank":
                return compose.blank(
                    one.get("project", ""), one.get("name", ""), self.release.env_file
                )
            case "other" | "unused" | "owner" | "raced":
                return self._left_alone(release, effect, one)
            case _:
                return self._unwritten(completed)

    def _left_alone(self, release: str, effect: str, told: Mapping[str, str]) -> CommandFailed:
        file, variable = self._setting
        meant = f"image: {self._image}:${{{variable}}}"
        says, fix = {
            "other": (
                f"with {variable}={release} compose would start {told.get('service')} as"
                f" {shown(told.get('image') or 'nothing')}",
                f"Its compose file is to say {meant}",
            ),
            "unused": (
                f"no service of compose on {self.host} would start as {self._image}:{release}",
                f"Services need `files:`, and {meant} in their compose file.",
            ),
            "owner": (
                f"it belongs to {told.get('owner')}, and would be ours if we wrote it",
                "Log in as its owner there.",
            ),
            "raced": (
                "it was changed by somebody else in this moment",
                "Look again and plan anew.",
            ),
        }[effect]
        return CommandFailed(f"{file} is left alone: {says}.", fix=fix)

    def _unwritten(self, completed: Completed) -> CommandFailed:
        if b"ocker" in completed.err:
            return self.docker.failure(self._docker, completed.code, completed.err)
        return CommandFailed(
            f"{self.release.env_file} cannot be written: {looks.said(completed)}.",
            fix="Who logs in there must be able to write to its directory.",
        )


def _reference(text: str) -> tuple[str, str]:
    """The name and the tag of what a container was made of; the tag is empty where it has none."""
    text = text.partition("@")[0]
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return compose.familiar(f"{head}{slash}{name}"), tag if colon else ""


def _listed(lines: Collection[str]) -> _Listed:
    """Images that were made at the same moment, as those of reproducible builds, by their names:
    one that has several by the newest, as `latest` and v3 both are after v2.
    """
    ids: dict[str, str] = {}
    made: dict[str, float] = {}
    for line in lines:
        tag, _, rest = line.partition(" ")
        image, _, created = rest.partition(" ")
        if tag and image and tag != "<none>":
            ids[tag], made[tag] = image, _moment(created)
    names = in_order(ids)
    places = {ids[name]: place for place, name in enumerate(names)}
    ordered = sorted(names, key=lambda name: (made[name], places[ids[name]]))
    return _Listed({name: ids[name] for name in ordered})


def _moment(text: str) -> float:
    """As docker prints it: `2026-11-26 10:00:00 +0000 UTC`. Unknown is older than all else."""
    try:
        day, time, zone = text.split()[:3]
        return datetime.fromisoformat(f"{day}T{time}{zone}").timestamp()
    except ValueError:
        return 0.0
