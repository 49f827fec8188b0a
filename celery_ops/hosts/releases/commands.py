"""Releases that are whatever some commands say."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts.releases import looks
from celery_ops.model import HostReleases
from celery_ops.ports import Command, ReleasesReading

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.config.contexts import CommandRelease
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Completed

_HELD, _MISSING = 75, 66
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Commands:
    """The ReleaseLayout port for commands of the user's own.

    Which release a process runs is not told by them: it follows from when it began.
    """

    release: CommandRelease

    def look(self, pids: Collection[int]) -> Command:
        listing = ""
        if self.release.releases is not None:
            listing = f"{shlex.join(self.release.releases)} | sed 's/^/release=/'\n"
        current = shlex.join(self.release.current)
        script = f'now=$({current}) || exit\nprintf "link=%s\\n" "$now"\n{listing}{looks.BEGAN}'
        return Command(("sh", "-c", script, "celery-ops", *map(str, sorted(pids))), shown=current)

    def read(self, completed: Completed) -> ReleasesReading:
        lines = looks.lines_of(completed)
        listed = [one.strip() for one in lines.get("release", ())]
        return ReleasesReading(
            HostReleases(
                lines.get("link", [""])[0].strip() or None,
                None if self.release.releases is None else tuple(one for one in listed if one),
            ),
            at=looks.number(lines, "at") or 0.0,
            started=looks.began(lines),
        )

    def why_not(self, service: ServiceRef) -> str:
        """Whoever starts it is told nothing by us: it is seen afterwards."""
        del service
        return ""

    def activate(self, release: str, *, expect: str | None) -> Command:
        """Looked at right before: a switch by somebody else in that moment is not told apart."""
        named = shlex.quote(looks.checked(release))
        lines = [f"now=$({shlex.join(self.release.current)}) || exit"]
        lines.append(f'if [ "$now" = {named} ]; then exit 0; fi')
        if expect is not None:
            held = f'printf "%s\\n" "$now"; exit {_HELD}'
            lines.append(f'if [ "$now" != {shlex.quote(expect)} ]; then {held}; fi')
        if self.release.exists is not None:
            lines.append(f"{shlex.join(self.release.exists)} {named} >&2 || exit {_MISSING}")
        act = f"{shlex.join(self.release.activate)} {named}"
        lines.append(f"{act} >&2")
        return Command(("sh", "-c", "\n".join(lines), "celery-ops"), shown=act)

    def read_activated(self, release: str, completed: Completed) -> None:
        match completed.code:
            case 0:
                return
            case 75:
                now = completed.out.decode("utf-8", "replace").strip()
                raise looks.held(now)
            case 66:
                raise CommandFailed(f"there is no release {shown(release)}.")
            case _:
                act = f"{shlex.join(self.release.activate)} {shlex.quote(release)}"
                raise CommandFailed(f"{act[:_SHOWN]} failed: {looks.said(completed)}.")

    def tasks(self, release: str, *, pid: int | None) -> Command | None:
        """The worker's pid is in its environment: CELERY_OPS_WORKER_PID."""
        if self.release.tasks is None:
            return None
        worker = () if pid is None else (("CELERY_OPS_WORKER_PID", str(pid)),)
        return Command((*self.release.tasks, looks.checked(release)), env=worker)

    def read_tasks(self, release: str, completed: Completed) -> frozenset[str]:
        return looks.names_of_tasks(release, completed)
