"""The words that some keys of a roll may be: in which order, and what of those that fail."""

from __future__ import annotations

from enum import StrEnum


class OnFail(StrEnum):
    """What a roll does when too many targets failed."""

    ASK = "ask"
    STOP = "stop"
    UNDO = "undo"


class Order(StrEnum):
    """In which order a roll takes its targets."""

    FEWEST_ACTIVE_FIRST = "fewest_active_first"
    UNHEALTHY_FIRST = "unhealthy_first"
    BY_HOST = "by_host"
    BY_NAME = "by_name"
    LEAST_MISSED = "least_missed"
    """First whose queues keep the most consumers, then who runs least, then of the fullest host."""
    OWED_FIRST = "owed_first"
    """First whose services an earlier run has stopped."""


class Offline(StrEnum):
    """What is done about a target that is silent, or whose host cannot be reached."""

    FAIL = "fail"
    """It counts as failed."""
    SKIP = "skip"
    """It is left out, by name and with the reason; a drain does not wait for it."""
