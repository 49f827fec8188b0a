"""A real fleet on one machine to try everything on: Redis, supervised workers, beat, a ledger.

Nothing in it is simulated. It lives in one directory and one session of processes, ends with its
owner, and leaves nothing. Importing this package is cheap: only `tasks`, which the demo's own
processes load, imports celery.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from celery_ops.demo.lifecycle import ended, start, stop
from celery_ops.demo.registry import Demo, find, running

if TYPE_CHECKING:
    from celery_ops.demo.accounts import Ledger, ledger, settle

__all__ = ["Demo", "Ledger", "ended", "find", "ledger", "running", "settle", "start", "stop"]


def __getattr__(name: str) -> object:
    """The ledger is loaded when it is asked for: it brings the Redis client, 0.1 s to import."""
    if name in {"Ledger", "ledger", "settle"}:
        return getattr(import_module("celery_ops.demo.accounts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
