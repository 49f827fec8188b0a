"""A real supervisord in a temporary folder of its own, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.secret import Secret
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

START_DEADLINE = 10.0
END_DEADLINE = 10.0


@dataclass(slots=True)
class Rig:
    """A running supervisord. `server` is what a service names; `folder` holds its files."""

    folder: Path
    server: str
    process: subprocess.Popen[bytes] = field(repr=False)
    password: Secret | None = None

    @property
    def config(self) -> Path:
        return self.folder / "supervisord.conf"

    def log(self, program: str) -> str:
        """What a program wrote to stdout and stderr."""
        return (self.folder / f"{program}.log").read_text(errors="replace")

    def kill(self) -> None:
        """End supervisord alone, at once, as a crash would: its programs stay and are orphans."""
        self.process.kill()
        self.process.wait(END_DEADLINE)


@contextlib.contextmanager
def supervisord(
    programs: Mapping[str, Mapping[str, str]],
    *,
    groups: Mapping[str, str] | None = None,
    user: str = "",
    password: str = "",
    included: bool = False,
) -> Iterator[Rig]:
    """Run supervisord with these programs (name: its keys of `[program:x]`).

    `groups` are `[group:x]` with their programs; `included` puts the programs into a file that the
    main one includes. At the end everything below it is killed, by pid.
    """
    if importlib.util.find_spec("supervisor") is None:
        missing("supervisord: pip install supervisor")
    # Not below pytest's folder: the path of a unix socket may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="sv-"))
    try:
        _write_config(folder, programs, groups or {}, user, password, included=included)
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_socket(folder / "s", process)
            server = f"unix://{user}@{folder / 's'}" if user else f"unix://{folder / 's'}"
            yield Rig(folder, server, process, Secret(password) if password else None)
        finally:
            _end(folder, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_config(
    folder: Path,
    programs: Mapping[str, Mapping[str, str]],
    groups: Mapping[str, str],
    user: str,
    password: str,
    *,
    included: bool,
) -> None:
    sections = [
        "[unix_http_server]",
        "file=%(here)s/s",
        *([f"username={user}", f"password={password}"] if user else []),
        "[supervisord]",
        "logfile=%(here)s/supervisord.log",
        "pidfile=%(here)s/supervisord.pid",
        "childlogdir=%(here)s",
        f"identifier={folder.name}",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    programmed: list[str] = []
    for name, keys in programs.items():
        log = f"stdout_logfile={folder / name}.log"
        settings = [f"{key}={value}" for key, value in keys.items()]
        programmed += [f"[program:{name}]", log, "redirect_stderr=true", *settings]
    for name, members in groups.items():
        programmed += [f"[group:{name}]", f"programs={members}"]
    if included:
        (folder / "programs.ini").write_text("\n".join(programmed) + "\n")
        sections += ["[include]", "files=*.ini"]
        programmed = []
    (folder / "supervisord.conf").write_text("\n".join([*sections, *programmed]) + "\n")


def _await_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log = path.with_name("supervisord.log")
            pytest.fail(f"supervisord ended at once: {log.read_text() if log.exists() else ''}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.02)
    pytest.fail("supervisord does not listen")


def _end(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Kill supervisord and everything it started.

    Its programs are known by SUPERVISOR_SERVER_URL in their environment, which names this folder:
    so orphans of a supervisord that was killed are found too.
    """
    if process.poll() is None:
        process.kill()
    process.wait(END_DEADLINE)
    deadline = time.monotonic() + END_DEADLINE
    while pids := _started_from(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            pytest.fail(f"processes do not end: {pids}")
        time.sleep(0.02)


def _started_from(folder: Path) -> list[int]:
    marker = f"SUPERVISOR_SERVER_URL=unix://{folder}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            if any(line.startswith(marker) for line in environment):
                found.append(int(entry.name))
    return found
