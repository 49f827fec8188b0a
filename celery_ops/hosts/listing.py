"""One look at a Linux host: its Celery processes, what they descend from, and systemd's services.

The command is POSIX sh with grep, and reads what every user may read. Each line of its answer
begins with where it was read, so that no command line can pass for something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.hosts import units
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from celery_ops.ports import Completed

LIST = r"""
printf 'hostname=%s\nuid=%s\nticks=%s\n' "$(uname -n)" "$(id -u)" "$(getconf CLK_TCK)"
read -r uptime rest < /proc/uptime
printf 'uptime=%s\n' "$uptime"
grep -s ' /proc proc ' /proc/self/mounts | sed 's/^/mount=/'
grep -s '@*/.*[.][0-9][0-9]*$' /proc/net/unix | sed 's/^/socket=/'
seen=' '
climb() {
    one=$1
    while [ "$one" -gt 1 ]; do
        case $seen in *" $one "*) return ;; esac
        { read -r line < "/proc/$one/stat"; } 2>/dev/null || return
        seen="$seen$one "
        set -- ${line##*) }
        one=$2
    done
}
for pid in "$@"; do climb "$pid"; done
for file in $(grep -slaE '[c]elery|[s]upervisord' /proc/[0-9]*/cmdline); do
    file=${file%/cmdline}
    climb "${file#/proc/}"
done
set -- /proc/1/cgroup
for pid in $seen; do
    set -- "$@" "/proc/$pid/cmdline" "/proc/$pid/stat" "/proc/$pid/cgroup" "/proc/$pid/status"
done
grep -saHE '' "$@" | grep -aE '^/proc/[0-9]+/((cmdline|stat|cgroup):|status:NSpid:)'
for pid in $seen; do
    folder=$(readlink "/proc/$pid/cwd" 2>/dev/null)
    case $folder in ''|*[!A-Za-z0-9_./@+-]*) ;; *) echo "/proc/$pid/cwd:$folder" ;; esac
done
echo services=
[ -n "$unasked" ] && exit 0
command -v systemctl >/dev/null 2>&1 || exit 0
cd /
names=
for unit in $(grep -lsE '^Exec.*[c]elery' /etc/systemd/system/*.service \
    /run/systemd/system/*.service /usr/local/lib/systemd/system/*.service \
    /usr/lib/systemd/system/*.service /lib/systemd/system/*.service | sed 's,.*/,,' | sort -u); do
    case $unit in
    *@.service)
        for link in /etc/systemd/system/*.wants/"${unit%.service}"*.service; do
            [ -L "$link" ] && names="$names ${link##*/}"
        done ;;
    *) names="$names $unit" ;;
    esac
done
systemctl show -p Id,LoadState,ActiveState,Type,MainPID,ExecStart -- '*.service' $names 2>/dev/null
exit 0
"""
"""Arguments: pids to look at whatever their command lines are. With `unasked` in its environment
systemd is not asked.
"""

_LINE = re.compile(r"/proc/(?P<pid>\d+)/(?P<file>cmdline|stat|cgroup|status|cwd):(?P<text>.*)")
_SOCKET = re.compile(r" (?P<path>/\S+)\.(?P<pid>\d+)$")
_LISTENS = "00010000"
_ARGV = re.compile(r"argv\[\]=(.*?) ; ignore_errors=")
_HIDDEN = re.compile(r"\bhidepid=(?:[1-9]|noaccess|invisible|ptraceable)")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc shows it. `age` in seconds; `groups` is its cgroup file; `handles` has a
    bit for each signal that it has a handler for, or waits for (bit 0 is signal 1).

    `folder` is where it works; empty where that may not be seen, or has no plain name.
    """

    pid: int
    parent: int
    age: float | None
    arguments: tuple[str, ...]
    groups: str
    inner_pid: int | None = None
    folder: str = ""
    handles: int | None = None

    def heeds(self, number: int) -> bool | None:
        """Whether that signal makes it do something of its own; None: it cannot be seen."""
        return None if self.handles is None else bool(self.handles >> (number - 1) & 1)


@dataclass(frozen=True, slots=True)
class Unit:
    """A service as systemd knows it; `arguments` is its ExecStart."""

    name: str
    main_pid: int | None
    is_active: bool
    is_forking: bool
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What was seen. `sockets` are where supervisords listen, by their pids."""

    hostname: str
    is_root: bool
    hides_processes: bool
    truncated: bool
    root_groups: str
    processes: Mapping[int, Process] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    sockets: Mapping[int, str] = field(default_factory=dict)


def processes_command() -> Command:
    """The look at the processes alone."""
    return Command(
        argv=("sh", "-c", LIST, "sh"),
        env=(("LC_ALL", "C"), ("TZ", "UTC"), ("unasked", "yes")),
        shown="look at the Celery processes in /proc",
    )


def command(pids: Collection[int]) -> Command:
    """The look; these pids are looked at too."""
    numbers = [str(pid) for pid in sorted(set(pids)) if pid > 0]
    return Command(
        argv=("sh", "-c", LIST, "sh", *numbers),
        env=(("LC_ALL", "C"), ("TZ", "UTC")),
        shown="look at the Celery processes in /proc, and systemctl show '*.service'",
    )


def read(completed: Completed) -> Listing:
    """What the command printed. Raise CommandFailed if it is no answer of it."""
    head, mark, services = completed.out.partition(b"\nservices=\n")
    lines = head.decode("utf-8", "replace").split("\n")
    facts = dict(line.split("=", 1) for line in lines[:4] if "=" in line)
    if completed.code or "hostname" not in facts or not (mark or completed.truncated):
        said = " ".join(completed.err.decode("utf-8", "replace").split())[:200]
        why = said or f"exit code {completed.code}"
        raise CommandFailed(f"The host's processes cannot be listed: {why}.")
    if not facts.get("uptime"):
        raise CommandFailed("It has no /proc: only Linux hosts can be looked at.")
    files = _files(lines)
    is_root = facts.get("uid") == "0"
    return Listing(
        hostname=facts["hostname"],
        is_root=is_root,
        hides_processes=not is_root
        and any(line.startswith("mount=") and _HIDDEN.search(line) for line in lines),
        truncated=completed.truncated,
        root_groups="\n".join(files.get((1, "cgroup"), ())),
        processes=processes(lines, facts),
        units={unit.name: unit for unit in map(_unit, units.blocks(services)) if unit.name},
        sockets=_sockets(lines),
    )


def _files(lines: list[str]) -> dict[tuple[int, str], list[str]]:
    found: dict[tuple[int, str], list[str]] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is not None:
            found.setdefault((int(match["pid"]), match["file"]), []).append(match["text"])
    return found


def processes(lines: list[str], facts: Mapping[str, str]) -> dict[int, Process]:
    """The processes of such lines; without `uptime` and `ticks` their ages are not known."""
    files, found = _files(lines), {}
    for (pid, file), text in files.items():
        # The name in parentheses may hold anything, parentheses too: proc(5).
        stat = "\n".join(text).rpartition(")")[2].split()
        if file != "stat" or len(stat) < 20 or not stat[1].isdecimal():
            continue
        words = "\n".join(files.get((pid, "cmdline"), ())).split("\0")
        while words and not words[-1]:
            words.pop()
        status = dict(line.split(":", 1) for line in files.get((pid, "status"), ()) if ":" in line)
        found[pid] = Process(
            pid=pid,
            parent=int(stat[1]),
            age=_age(stat[19], facts),
            arguments=tuple(words),
            groups="\n".join(files.get((pid, "cgroup"), ())),
            inner_pid=_inner_pid(status.get("NSpid", "")),
            handles=_handles(status),
            folder=files.get((pid, "cwd"), [""])[0],
        )
    return found


def _age(ticks: str, facts: Mapping[str, str]) -> float | None:
    try:
        return float(facts["uptime"]) - int(ticks) / int(facts["ticks"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def _inner_pid(pids_of: str) -> int | None:
    """`4123 7`: the pid here, and in each namespace within."""
    pids = pids_of.split()
    return int(pids[-1]) if len(pids) > 1 and pids[-1].isdecimal() else None


def _handles(status: Mapping[str, str]) -> int | None:
    """What is caught, and what is blocked: an init waits for that (sigwait)."""
    masks = [status.get(key, "").strip() for key in ("SigBlk", "SigCgt")]
    if not all(re.fullmatch("[0-9a-f]{1,16}", mask) for mask in masks):
        return None
    return int(masks[0], 16) | int(masks[1], 16)


def _unit(properties: Mapping[str, str]) -> Unit:
    pid = properties.get("MainPID", "0")
    is_loaded = properties.get("LoadState") in {"loaded", "masked"}
    return Unit(
        name=properties.get("Id", "") if is_loaded else "",
        main_pid=int(pid) if pid.isdecimal() and pid != "0" else None,
        is_active=properties.get("ActiveState") not in {"inactive", "failed"},
        is_forking=properties.get("Type") == "forking",
        arguments=_arguments(properties.get("ExecStart", "")),
    )


def _arguments(exec_start: str) -> tuple[str, ...]:
    """systemctl shows them without quotes: what `sh -c` is given may be one, or several."""
    argv = _ARGV.search(exec_start)
    words = argv[1].split() if argv else []
    is_script = [one for one in words[1:2] if re.fullmatch(r"-\w*c", one)]
    return (*words[:2], " ".join(words[2:])) if is_script else tuple(words)


def _sockets(lines: list[str]) -> dict[int, str]:
    """supervisord binds its socket as PATH.PID and links it to PATH: supervisor.http."""
    found = {}
    for line in lines:
        match = _SOCKET.search(line)
        if line.startswith("socket=") and match is not None and f" {_LISTENS} " in line:
            found[int(match["pid"])] = f"unix://{match['path']}"
    return found
