"""What is dangerous about how a systemd unit is written, beyond the signals of its stop.

`Type=forking` is how Celery's manual runs `celery multi`: what follows was measured on systemd 252.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from celery_ops.model import Hazard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery_ops.model import ServiceRef

_OWN_UNITS = (
    "Give each node a unit of its own, a template celery@.service: ExecStart=celery multi start %i,"
    " RuntimeDirectory=celery-%i, PIDFile=/run/celery-%i/%i.pid, KillMode=mixed."
)
_FOREGROUND = re.compile(r"\bcelery\b.*\s(?:worker|beat)\b")
_BACKGROUND = re.compile(r"\smulti\s|\s(?:--detach|-D)\b|&\s*$")


def signals_children(unit: Mapping[str, str]) -> bool | None:
    """man 5 systemd.kill: only `control-group`, the default, signals all that is left of a unit.

    After `celery multi stopwait` nothing is left; `celery multi stop` does not wait. What another
    ExecStop= does is not known here.
    """
    mode = unit.get("KillMode")
    if mode != "control-group":
        return None if not mode else False
    stop = unit.get("ExecStop", "")
    if unit.get("Type") != "forking" or not stop:
        return True
    if re.search(r"\bmulti stopwait\b", stop):
        return False
    return True if re.search(r"\bmulti stop\b", stop) else None


def never_comes_up(unit: Mapping[str, str]) -> bool:
    """It is to fork, and its command stays in the foreground: systemd ends it as late."""
    start = unit.get("ExecStart", "")
    is_foreground = bool(_FOREGROUND.search(start)) and not _BACKGROUND.search(start)
    return unit.get("Type") == "forking" and is_foreground


def of_one(unit: Mapping[str, str]) -> Iterator[Hazard]:
    """What a unit alone tells."""
    is_forking = unit.get("Type") == "forking"
    if is_forking and unit.get("ActiveState") == "active" and unit.get("MainPID") == "0":
        yield Hazard(
            "systemd knows no main process of it, as of a unit with several nodes: they are stopped"
            " all at once, and how each of them ended cannot be told",
            _OWN_UNITS,
            forbids=True,
        )
    if never_comes_up(unit):
        limit = unit.get("TimeoutStartUSec") or "TimeoutStartSec="
        yield Hazard(
            f"it is Type=forking, and its command does not fork: after {limit} systemd takes the"
            " start for failed and ends it, with what it runs",
            "Set Type=exec (before systemd 240: simple), or let it fork: celery multi, --detach.",
        )


def of_neighbours(found: Mapping[ServiceRef, Mapping[str, str]]) -> dict[ServiceRef, list[Hazard]]:
    """Units that remove a RuntimeDirectory= of others when they stop, and the pidfiles in it.

    `celery multi stopwait` then finds no pidfile, says DOWN at once, and systemd signals every
    process of the unit.
    """
    users: dict[str, list[ServiceRef]] = {}
    for service, unit in found.items():
        for name in unit.get("RuntimeDirectory", "").split():
            users.setdefault(name, []).append(service)
    hazards: dict[ServiceRef, list[Hazard]] = {}
    for name, sharing in users.items():
        for service in sharing if len(sharing) > 1 else ():
            if found[service].get("RuntimeDirectoryPreserve", "no") != "no":
                continue
            others = [one.name for one in sharing if one != service]
            told = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
            says = f"when it stops, systemd removes /run/{name} with the pidfiles of {told}"
            fix = "Give each its own (RuntimeDirectory=celery-%i), or RuntimeDirectoryPreserve=yes."
            hazards.setdefault(service, []).append(Hazard(says, fix))
    return hazards
