"""Asks a host how it is doing: the one command, and what it prints.

A script for the POSIX shell that reads `/proc` and asks `df`, nothing more: two programs are
started, and none of them looks at a file system that may hang (NFS, FUSE). What is missing on a
host is missing in the answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.model import Disk, HostFacts
from celery_ops.ports import Command, HostReading, ProcessTree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from celery_ops.ports import Completed

TICKS = 100
"""Clock ticks a second, in which Linux tells CPU time (`USER_HZ`, the same on all its usual
machines)."""
DISKS = "disks"

# Children are listed with the thread that forked them. A mount point with a backslash has blanks or
# worse in its name, and is left out. A file system that is only read is always full and stays so.
SCRIPT = f"""\
files=
for root; do
    tree= left=$root depth=0
    while [ -n "$left" ] && [ "$depth" -lt 9 ]; do
        found= depth=$((depth + 1))
        for pid in $left; do
            tree="$tree $pid" files="$files /proc/$pid/stat /proc/$pid/status"
            for list in /proc/$pid/task/*/children; do
                children=
                {{ read -r children <"$list"; }} 2>/dev/null
                found="$found $children"
            done
        done
        left=${{found#"${{found%%[! ]*}}"}}
    done
    [ -r /proc/$$/task/$$/children ] && echo "tree$tree"
done
grep -saHE '^([0-9]|cpu[0-9]|MemTotal:|MemAvailable:|VmRSS:)' \
    /proc/loadavg /proc/uptime /proc/meminfo /proc/stat $files 2>/dev/null
set --
[ -r /proc/mounts ] || set -- /
while read -r _ at kind options _; do
    case $at in *\\\\* | /boot | /boot/* | /efi | /run/?* | /media/*) continue ;; esac
    case $options in ro | ro,*) continue ;; esac
    case $at:$kind in
    *:nfs* | *:cifs | *:smb* | *:fuse* | *:9p | *:ceph | *:autofs) ;;
    /:* | /run:* | /tmp:* | /dev/shm:* | /var/log:* | \\
    *:ext[234] | *:xfs | *:btrfs | *:zfs | *:f2fs | *:jfs | *:reiserfs | *:bcachefs)
        set -- "$@" "$at" ;;
    esac
done 2>/dev/null </proc/mounts
echo {DISKS}
[ $# -gt 0 ] && df -Pk "$@" 2>/dev/null
exit 0
"""
"""Arguments: the main processes whose descendants are wanted."""

# No number of a real host is longer; longer ones would not fit elsewhere.
_WHOLE = re.compile(r"[0-9]{1,15}")
_DECIMAL = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_MEMORY = re.compile(r"(\w+):\s+([0-9]{1,15}) kB")
_CPU = re.compile(r"cpu\d+ ")


def ask(pids: Collection[int]) -> Command:
    """One command for the host and the processes below these."""
    argv = ("sh", "-c", SCRIPT, "celery-ops", *map(str, sorted(pids)))
    return Command(argv, env=(("LC_ALL", "C"),), shown="cat /proc/loadavg … && df -Pk")


def read(completed: Completed) -> HostReading:
    """What it told. Raise CommandFailed if there is no shell that runs such a script."""
    if completed.code:
        says = completed.err.decode("utf-8", "replace").strip() or f"exit code {completed.code}"
        raise CommandFailed(f"The host's facts cannot be read: {says[:200]}.")
    lines = completed.out.decode("utf-8", "replace").split("\n")
    if completed.truncated:
        lines.pop()
    end = lines.index(DISKS) if DISKS in lines else len(lines)
    by_file: dict[str, list[str]] = {}
    for line in lines[:end]:
        file, colon, text = line.partition(":")
        if colon and file.startswith("/proc/"):
            by_file.setdefault(file, []).append(text)
    return HostReading(_facts(by_file, lines[end + 1 :]), _trees(lines[:end], by_file))


def _facts(by_file: Mapping[str, Sequence[str]], df: Sequence[str]) -> HostFacts:
    memory = _kilobytes(by_file.get("/proc/meminfo", ()))
    uptime = _numbers(by_file.get("/proc/uptime", ()), 1)
    load = _numbers(by_file.get("/proc/loadavg", ()), 3)
    cpus = sum(_CPU.match(line) is not None for line in by_file.get("/proc/stat", ()))
    return HostFacts(
        load=(load[0], load[1], load[2]) if load else None,
        cpus=cpus or None,
        memory=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        disks=_disks(df),
        uptime=uptime[0] if uptime else None,
    )


def _disks(df: Iterable[str]) -> tuple[Disk, ...] | None:
    """Each file system once, by its shortest name: a bind mount shows the same one again."""
    found: dict[tuple[str, str], Disk] = {}
    for line in df:
        words = line.rsplit(None, 5)
        if len(words) < 6 or not all(map(_WHOLE.fullmatch, words[1:4])):
            continue
        size, used, available = (int(word) * 1024 for word in words[1:4])
        if size == 0 or not words[5].startswith("/"):
            continue
        # The source of a tmpfs says nothing: any number of them bear the same name.
        same = (words[0], words[1]) if words[0].startswith("/") else (words[5], "")
        disk = Disk(words[5], size, used, available)
        known = found.get(same)
        if known is None or len(disk.mount) < len(known.mount):
            found[same] = disk
    return tuple(sorted(found.values(), key=lambda disk: disk.mount)) or None


def _trees(lines: Iterable[str], by_file: Mapping[str, Sequence[str]]) -> dict[int, ProcessTree]:
    trees = {}
    for line in lines:
        word, _, rest = line.partition(" ")
        pids = [int(pid) for pid in rest.split() if _WHOLE.fullmatch(pid)] if word == "tree" else []
        tree = _tree(pids, by_file) if pids else None
        if tree is not None:
            trees[pids[0]] = tree
    return trees


def _tree(pids: Sequence[int], by_file: Mapping[str, Sequence[str]]) -> ProcessTree | None:
    """None where the first, the main process, is gone or hidden. Others may have ended by now."""
    found = [stat for pid in dict.fromkeys(pids) if (stat := _stat(pid, by_file)) is not None]
    if not found or found[0].pid != pids[0]:
        return None
    sizes = [stat.memory for stat in found]
    return ProcessTree(
        processes=len(found),
        memory=None if None in sizes else sum(size for size in sizes if size is not None),
        cpu=sum(stat.ticks for stat in found) / TICKS,
        started=found[0].started,
    )


class _Stat:
    """One line of /proc/PID/stat (man 5 proc): of the processes waited for the time counts too."""

    __slots__ = ("memory", "pid", "started", "ticks")

    def __init__(self, pid: int, words: Sequence[str], memory: int | None) -> None:
        self.pid = pid
        self.ticks = sum(int(word) for word in words[11:15])
        self.started = int(words[19])
        self.memory = 0 if words[0] in {"Z", "X"} else memory


def _stat(pid: int, by_file: Mapping[str, Sequence[str]]) -> _Stat | None:
    for line in by_file.get(f"/proc/{pid}/stat", ()):
        # A process gives itself a name of any kind, so what counts comes after the last bracket.
        words = line.rpartition(")")[2].split()
        if len(words) > 19 and all(map(_WHOLE.fullmatch, (*words[11:15], words[19]))):
            memory = _kilobytes(by_file.get(f"/proc/{pid}/status", ()))
            return _Stat(pid, words, memory.get("VmRSS"))
    return None


def _kilobytes(lines: Iterable[str]) -> dict[str, int]:
    """`NAME: 12 kB` in bytes."""
    matches = [match for line in lines if (match := _MEMORY.match(line))]
    return {match[1]: int(match[2]) * 1024 for match in reversed(matches)}


def _numbers(lines: Iterable[str], count: int) -> list[float] | None:
    """The first numbers of the first line."""
    words = next(iter(lines), "").split()[:count]
    if len(words) < count or not all(map(_DECIMAL.fullmatch, words)):
        return None
    return [float(word) for word in words]
