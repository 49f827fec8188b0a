"""Messages by real Celery producers, in each of the forms in which they occur in the wild.

Nothing runs them: they are sent by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS = (1, "ann@example.com")
NAMED = {"password": "hunter2", "lang": "de"}

FORMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "later": {"countdown": 3600},
    "expiring": {"expires": 3600},
    "retried": {"retries": 3},
    "urgent": {"priority": 0},
    "less urgent": {"priority": 5},
    "gzip": {"compression": "gzip"},
    "bzip2": {"compression": "bzip2"},
    "lzma": {"compression": "lzma"},
    "pickle": {"serializer": "pickle"},
    "yaml": {"serializer": "yaml"},
    "hidden": {"argsrepr": "<hidden>", "kwargsrepr": "{}"},
    "stamped": {"timestamp": 1_790_000_000},
}
"""Options of `apply_async`, by the ids that the messages get."""
ANONYMOUS = frozenset({"pickle", "yaml"})
"""Forms in which a message of protocol 1 does not tell its task to whoever loads no such thing."""


def send_all(url: str, queue: str, *, protocol: int = 2) -> tuple[str, ...]:
    """One message of each form, the task `shop.mail`; their ids, in the order they were sent."""
    with Celery("shop", broker=url, set_as_current=False) as app:
        app.conf.task_protocol = protocol
        for id_, options in FORMS.items():
            kept = {name: value for name, value in options.items() if _fits(name, protocol)}
            app.send_task("shop.mail", ARGUMENTS, NAMED, queue=queue, task_id=id_, **kept)
    return tuple(FORMS)


def _fits(option: str, protocol: int) -> bool:
    return protocol == 2 or option not in {"argsrepr", "kwargsrepr"}
