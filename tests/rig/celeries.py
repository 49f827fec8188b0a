"""Other versions of Celery, each in an environment of its own that pip makes in some seconds; and
RedBeat, in a folder.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.rig.missing import missing

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {
    "5.3": ("celery==5.3.6", "kombu==5.3.7", "redis==5.0.8"),
    "5.5": ("celery==5.5.3", "kombu==5.5.4", "redis==5.2.1"),
}
REDBEAT = ("celery-redbeat==2.4.2", "tenacity==9.2.1", "python-dateutil", "six")
DEADLINE = 180.0
"""Seconds; it takes a tenth of that where the package index is near."""


def python_with(version: str, folder: Path) -> str:
    """A Python that has that version of Celery. Where pip cannot get it, the test is skipped, or
    fails where everything has to be there.
    """
    python = folder / version / "bin" / "python"
    try:
        for argv in (
            (sys.executable, "-m", "venv", str(folder / version)),
            (str(python), "-m", "pip", "install", "--quiet", *PACKAGES[version]),
        ):
            subprocess.run(argv, check=True, capture_output=True, timeout=DEADLINE)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", b"") or b""
        missing(f"Celery {version} from the package index: {error} {said.decode()[-500:]}")
    return str(python)


def redbeat(folder: Path) -> str:
    """A folder with RedBeat and what it needs beside Celery; missing as above."""
    wanted = ("--quiet", "--no-deps", "--target", str(folder), *REDBEAT)
    try:
        subprocess.run(
            (sys.executable, "-m", "pip", "install", *wanted),
            check=True,
            capture_output=True,
            timeout=DEADLINE,
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", b"") or b""
        missing(f"RedBeat from the package index: {error} {said.decode()[-500:]}")
    return str(folder)
