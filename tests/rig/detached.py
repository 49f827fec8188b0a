"""Small programs that run in the background as `celery multi` leaves its nodes, or under commands.

What a node is called decides what it does: `stubborn` ignores SIGTERM, `slow` takes a second to
end, `broken` does not start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
from functools import partial
from pathlib import Path

from celery_ops.config.detached import DetachedNode
from celery_ops.config.services import ServiceCommands
from tests.rig import wait_until

_CELERY = textwrap.dedent(
    """
    import os, pathlib, signal, sys, time

    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if word.startswith("--"))
    pidfile = pathlib.Path(options["--pidfile"])
    name = words[2].partition("@")[0]
    if words[0] == "multi":
        if name == "broken":
            sys.exit("The module nope was not found.")
        if os.fork():
            os._exit(0)
        os.setsid()
        program = [sys.executable, "-I", "-S", __file__, "worker", "-n", name + "@here"]
        os.execv(program[0], [*program, "--pidfile=" + str(pidfile)])

    def stop(*_):
        time.sleep(1 if name == "slow" else 0)
        pidfile.unlink()
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if name == "stubborn" else stop)
    pidfile.with_suffix(".new").write_text(str(os.getpid()) + "\\n")
    pidfile.with_suffix(".new").rename(pidfile)
    while True:
        signal.pause()
    """
)
_DAEMON = """\
folder=$1 name=$2
case $name in
stubborn) trap '' TERM ;;
slow) trap 'sleep 1; touch "$folder/$name.clean"; exit' TERM ;;
*) trap 'touch "$folder/$name.clean"; exit' TERM ;;
esac
echo $$ > "$folder/$name.new"
mv "$folder/$name.new" "$folder/$name.pid"
while :; do sleep 0.05; done
"""
_CTL = """\
folder=${0%/*} name=$1
pid=$(cat "$folder/$name.pid" 2>/dev/null)
runs() { [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] && [ -n "$(cat "/proc/$pid/cmdline")" ]; }
case $2 in
status)
    if runs; then echo "pid=$pid"; exit 0; fi
    if [ -e "$folder/$name.clean" ]; then echo clean=yes; elif [ -n "$pid" ]; then echo clean=no; fi
    exit 3 ;;
start)
    if [ "$name" = broken ]; then echo "no such module" >&2; exit 1; fi
    rm -f "$folder/$name.clean" "$folder/$name.pid"
    setsid sh "$folder/daemon" "$folder" "$name" < /dev/null > /dev/null 2>&1 &
    while [ ! -s "$folder/$name.pid" ]; do sleep 0.02; done ;;
stop)
    kill -TERM "$pid" || exit
    while runs; do sleep 0.05; done ;;
esac
"""


def node(folder: Path, name: str) -> DetachedNode:
    """A node of a `celery` that is this rig's; its pidfile is in the folder."""
    program = folder / "celery"
    program.write_text(_CELERY)
    pidfile = folder / f"{name}.pid"
    start = (sys.executable, "-I", "-S", str(program), "multi", "start", name)
    return DetachedNode(str(pidfile), (*start, f"--pidfile={pidfile}"), str(folder / f"{name}.log"))


def controlled(folder: Path, name: str) -> ServiceCommands:
    """The commands for a service of that name; its pid is in the folder."""
    (folder / "ctl").write_text(_CTL)
    (folder / "daemon").write_text(_DAEMON)
    ctl = ("sh", str(folder / "ctl"), name)
    return ServiceCommands((*ctl, "status"), (*ctl, "start"), (*ctl, "stop"))


def is_gone(pid: int) -> bool:
    """Ended; whoever inherited it may not have reaped it yet."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def end_all(folder: Path) -> None:
    """Kill whatever has this folder in its command line: also what has no pidfile yet, and what is
    about to start it.
    """
    wait_until(partial(_ended, folder), what=f"the end of what runs in {folder}")


def _ended(folder: Path) -> bool:
    found = [pid for pid in _numbers() if pid != os.getpid() and _names(pid, folder)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not found


def _numbers() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _names(pid: int, folder: Path) -> bool:
    try:
        return f"{folder}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
