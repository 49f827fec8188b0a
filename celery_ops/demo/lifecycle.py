"""Starting and stopping a demo, from outside of it."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import shutil
import signal
import site
import socket
import sys
import tempfile
import time
from pathlib import Path

import celery_ops
from celery_ops.config.secret import Secret
from celery_ops.demo import layout as files
from celery_ops.demo import registry
from celery_ops.demo.processes import Process, identify
from celery_ops.demo.servers import redis_server, require_supervisor
from celery_ops.errors import OpsError, UsageError

READY = "ready"
"""What the keeper says on its standard output once Redis and supervisord are up."""

_START_WITHIN = 45.0
_STOP_WITHIN = 8.0
_POLL = 0.05
_END_POLL = 0.25
_SHORT_PARENT = "/tmp"  # noqa: S108 - mkdtemp makes a private directory there
_SOCKET_PATH_LIMIT = 107 - len(".9999999")
"""unix(7) allows 107 bytes; supervisord appends its pid while it binds."""

# The user's own BROKER_URL or APP would be obeyed by celery's command line: only these get there.
_KEPT_VARIABLES = (
    *("PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "XDG_STATE_HOME"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"),
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)


def start(*, owner_pid: int | None) -> registry.Demo:
    """Start a demo; return when Redis and supervisord are up. The workers come up by themselves.

    The demo ends, and leaves nothing, when the process `owner_pid` is gone for whatever reason, or
    by `stop`; with None, by `stop` only. Blocks, usually for less than a second. Raise OpsError if
    a server cannot be found or does not come up, with its own last words.
    """
    server = redis_server()
    require_supervisor()
    owner = _owner(owner_pid)
    name = registry.unused_name()
    layout = _new_directory(name)
    try:
        addresses = files.Addresses(_free_port(), Secret(secrets.token_hex(16)))
        files.write(layout, name, addresses)
        return _launch(layout, name, owner, server)
    except BaseException:
        shutil.rmtree(layout.directory, ignore_errors=True)
        raise


def stop(demo: registry.Demo) -> None:
    """End all processes of a demo and remove its directory; return when nothing is left.

    Running tasks are cut off. Not an error if it ended meanwhile. Blocks, usually for less than a
    second. Raise OpsError if a process cannot be ended.
    """
    demo.keeper.signal(signal.SIGTERM)
    _ends_within(demo.keeper, _STOP_WITHIN)
    registry.clear(demo)
    _reap(demo.keeper.pid)


async def ended(demo: registry.Demo) -> None:
    """Return when the demo has ended, whoever ended it."""
    while True:
        if not demo.alive:
            return
        await asyncio.sleep(_END_POLL)


def _owner(pid: int | None) -> Process | None:
    if pid is None:
        return None
    owner = identify(pid)
    if owner is None:
        raise UsageError(f"There is no process {pid} that could own a demo.")
    return owner


def _new_directory(name: str) -> files.Layout:
    """In the usual temporary directory, or in /tmp if that one is too deep for a unix socket."""
    prefix = f"{registry.DIRECTORY_PREFIX}{name}-"
    for parent in (tempfile.gettempdir(), _SHORT_PARENT):
        layout = files.Layout(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve())
        if len(os.fsencode(layout.supervisor_socket)) <= _SOCKET_PATH_LIMIT:
            return layout
        layout.directory.rmdir()
    raise OpsError(f"The path of a socket below {_SHORT_PARENT} would be too long.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _launch(layout: files.Layout, name: str, owner: Process | None, server: Path) -> registry.Demo:
    """Start the keeper in a session of its own: no Ctrl-C and no hang-up reaches the demo."""
    command = (
        # -P: what lies in the directory we were called from is not to be imported.
        *(sys.executable, "-P", "-m", "celery_ops.demo.keeper"),
        *(name, str(layout.directory), str(server), "-" if owner is None else str(owner)),
    )
    reading, writing = os.pipe()
    log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawn(
            sys.executable,
            command,
            _environment(layout),
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writing, 1),
                (os.POSIX_SPAWN_OPEN, 2, str(layout.keeper_log), log, 0o600),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        said = _listen(pipe.fileno())
    demo = next((demo for demo in registry.running() if demo.name == name), None)
    if said == READY and demo is not None:
        return demo
    _abandon(pid)
    raise OpsError("The demo could not be started." + (f"\n{said}" if said else ""))


def _listen(descriptor: int) -> str:
    """What the keeper says before it closes its output: that it is ready, or why it gave up."""
    deadline = time.monotonic() + _START_WITHIN
    said = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select((descriptor,), (), (), left)[0]:
            break
        piece = os.read(descriptor, 4096)
        if not piece:
            break
        said += piece
    return said.decode(errors="replace").strip()


def _environment(layout: files.Layout) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    kept[files.DIRECTORY_VARIABLE] = str(layout.directory)
    # From a checkout, the package is found only by the path it was imported from.
    home = str(Path(celery_ops.__file__).resolve().parent.parent)
    if home not in site.getsitepackages():
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (home, kept.get("PYTHONPATH"))))
    return kept


def _abandon(pid: int) -> None:
    """Let a keeper that gave up clean up behind itself; end one that hangs."""
    keeper = identify(pid)
    if keeper is not None and not _ends_within(keeper, _STOP_WITHIN):
        keeper.signal(signal.SIGTERM)
        if not _ends_within(keeper, _STOP_WITHIN):
            keeper.signal(signal.SIGKILL)
    _reap(pid)


def _ends_within(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _reap(pid: int) -> None:
    """Collect a keeper that was our child, so that it does not stay behind as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
