"""A real dockerd of its own, with its containers, and nothing of them left behind. Needs root.

It has no network of its own: containers use this machine's. Its only image is empty; containers see
this machine's programs, and the Python that runs the tests, read-only. A guardian clears up, also
when the tests are killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

IMAGE = "rig:1"
TOOLS = ("dockerd", "docker", "containerd", "runc", "unshare", "tini")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_FOLDERS = ("usr", "etc", "tmp", "var", "root", "proc", "sys", "dev")
_START = 'mount -t tmpfs -o size=256m rig "$1" && shift && exec "$@"'
_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Dockerd:
    """A running daemon. `server` is what a service names."""

    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def server(self) -> str:
        return f"unix://{self.folder}/s"

    @property
    def environment(self) -> dict[str, str]:
        """Under which docker and compose talk to it."""
        return os.environ | {"DOCKER_HOST": self.server}

    def do(self, *words: str, check: bool = True) -> str:
        """Run `docker` with these words; its output."""
        return self.run("docker", *words, check=check)

    def make(self, name: str, *options: str, command: Sequence[str]) -> None:
        """Make a container of the image, and do not start it."""
        volumes = [word for volume in volumes_of_python() for word in ("--volume", volume)]
        self.do("create", "--name", name, "--network=host", *volumes, *options, IMAGE, *command)

    def image(self, name: str, **environment: str) -> None:
        """Make a further image, told apart from the others by its environment."""
        changes = [f"--change=ENV {key}={value}" for key, value in environment.items()]
        subprocess.run(
            ("docker", "import", *changes, "-", name),
            env=self.environment, input=_image(), stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip

    def inspect(self, name: str, shape: str) -> str:
        return self.do("container", "inspect", "--format", shape, name).strip()

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command that finds this daemon."""
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            pytest.fail(f"{argv}: {done.stderr or done.stdout}")
        return done.stdout

    def kill(self) -> None:
        """End the daemon alone, as a crash would."""
        self.process.kill()
        self.process.wait(_DEADLINE)


class Daemons:
    """A daemon that is started where it is needed, and again after it was killed; `make` makes its
    containers.
    """

    def __init__(self, make: Callable[[Dockerd], None]) -> None:
        self._make = make
        self._stack = contextlib.ExitStack()
        self._daemon: Dockerd | None = None

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def living(self) -> Dockerd:
        if self._daemon is None or self._daemon.process.poll() is not None:
            self._daemon = self._stack.enter_context(dockerd())
            self._make(self._daemon)
        return self._daemon


def volumes_of_python() -> list[str]:
    """What a container must see to run what the tests run, as docker's `--volume` takes it."""
    places = {Path("/usr"), Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve()}
    roots = [place for place in places if not any(other in place.parents for other in places)]
    return [f"{place}:{place}:ro" for place in sorted(roots)]


def compose_file(services: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """A compose file with these services, which run as `make` would have them, of the same image
    unless they name another.
    """
    written = {}
    for name, keys in services.items():
        own = keys.get("volumes", ())
        volumes = [*volumes_of_python(), *(own if isinstance(own, list) else ())]
        image = keys.get("image", IMAGE)
        written[name] = {**keys, "image": image, "network_mode": "host", "volumes": volumes}
    return {"version": "3.8", "services": written}


@contextlib.contextmanager
def dockerd() -> Iterator[Dockerd]:
    """Run a daemon with the image, without any container."""
    if os.geteuid() != 0:
        missing("dockerd: it needs root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            missing(f"dockerd: {tool} (Debian: docker.io, tini)")
    folder = Path(tempfile.mkdtemp(prefix="dk-"))
    guardian = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("dockerd_guardian.py")), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    process = None
    try:
        process = _start(folder)
        yield _ready(Dockerd(folder, process))
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait(_DEADLINE)
        if process is not None:
            process.wait(_DEADLINE)
        assert not folder.exists(), "the guardian clears up"


def _start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "data").mkdir()
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                *("unshare", "--mount", "sh", "-c", _START, "sh", str(folder / "data")),
                *("dockerd", "--host", f"unix://{folder}/s", "--data-root", str(folder / "data")),
                *("--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")),
                *("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"),
                *("--storage-driver=overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"),
                *("--cgroup-parent", f"/{folder.name}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _ready(made: Dockerd) -> Dockerd:
    """Once it answers, with its image."""

    def answers() -> bool:
        if made.process.poll() is not None:
            log = (made.folder / "log").read_text(errors="replace")
            missing(f"dockerd: it ended: {log[-1000:]}")
        version = ["docker", "version"]
        done = subprocess.run(version, env=made.environment, capture_output=True, check=False)
        return done.returncode == 0

    wait_until(answers, what="dockerd", timeout=_DEADLINE)
    made.image(IMAGE)
    return made


def _image() -> bytes:
    """Folders for what this machine lends to it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as image:
        for name in _FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            image.addfile(entry)
        for name, target in _LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            image.addfile(entry)
    return archive.getvalue()
