"""The checks of the code itself: lint, format, types, import contracts, and what may not be in
it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "argv",
    [
        (PYTHON, "-m", "ruff", "check", "."),
        (PYTHON, "-m", "ruff", "format", "--check", "."),
        (PYTHON, "-m", "mypy"),
        (PYTHON, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"),
    ],
    ids=["ruff", "format", "mypy", "import-contracts"],
)
def test_the_code_passes(argv: tuple[str, ...]) -> None:
    done = run(*argv)
    assert done.returncode == 0, done.stdout + done.stderr


def sources() -> list[Path]:
    return [path for name in ("celery_ops", "tests") for path in (ROOT / name).rglob("*.py")]


def test_waivers_are_few_and_carry_their_reason() -> None:
    waivers = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"#\s*(noqa|type:\s*ignore|pragma|mypy:)", line) and path != Path(__file__)
    ]
    assert len(waivers) < 10, "\n".join(waivers)
    assert not [line for line in waivers if not re.search(r"\]?\s+(-|#) \w+", line)], waivers


def test_files_stay_small_enough_to_be_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "celery_ops").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert not long


def test_there_are_no_modules_for_everything() -> None:
    drawers = {"utils", "helpers", "common", "managers", "core", "misc", "lib"}
    assert not [path for path in (ROOT / "celery_ops").rglob("*") if path.stem in drawers]
