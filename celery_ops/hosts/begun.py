"""What was begun on a host where no supervisor remembers it: a start or a stop, and its outcome.

Functions for scripts in POSIX sh. The notes lie in a folder of the user who logs in, which a reboot
clears: to another user's eyes a service that stops is one that still runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.hosts.units import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.model import ServiceRef

LIBRARY = r"""
IFS=- read -r boot rest < /proc/sys/kernel/random/boot_id
room=${1:-/tmp}/celery-ops-$(id -u)
enter() {
    (umask 077; mkdir "$room") 2>/dev/null
    [ -d "$room" ] && [ ! -L "$room" ] && [ -O "$room" ]
}
life() {
    { IFS= read -r line < "/proc/$1/stat"; } 2>/dev/null || return 1
    set -- "$1" ${line##*) }
    case $2 in Z|X|x) return 1 ;; esac
    printf '%s:%s:%s' "$boot" "$1" "${21}"
}
begin() {
    enter || { printf 'room=%s\nEffect=room\n' "$room"; exit 0; }
    verb=$1
    shift
    rm -f "$room/$key.code"
    setsid sh -c 'code=$1; shift; "$@"; echo $? > "$code"' sh "$room/$key.code" "$@" \
        > "$room/$key.out" 2>&1 < /dev/null &
    printf '%s %s\n' "$verb" "$(life $!)" > "$room/$key.job"
}
recall() {
    verb= begun= code=
    enter || return
    { read -r verb begun < "$room/$key.job"; } 2>/dev/null || return
    { read -r code < "$room/$key.code"; } 2>/dev/null
}
goes_on() {
    recall
    [ "$verb" = "$1" ] && [ -z "$code" ] && [ -n "$begun" ] || return
    one=${begun#*:}
    [ "$(life "${one%:*}")" = "$begun" ]
}
tell() {
    recall
    [ -n "$verb" ] || return
    printf 'verb=%s\nbegun=%s\n' "$verb" "$begun"
    if [ -n "$code" ]; then
        printf 'ended=%s %s\n' "$code" "$(($(date +%s) - $(stat -c %Y "$room/$key.code")))"
        tail -c 600 "$room/$key.out" | sed 's/^/printed=/'
        echo
    elif goes_on "$verb"; then
        echo goes_on=yes
    fi
}
"""
"""Expects the folder for notes as `$1` (empty: /tmp), and in `key` what a service's are called.

`life` prints what tells the lives of a process apart: boot, pid, and start in clock ticks; nothing
of one that is gone, or that only waits to be reaped. `begin VERB ARGV` runs it in the background.
"""

CLOCK = r"""
printf 'hertz=%s\n' "$(getconf CLK_TCK)"
grep '^btime ' /proc/stat | tr ' ' =
"""
"""Prints what turns ticks since the boot into a time of day."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The last start or stop that was begun from here.

    `life` is that of the process it was done to, or that does it. `code` is its exit code and `ago`
    how many seconds ago it ended; None while `goes_on`, and where nobody knows. `printed` are its
    last words: two lines at most.
    """

    verb: str = ""
    life: str = ""
    goes_on: bool = False
    code: int | None = None
    ago: int = 0
    printed: str = ""


def key(*words: str) -> str:
    """What the notes of a service are called: another for one that is defined otherwise."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def blocks(out: bytes, start: str) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """What a script printed: the lines before the first block, and each block by its key.

    A block begins with `START=KEY`; its lines are pairs, for names that occur more than once.
    """
    head: dict[str, str] = {}
    found: dict[str, list[tuple[str, str]]] = {}
    block: list[tuple[str, str]] | None = None
    for line in text_of(out).split("\n"):
        name, is_pair, value = line.partition("=")
        if name == start:
            block = found.setdefault(value, [])
        elif is_pair and block is None:
            head[name] = value
        elif is_pair and block is not None:
            block.append((name, value))
    return head, found


def begun(block: Iterable[tuple[str, str]]) -> Begun:
    """What `tell` printed."""
    pairs = list(block)
    told = dict(pairs)
    code, _, ago = told.get("ended", "").partition(" ")
    lines = [value.strip() for name, value in pairs if name == "printed" and value.strip()]
    return Begun(
        verb=told.get("verb", ""),
        life=told.get("begun", ""),
        goes_on="goes_on" in told,
        code=int(code) if code.isdecimal() else None,
        ago=int(ago) if ago.isdecimal() else 0,
        printed=" ".join(" ".join(lines[-2:]).split())[-300:],
    )


def no_room(service: ServiceRef, room: str) -> CommandFailed:
    """Nothing was begun: what `begin` says where no notes can be kept."""
    return CommandFailed(
        f"{service} was left alone: what is begun cannot be noted in {room}, which cannot be made,"
        " or is somebody else's.",
        fix=f"See, on {service.host}: ls -ld {room}",
    )


def start_of(life: str, clock: Mapping[str, str]) -> datetime | None:
    """When that life began, by what CLOCK printed."""
    try:
        ticks, hertz = int(life.rpartition(":")[2]), int(clock["hertz"])
        return datetime.fromtimestamp(int(clock["btime"]) + ticks / hertz, UTC)
    except (KeyError, ValueError, ZeroDivisionError, OverflowError):
        return None
