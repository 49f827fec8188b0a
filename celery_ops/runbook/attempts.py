"""Trying again: how long to wait before, and how it is told. Pure."""

from __future__ import annotations

from celery_ops.config.units import as_duration

LONGEST_PAUSE = 300.0
"""Seconds between two attempts, however many there were."""


def backoff(pause: float, attempt: int) -> float:
    """Seconds before the attempt after this one: twice as long each time, within bounds."""
    return min(pause * 2.0 ** min(attempt - 1, 20), LONGEST_PAUSE)


def failed_attempt(attempt: int, retries: int, says: str, pause: float) -> str:
    """One line, whatever it says."""
    why = ": ".join(says.splitlines())
    return f"attempt {attempt} of {retries + 1} failed: {why}; again in {as_duration(pause)}"
