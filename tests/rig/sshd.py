"""Real OpenSSH servers on free ports of 127.0.0.1, each in a folder of its own, as this user."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery_ops.config.contexts import HostEntry, SshSettings
from tests.rig import end, free_port, wait_until
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"


class Sshd:
    """A running server. It lets in whoever has `key`, as the user who runs the tests."""

    def __init__(self, directory: Path, *lines: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.key = make_key(directory / "id")
        self.host_key = make_key(directory / "hostkey")
        self.known_hosts = directory / "known_hosts"
        self.authorized_keys = directory / "authorized_keys"
        self.client_config = directory / "client_config"
        self.client_config.write_text("")
        self.home = directory / "home"
        self.home.mkdir()
        self.authorize(self.key)
        self.trust(self.host_key)
        self._lines = lines
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def name(self) -> str:
        """As it is looked up in known_hosts."""
        return f"[127.0.0.1]:{self.port}"

    def settings(self, **changes: Any) -> SshSettings:
        """How to reach it, with nothing of this user's own configuration."""
        plain = SshSettings(
            user=getpass.getuser(),
            port=self.port,
            known_hosts=self.known_hosts,
            keys=(self.key,),
            config=self.client_config,
        )
        return replace(plain, **changes)

    def entry(self, name: str = "web1", **changes: Any) -> HostEntry:
        return HostEntry(name, "127.0.0.1", name, self.settings(**changes))

    def authorize(self, key: Path) -> None:
        with self.authorized_keys.open("a") as file:
            file.write(key.with_suffix(".pub").read_text())

    def trust(self, host_key: Path) -> None:
        """Let that key be the one that is known."""
        public = host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"{self.name} {public}")

    def start(self) -> None:
        """Start it, again on the same port after `kill`."""
        config = self.directory / "sshd_config"
        config.write_text("\n".join([*self._settings(), *self._lines]) + "\n")
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [_program(), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready, what="sshd")

    def processes(self) -> list[int]:
        """The server and those of its connections: not what they run."""
        assert self._process is not None
        found = [self._process.pid]
        for pid in found:
            found += [one for one in _children(pid) if _name(one) == "sshd"]
        return found

    def connections(self) -> int:
        """How many logins there were."""
        return self.log().count("Accepted publickey")

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def freeze(self) -> None:
        """Nothing is answered any more, but by the kernel."""
        self.signal(signal.SIGSTOP)

    def signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """kill -9: the server and all connections. What they run goes on."""
        assert self._process is not None
        self.signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
            end(self._process)

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(self.log())
        with socket.socket() as probe:
            return "listening" in self.log() and probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _settings(self) -> list[str]:
        return [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {self.authorized_keys}",
            f"SetEnv HOME={self.home}",  # what this user's login shell reads is not ours to test
            "PidFile none",
            "UsePAM no",
            "StrictModes no",  # the keys lie below a folder that everybody may write to
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
        ]


@contextlib.contextmanager
def sshd(*lines: str) -> Iterator[Sshd]:
    """Run a server with these lines in its configuration beside what it needs."""
    _program()
    directory = Path(tempfile.mkdtemp(prefix="sshd-"))
    server = None
    try:
        server = Sshd(directory, *lines)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def make_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def fingerprint(key: Path) -> str:
    """SHA256, as OpenSSH itself tells it."""
    done = subprocess.run(
        ["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True
    )
    return done.stdout.split()[1]


def _program() -> str:
    """sshd wants to be started by its whole path."""
    found = shutil.which("sshd", path=_PLACES)
    if found is None or shutil.which("ssh-keygen") is None:
        missing("sshd (apt install openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own folder for its unprivileged part
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
