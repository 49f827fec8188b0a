"""What a newcomer does: the README's first command in a clean environment, and a fleet is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.rig

ROOT = Path(__file__).parent.parent
_KEPT_OUT = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", ".hypothesis", "*.egg-info")


def commands_of_the_readme() -> list[str]:
    return re.findall(r"^    (python3 -m pip install .*)$", (ROOT / "README.md").read_text(), re.M)


def test_the_readme_begins_with_a_picture_and_two_commands() -> None:
    assert commands_of_the_readme() == [
        "python3 -m pip install '.[demo]' && celery-ops demo",
        "python3 -m pip install '.[dev]'  && python3 -m pytest",
    ]
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", (ROOT / "README.md").read_text())
    assert (ROOT / picture).is_file()


class Newcomer:
    """An empty home, a new environment with nothing but the demo's extra, and no other PATH."""

    def __init__(self, directory: Path) -> None:
        self._environment = directory / "environment"
        self._home = directory / "home"
        self._home.mkdir()
        source = directory / "source"
        shutil.copytree(ROOT, source, ignore=_KEPT_OUT)
        venv.create(self._environment, with_pip=True)
        install, _ = commands_of_the_readme()[0].split(" && ")
        done = subprocess.run(
            [str(self._environment / "bin" / "python3"), *shlex.split(install)[1:]],
            cwd=source,
            env=self._variables(pip=True),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            missing(f"a package index to install from: {done.stderr[-300:]}")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._command, *arguments],
            env=self._variables(),
            cwd=self._home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, *arguments: str) -> dict[str, object]:
        argv = [self._command, *arguments, "--json"]
        done = subprocess.run(
            argv, env=self._variables(), cwd=self._home, capture_output=True, check=False
        )
        answer: dict[str, object] = json.loads(done.stdout or "{}")
        return answer

    @property
    def _command(self) -> str:
        return str(self._environment / "bin" / "celery-ops")

    def _variables(self, *, pip: bool = False) -> dict[str, str]:
        variables = {
            "HOME": str(self._home),
            "PATH": f"{self._environment / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
        }
        if pip:
            kept = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "NO_PROXY", "no_proxy")
            variables |= {key: text for key, text in os.environ.items() if key.startswith(kept)}
            # Where pip finds its packages is the machine's setting, which an empty home would hide.
            setting = Path("~/.config/pip/pip.conf").expanduser()
            if setting.is_file():
                variables.setdefault("PIP_CONFIG_FILE", str(setting))
        return variables


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    if sys.platform != "linux":
        missing("Linux, which the demo needs")
    return Newcomer(tmp_path_factory.mktemp("newcomer"))


@pytest.fixture
def demo(newcomer: Newcomer) -> Iterator[Newcomer]:
    process = newcomer.start("demo", "--headless")
    yield newcomer
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_the_first_command_shows_a_working_fleet(demo: Newcomer) -> None:
    def works() -> bool:
        workers = demo.ask("-c", "demo", "status").get("workers")
        is_online = (
            isinstance(workers, list) and [one["state"] for one in workers] == ["online"] * 4
        )
        return is_online and bool(demo.ask("-c", "demo", "demo", "ledger").get("done"))

    wait_until(works, what="four workers that do the demo's tasks", timeout=60)


def test_the_shipped_runbooks_are_installed(newcomer: Newcomer) -> None:
    listed = newcomer.ask("runbooks").get("runbooks")
    assert isinstance(listed, list)
    assert {one["name"] for one in listed} >= {"rolling-restart", "drain-worker", "resume-worker"}
