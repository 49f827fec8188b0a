"""Reads /proc/PID/cgroup: which systemd unit a process belongs to, or what else it lives in.

As systemd's own cg_path_get_unit: what stands before the group of PID 1 is not ours to see, then
come slices, and then the unit. Versions 1, 2 and hybrid (cgroups(7)).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_ID = re.compile(r"[0-9a-f]{64}")
_CONTAINER = re.compile(
    r"(?:(?P<kind>docker|libpod|cri-containerd|crio|lxc)[-.])?(?P<id>[0-9a-f]{64})(?:\.scope)?"
)
_CONTAINERS = re.compile(r"docker|kubepods|lxc|libpod|actions_job|buildkit|garden|ecs")
_MACHINE = re.compile(r"systemd-nspawn@(?P<one>.+)\.service|machine-(?P<other>.+)\.scope")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_USER_MANAGER = re.compile(r"user@(\d+)\.service")


class Home(StrEnum):
    """What a process lives in."""

    UNIT = "unit"
    USER_UNIT = "user unit"
    SESSION = "session"
    CONTAINER = "container"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a process lives; `name` is the unit's, the session's or the container's own.

    `user` is the number of the user whose manager the unit belongs to.
    """

    home: Home
    name: str = ""
    user: str = ""


def placed(groups: str, root: str) -> Placed:
    """Where the process of these lines lives; `root` are those of PID 1."""
    path, above = _path(groups), _path(root)
    above = above.removesuffix("/init.scope").removesuffix("/")
    if above and (path == above or path.startswith(f"{above}/")):
        path = path[len(above) :]
    parts = [part for part in path.split("/") if part and part != ".."]
    container = _container(parts)
    if container is not None:
        return container
    parts = _below_slices(parts)
    if not parts:
        return Placed(Home.NOTHING)
    manager = _USER_MANAGER.fullmatch(parts[0])
    if manager is not None:
        below = [part for part in _below_slices(parts[1:]) if part != "init.scope"]
        if below and below[0].endswith(".service"):
            return Placed(Home.USER_UNIT, _unescaped(below[0]), manager[1])
        return Placed(Home.SESSION, below[0] if below else parts[0], manager[1])
    if parts[0].endswith(".service"):
        return Placed(Home.UNIT, parts[0].removeprefix("_"))
    return Placed(Home.SESSION if parts[0].endswith(".scope") else Home.NOTHING, parts[0])


def _path(groups: str) -> str:
    """The path in systemd's hierarchy: version 1's `name=systemd`, else the only one of 2."""
    found = ""
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "name=systemd":
            return path
        if not controllers:
            found = path
    return found


def _container(parts: list[str]) -> Placed | None:
    for position, part in enumerate(parts):
        known = _CONTAINER.fullmatch(part)
        if known is not None:
            return Placed(Home.CONTAINER, known["id"][:12])
        machine = _MACHINE.fullmatch(part)
        if machine is not None:
            return Placed(Home.CONTAINER, _unescaped(machine["one"] or machine["other"]))
        if position == 0 and _CONTAINERS.match(part.removesuffix(".slice")):
            last = next((one for one in reversed(parts) if _ID.search(one)), parts[-1])
            found = _ID.search(last)
            return Placed(Home.CONTAINER, found[0][:12] if found else last)
    return None


def _below_slices(parts: list[str]) -> list[str]:
    while parts and parts[0].endswith(".slice"):
        parts = parts[1:]
    return parts


def _unescaped(name: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
