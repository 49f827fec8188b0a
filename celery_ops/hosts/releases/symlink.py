"""Releases that are directories, with a link to the one in use.

A process is seen to run a release by its working directory, which the kernel tells with every link
resolved, or by its command line. The link is switched by a rename: there is no moment without it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts.releases import looks
from celery_ops.model import HostReleases
from celery_ops.model.releases import in_order
from celery_ops.ports import Command, ReleasesReading

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.config.contexts import SymlinkRelease
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Completed

_LIST = r"""
list() {
    for one in "$1"/*; do
        if [ -d "$one" ] && [ ! -L "$one" ]; then printf 'release=%s\n' "${one##*/}"; fi
    done
}
"""
LOOK = (
    _LIST
    + r"""
link=$1 base=$(readlink -f -- "$2")
shift 2
printf 'link=%s\nbase=%s\n' "$(readlink -f -- "$link")" "$base"
stat -c 'switched=%Z' -- "$link"
date '+now=%s'
list "$base"
for pid in "$@"; do
    printf 'seen=%s %s\n' "$pid" "$(readlink "/proc/$pid/cwd")"
    tr '\0' '\n' < "/proc/$pid/cmdline" | grep -aF "$base/" | sed "s/^/seen=$pid /"
done 2>/dev/null
"""
    + looks.BEGAN
)
"""Arguments: the link, the directory of the releases, and pids. Its change is that of the link
itself: the moment of the rename that put it there."""

ACTIVATE = (
    _LIST
    + r"""
link=$1 base=$(readlink -f -- "$2") release=$3 expect=$4
if [ ! -d "$base/$release" ]; then echo effect=missing; list "$base"; exit; fi
if [ -e "$link" ] && [ ! -L "$link" ]; then echo effect=none; exit; fi
now=$(readlink -f -- "$link")
if [ "$now" = "$base/$release" ]; then echo effect=same; exit; fi
if [ -n "$expect" ] && [ "${now##*/}" != "$expect" ]; then
    printf 'effect=held\nnow=%s\n' "${now##*/}"
    exit
fi
to=$base/$release old=$(readlink -- "$link")
case $old in
/*) if [ "$(readlink -f -- "${old%/*}/$release")" = "$to" ]; then to=${old%/*}/$release; fi ;;
*/*)
    beside=${link%/*}/${old%/*}/$release
    if [ "$(readlink -f -- "$beside")" = "$to" ]; then to=${old%/*}/$release; fi ;;
esac
next=$link.celery-ops.$$
if ln -s -- "$to" "$next" && mv -T -- "$next" "$link"; then echo effect=done; exit; fi
code=$?
rm -f -- "$next"
exit "$code"
"""
)
"""Arguments: the link, the directory of the releases, the release, and the one that is expected to
be current (empty: any). A link that was relative stays so."""

TASKS = r"""
link=$1 base=$(readlink -f -- "$2") release=$3 pid=$4 app=$5 script=$6
if [ ! -d "$base/$release" ]; then echo "there is no $base/$release" >&2; exit 66; fi
there() {
    case $1 in
    "$link"/*) printf '%s' "$base/$release/${1#"$link"/}" ;;
    "$base"/*/*) rest=${1#"$base"/}; printf '%s' "$base/$release/${rest#*/}" ;;
    "$base"/*) printf '%s' "$base/$release" ;;
    *) printf '%s' "$1" ;;
    esac
}
python=$(there "$(tr '\0' '\n' < "/proc/$pid/cmdline" | head -n 1)")
case $python in /*) ;; *) python=$(readlink "/proc/$pid/exe") ;; esac
cd "$(there "$(readlink "/proc/$pid/cwd")")" || exit
exec "$python" -c "$script" "$script" "$pid" "$app" "$link" "$base/$release" < /dev/null
"""
"""Arguments: the link, the directory of the releases, the release, a worker's pid, its application
(empty: as its command line says), and NAMES."""

NAMES = (
    r"""
import json, os, sys
script, pid, app, link, there = sys.argv[1:6]
with open("/proc/%s/cmdline" % pid, "rb") as file:
    words = [os.fsdecode(word) for word in file.read().split(b"\0")]
if os.environ.pop("CELERY_OPS_ENVIRONED", "") != pid:
    with open("/proc/%s/environ" % pid, "rb") as file:
        entries = [os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0")]
    environ = {name: value.replace(link, there) for name, mark, value in entries if mark}
    environ["CELERY_OPS_ENVIRONED"] = pid
    os.execve(sys.executable, [sys.executable, "-c", script, *sys.argv[1:]], environ)
"""
    + looks.TELL_TASKS
)
"""Run by the release's own interpreter, with the environment of the worker that runs now: what it
registers is what the release would register there."""


@dataclass(frozen=True, slots=True)
class Symlink:
    """The ReleaseLayout port for directories and a link.

    `app` is empty where a worker's own command line is to say it.
    """

    release: SymlinkRelease
    app: str = ""

    def look(self, pids: Collection[int]) -> Command:
        """One command; it reads the working directories of our own processes only, or of all as
        root.
        """
        return Command(
            ("sh", "-c", LOOK, "celery-ops", *self._places, *map(str, sorted(pids))),
            env=(("LC_ALL", "C"),),
            shown=shlex.join(["readlink", self.release.current]),
        )

    def read(self, completed: Completed) -> ReleasesReading:
        lines = looks.lines_of(completed)
        base = lines.get("base", [""])[0]
        if not base:
            raise CommandFailed(
                f"There is no directory {shown(self.release.releases)}.",
                fix="`release: symlink: releases:` names the one that has a directory a release.",
            )
        started = looks.began(lines)
        runs: dict[int, str] = {}
        for line in lines.get("seen", ()):
            pid, _, path = line.partition(" ")
            name = _within(base, path)
            if name is not None and pid.isdecimal() and int(pid) in started:
                runs.setdefault(int(pid), name)
        current = _within(base, lines.get("link", [""])[0])
        at = looks.number(lines, "at") or 0.0
        return ReleasesReading(
            HostReleases(current, in_order(set(lines.get("release", ())))),
            at=at,
            since=_since(at, looks.number(lines, "now"), looks.number(lines, "switched")),
            started=started,
            runs=runs,
        )

    def why_not(self, service: ServiceRef) -> str:
        """Whoever starts it is told nothing by us: it is seen afterwards."""
        del service
        return ""

    def activate(self, release: str, *, expect: str | None) -> Command:
        named = looks.checked(release)
        return Command(
            ("sh", "-c", ACTIVATE, "celery-ops", *self._places, named, expect or ""),
            env=(("LC_ALL", "C"),),
            shown=shlex.join(
                ["ln", "-sfn", f"{self.release.releases.rstrip('/')}/{named}", self.release.current]
            ),
        )

    def read_activated(self, release: str, completed: Completed) -> None:
        if completed.code:
            says = looks.said(completed)
            raise CommandFailed(
                f"The link {shown(self.release.current)} cannot be switched: {says}.",
                fix="Who logs in there must be able to write to the directory of the link.",
            )
        lines = dict(
            line.split("=", 1) for line in completed.out.decode().split("\n") if "=" in line
        )
        match lines.get("effect"):
            case "done" | "same":
                return
            case "missing":
                text = completed.out.decode("utf-8", "replace")
                known = in_order(set(re.findall(r"^release=(.*)$", text, re.MULTILINE)))
                raise looks.missing(release, known)
            case "none":
                says = f"{shown(self.release.current)} is there and is no link: it is left alone."
                raise CommandFailed(says)
            case _:
                raise looks.held(lines.get("now", ""))

    def tasks(self, release: str, *, pid: int | None) -> Command | None:
        """Asked of the release itself, by its own interpreter in the place of the worker's."""
        named = looks.checked(release)
        if self.release.tasks is not None:
            return Command((*self.release.tasks, f"{self.release.releases.rstrip('/')}/{named}"))
        if pid is None:
            return None
        return Command(
            ("sh", "-c", TASKS, "celery-ops", *self._places, named, str(pid), self.app, NAMES),
            env=(("LC_ALL", "C"),),
            shown=f"import {self.app or 'the application'} of {named} and list its tasks",
        )

    def read_tasks(self, release: str, completed: Completed) -> frozenset[str]:
        if self.release.tasks is not None:
            return looks.names_of_tasks(release, completed)
        return looks.told_tasks(
            release,
            completed,
            fix="Log in as the workers' user there, or write `tasks:` below `symlink:`,"
            " a command that prints them.",
        )

    @property
    def _places(self) -> tuple[str, str]:
        return self.release.current, self.release.releases


def _since(at: float, now: float | None, switched: float | None) -> float | None:
    """At the latest: both are told in whole seconds."""
    if now is None or switched is None:
        return None
    return min(at, at - (now - switched) + 1.0)


def _within(base: str, path: str) -> str | None:
    """The release that a path is in; None for any other path."""
    if not path.startswith(f"{base}/"):
        return None
    return path[len(base) + 1 :].partition("/")[0].removesuffix(" (deleted)") or None
