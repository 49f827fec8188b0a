"""The real command in a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class OpsCommand:
    """`python -m celery_ops` of this checkout, for a user whose home is empty."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> Path:
        return self.home / "state" / "celery-ops"

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "PYTHONPATH": str(ROOT),
            **(more or {}),
        }

    def argv(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "celery_ops", *arguments)

    def __call__(
        self, *arguments: str, more: Mapping[str, str] | None = None, typed: str = ""
    ) -> Done:
        """Run it to its end, without a terminal."""
        done = subprocess.run(
            self.argv(*arguments),
            cwd=self.home,
            env=self.environment(more),
            input=typed.encode(),
            capture_output=True,
            timeout=180,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start it; the caller ends it."""
        defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        return subprocess.Popen(
            self.argv(*arguments),
            cwd=self.home,
            env=self.environment(),
            **{**defaults, "stderr": subprocess.PIPE, **options},
        )


@pytest.fixture
def ops(tmp_path: Path) -> OpsCommand:
    """The command, and an empty home."""
    return OpsCommand(tmp_path / "home")
