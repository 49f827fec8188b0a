"""What every look at releases prints of a host's clock and of its processes, and how it is read.

Processes are told by when they began: one that began after a release became current runs that one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import CommandFailed, UsageError
from celery_ops.model.releases import is_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from celery_ops.ports import Completed

BEGAN = r"""
printf 'ticks=%s\n' "$(getconf CLK_TCK)"
for pid in "$@"; do sed "s/^/stat=/" "/proc/$pid/stat"; done 2>/dev/null
sed 's/^/at=/; s/ .*//' /proc/uptime
"""
"""Arguments: pids. The moment is told last: what began after it is newer than all that was read."""


TELL_TASKS = r"""
sys.path.insert(0, os.getcwd())
for at, word in enumerate(words):
    if not app and word in ("-A", "--app"):
        app = words[at + 1]
    if not app and word.startswith("--app="):
        app = word[6:]
from celery.app.utils import find_app
found = find_app(app or os.environ.get("CELERY_APP") or "celery")
found.finalize()
found.loader.import_default_modules()
print("\ntasks=" + json.dumps(sorted(found.tasks)))
"""
"""Python, for a release's own interpreter: `words` are a worker's command line, `app` what it names
as its application, where that is known otherwise."""
_PRIVATE = "celery."
"""The names of Celery's own tasks, which every release has."""


def checked(release: str) -> str:
    """Raise UsageError for what cannot be a release's name: it becomes a part of a path."""
    if not is_name(release):
        raise UsageError(
            f"{shown(release)} cannot be the name of a release",
            fix="It has letters, digits and . _ + - only: celery-ops releases",
        )
    return release


def lines_of(completed: Completed) -> dict[str, list[str]]:
    """The answer's lines by their keys. Raise CommandFailed if there is none."""
    found = pairs_of(completed)
    if completed.code or "at" not in found:
        raise CommandFailed(f"The releases of the host cannot be read: {said(completed)}.")
    return found


def pairs_of(completed: Completed) -> dict[str, list[str]]:
    """The answer's lines by their keys."""
    found: dict[str, list[str]] = {}
    for line in completed.out.decode("utf-8", "replace").split("\n"):
        key, mark, value = line.partition("=")
        if mark:
            found.setdefault(key, []).append(value)
    return found


def names_of_tasks(release: str, completed: Completed) -> frozenset[str]:
    """What a command printed, one name a word. Raise CommandFailed if it failed."""
    if completed.code:
        raise CommandFailed(f"Which tasks {release} has cannot be told: {said(completed)}.")
    return frozenset(re.findall(r"[^\s,]+", completed.out.decode("utf-8", "replace")))


def told_tasks(release: str, completed: Completed, *, fix: str) -> frozenset[str]:
    """What TELL_TASKS printed, without Celery's own. Raise CommandFailed if it failed."""
    told = re.findall(r"^tasks=(.*)$", completed.out.decode("utf-8", "replace"), re.MULTILINE)
    if completed.code or not told:
        last = completed.err.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
        says = f"Which tasks {release} has cannot be told: {last or said(completed)}."
        raise CommandFailed(says, fix=fix)
    return frozenset(name for name in json.loads(told[-1]) if not name.startswith(_PRIVATE))


def missing(release: str, known: Collection[str]) -> CommandFailed:
    """A release that a host does not have."""
    there = ", ".join(known) or "none"
    return CommandFailed(
        f"there is no release {shown(release)}{did_you_mean(release, known)}.",
        fix=f"There are: {there}.",
    )


def held(now: str) -> CommandFailed:
    """Another release is current than the one that a switch was meant for."""
    return CommandFailed(
        f"The current release is {shown(now)}, another one than was planned for: it is left alone.",
        fix="Look again and plan anew.",
    )


def said(completed: Completed) -> str:
    """What a command said last, in one line."""
    text = " ".join(completed.err.decode("utf-8", "replace").split())[:300]
    return text or f"exit code {completed.code}"


def number(lines: Mapping[str, list[str]], key: str) -> float | None:
    """A number of seconds; None where it is not told."""
    try:
        return float(lines.get(key, [""])[0])
    except ValueError:
        return None


def began(lines: Mapping[str, list[str]]) -> dict[int, float]:
    """When each process began, in seconds since the host was booted: `starttime` of proc(5)."""
    ticks = number(lines, "ticks")
    found: dict[int, float] = {}
    for line in lines.get("stat", ()):
        pid, words = line.partition(" ")[0], line.rpartition(")")[2].split()
        if ticks and pid.isdecimal() and len(words) > 19 and words[19].isdecimal():
            found[int(pid)] = int(words[19]) / ticks
    return found
