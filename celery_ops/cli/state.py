"""What belongs to this user on this machine: the state directory, and the name others see."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path


def directory() -> Path:
    """Where runs and logs are kept: `$XDG_STATE_HOME/celery-ops`. It need not exist yet."""
    chosen = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification tells to ignore relative paths.
    base = Path(chosen) if chosen.startswith("/") else Path.home() / ".local" / "state"
    return base / "celery-ops"


def runs() -> Path:
    """The directory of this user's journals."""
    return directory() / "runs"


def backups() -> Path:
    """The directory of backups of queues that are given no name."""
    return directory() / "backups"


def logs() -> Path:
    """The directory of the reports of our own bugs."""
    return directory() / "logs"


def operator() -> str:
    """`user@machine`, as other operators see who holds a lease."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without an account, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
