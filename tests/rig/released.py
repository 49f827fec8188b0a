"""Two releases of the application on three hosts: a link tells which one is in use.

Both know `rig.work` and its like; `r2`, which is in use at the beginning, knows `rig.novel` as
well, and what else a test gives it. Beat sends `rig.tick` each second; each tick notes who sent it,
and which release ran it.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.rig.host_fleet import BEAT_UNIT, UNIT, host_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet

OLD, NEW = "r1", "r2"
RELEASES = "/srv/app/releases"
LINK = "/srv/app/current"
PLACE = {"WorkingDirectory": LINK}
_EACH = """
import json as _json

@app.task(name="rig.tick", bind=True)
def tick(self):
    note = {"at": time.time(), "release": RELEASE, "id": self.request.id}
    counts.rpush("ticks", _json.dumps({**note, "origin": self.request.origin}))

each_second = {"task": "rig.tick", "schedule": 1.0, "options": {"queue": "common"}}
app.conf.beat_schedule = {"tick": each_second}
"""
NOVEL = """
@app.task(name="rig.novel")
def novel(number, seconds=0.0):
    counts.hincrby("start", number, 1)
    counts.hincrby("end", number, 1)
"""
FAILING = """
class Bad:
    def __getattr__(self, name):
        raise ValueError("a bad release")

counts = Bad()
"""
TASKS = (*("sh", "-c", r'sed -n "s/.*name=\"\(rig[.a-z_]*\)\".*/\1/p" "$1/rigapp.py"', "tasks"),)
"""Prints the names of the tasks in a release's directory."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One run of the periodic task: when, by which release, and who had sent it."""

    at: float
    release: str
    origin: str
    id: str


@contextlib.contextmanager
def released_fleet(
    folder: Path, *hosts: str, new: str = NOVEL, old: str = "", **how: Any
) -> Iterator[HostFleet]:
    """Hosts on which `r2` is in use, and `r1` can be; `new` and `old` are further code of each."""
    code = {OLD: old, NEW: new}

    def files(application: str) -> dict[str, str]:
        return {
            f"{RELEASES[1:]}/{name}/rigapp.py": "\n".join(
                [application, f'RELEASE = "{name}"', textwrap.dedent(_EACH), textwrap.dedent(more)]
            )
            for name, more in code.items()
        }

    unit = {**UNIT, **PLACE, **how.pop("unit", {})}
    with host_fleet(
        folder,
        *hosts,
        unit=unit,
        beats=True,
        beat={**BEAT_UNIT, **PLACE},
        files=files,
        links={LINK[1:]: f"releases/{NEW}"},
        settings={
            "probe": {"task": "rig.ping", "queues": ["common"], "timeout": "20s"},
            "release": {"symlink": {"current": LINK, "releases": RELEASES, "tasks": list(TASKS)}},
        },
        **how,
    ) as made:
        for host in list(made.hosts.values())[1:]:
            host.run("systemctl", "disable", "--now", "celery-beat")
        for host in made.hosts.values():
            # Whoever logs in there to look is not who runs it.
            host.run("chmod", "-R", "a+rX", RELEASES)
        yield made


def current(fleet: HostFleet) -> dict[str, str]:
    """What the link of each host leads to."""
    return {name: host.run("readlink", "-f", LINK).strip().rpartition("/")[2]
            for name, host in fleet.hosts.items()}  # fmt: skip


def ticks(fleet: HostFleet) -> list[Tick]:
    """All that have run, in order."""
    with fleet.server.client(1) as counts:
        return [Tick(**json.loads(one)) for one in counts.lrange("ticks", 0, -1)]
