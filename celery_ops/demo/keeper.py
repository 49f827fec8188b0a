"""Runs a demo's servers, and ends everything when the demo's owner is gone.

A small process of its own, in its own session: it survives what kills the owner (Ctrl-C, a closed
terminal, kill -9) and then cleans up. It is also the parent of what supervisord leaves behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config.secret import MASK
from celery_ops.demo import registry
from celery_ops.demo.layout import Addresses, Layout
from celery_ops.demo.lifecycle import READY
from celery_ops.demo.processes import Process, identify
from celery_ops.errors import OpsError

if TYPE_CHECKING:
    from asyncio.subprocess import Process as Child
    from collections.abc import Sequence

_UP_WITHIN = 30.0
_POLL = 0.05
_WATCH_INTERVAL = 0.25
_LAST_WORDS = 15
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class _Server:
    """A child that must be up before the demo is, and whose end ends the demo."""

    name: str
    command: tuple[str, ...]
    socket: Path
    log: Path


def main(arguments: Sequence[str]) -> int:
    """Keep one demo. `arguments`: its name, its directory, a Redis server, and the owner or `-`."""
    name, directory, server, owner = arguments
    layout = Layout(Path(directory))
    os.chdir(layout.directory)
    _adopt_orphans()
    me = identify(os.getpid())
    if me is None:
        raise OpsError("/proc is not readable: a demo cannot be watched over.")
    demo = registry.Demo(
        name=name,
        directory=layout.directory,
        config=layout.config,
        keeper=me,
        owner=None if owner == "-" else Process.parse(owner),
        started_at=registry.now(),
    )
    try:
        registry.enter(demo)
        asyncio.run(_keep(demo, _servers(layout, Path(server))))
    except (OpsError, OSError) as error:
        _say(_without_password(layout, str(error)))
        return 1
    else:
        return 0
    finally:
        # A second request to stop must not interrupt the cleaning up that the first one asked for.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        registry.clear(demo)
        _reap()


async def _keep(demo: registry.Demo, servers: Sequence[_Server]) -> None:
    """Return when the demo is to end. Raise OpsError if a server did not come up."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    children: list[Child] = []
    try:
        for server in servers:
            child = await _spawn(server)
            children.append(child)
            await _up(server, child)
        _say(READY)
        while not stopped.is_set() and _goes_on(demo, children):
            _reap(spare=[child.pid for child in children])
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _WATCH_INTERVAL)
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _goes_on(demo: registry.Demo, children: Sequence[Child]) -> bool:
    owned = demo.owner is None or demo.owner.alive
    return owned and all(child.returncode is None for child in children)


def _servers(layout: Layout, redis_server: Path) -> tuple[_Server, ...]:
    return (
        _Server(
            name="Redis",
            command=(str(redis_server), str(layout.redis_config)),
            socket=layout.redis_socket,
            log=layout.logs / "redis.log",
        ),
        _Server(
            name="supervisord",
            command=(
                *(sys.executable, "-m", "supervisor.supervisord", "--silent"),
                *("--configuration", str(layout.supervisor_config)),
            ),
            socket=layout.supervisor_socket,
            log=layout.logs / "supervisord.log",
        ),
    )


async def _spawn(server: _Server) -> Child:
    # What it prints before it has a log goes into ours.
    return await asyncio.create_subprocess_exec(
        *server.command, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr
    )


async def _up(server: _Server, child: Child) -> None:
    """Return when the server accepts connections; raise OpsError if it ends or takes too long.

    Its unix socket is the proof: a TCP port could be another's, and Redis opens it before.
    """
    deadline = asyncio.get_running_loop().time() + _UP_WITHIN
    while True:
        if child.returncode is not None:
            raise OpsError(f"{server.name} ended at once:\n{_last_words(server)}")
        try:
            _, writer = await asyncio.open_unix_connection(server.socket)
        except OSError as error:
            if asyncio.get_running_loop().time() > deadline:
                says = f"{server.name} did not come up in {_UP_WITHIN:.0f} s"
                raise OpsError(f"{says}:\n{_last_words(server)}") from error
            await asyncio.sleep(_POLL)
            continue
        writer.close()
        await writer.wait_closed()
        return


def _last_words(server: _Server) -> str:
    for log in (server.log, server.log.parent / "keeper.log"):
        with suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()
            if lines:
                return "\n".join(lines[-_LAST_WORDS:])
    return "(it said nothing)"


def _without_password(layout: Layout, text: str) -> str:
    """Redis quotes the line of its configuration that it does not like."""
    return text.replace(Addresses.read(layout).password.reveal(), MASK)


def _say(text: str) -> None:
    """Tell `start`, which reads until our standard output is closed."""
    os.write(1, text.encode())
    os.dup2(2, 1)


def _adopt_orphans() -> None:
    """Become the parent of the grandchildren that lose theirs (prctl(2)).

    PID 1 of a container often is a program that waits for nobody: they would stay as zombies.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(spare: Sequence[int] = ()) -> None:
    """Collect the dead among our adopted children; those in `spare` are waited for elsewhere."""
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if dead is None or dead.si_pid in spare:
            return
        os.waitpid(dead.si_pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
