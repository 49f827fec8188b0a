"""The demo's Celery application: what its workers, its beat and its producer load.

The only module here that imports celery. It can be imported in a demo's own processes alone, since
it reads the address of its broker from the demo's directory.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from celery import Celery
from celery.signals import after_task_publish, before_task_publish

from celery_ops.demo.attempts import Attempts, attempt_name
from celery_ops.demo.layout import DIRECTORY_VARIABLE, Addresses, Layout

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RETRIES = 2

_addresses = Addresses.read(Layout(Path(os.environ[DIRECTORY_VARIABLE])))
attempts = Attempts(_addresses.ledger)

app = Celery("shop", broker=_addresses.broker.reveal())
app.conf.update(
    task_default_queue="default",
    task_routes={
        "shop.send_mail": {"queue": "mail"},
        "shop.render_report": {"queue": "reports"},
    },
    task_ignore_result=True,
    # Acknowledged when a task starts: after a lost connection nothing is run twice, and a warm stop
    # finishes what runs and gives back the rest. Only a kill loses what it interrupts.
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    # Seconds until Redis gives back what a killed worker had reserved: well above the longest
    # countdown (8 s) and the longest wait behind another task.
    broker_transport_options={
        "visibility_timeout": 60,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
    },
    broker_connection_retry_on_startup=True,
    # A busy machine may take longer than the default 4 s to fork and greet.
    worker_proc_alive_timeout=30.0,
    beat_schedule={
        "sweep carts": {"task": "shop.sweep_carts", "schedule": 5.0},
        "sales report": {"task": "shop.render_report", "schedule": 20.0, "args": (0, 1.5)},
    },
)


class Request(Protocol):
    """The part of celery's request that is used; celery itself has no types."""

    id: str
    retries: int


class BoundTask(Protocol):
    """The part of a celery task that a body needs."""

    request: Request

    def retry(self, *, exc: Exception, countdown: float) -> Exception: ...


class PaymentDeclined(Exception):
    """The bank said no; it may say yes later."""


def task(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a task whose every attempt is written into the books. The body gets `self` first."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(body)
        def counted(self: BoundTask, *args: object, **kwargs: object) -> None:
            with attempts.run(attempt_name(self.request.id, self.request.retries)):
                body(self, *args, **kwargs)

        registered: Callable[..., None] = app.task(name=name, bind=True, max_retries=MAX_RETRIES)(
            counted
        )
        return registered

    return decorate


@task("shop.place_order")
def place_order(_self: BoundTask, _number: int, seconds: float) -> None:
    time.sleep(seconds)


@task("shop.send_mail")
def send_mail(_self: BoundTask, _number: int, seconds: float) -> None:
    time.sleep(seconds)


@task("shop.render_report")
def render_report(_self: BoundTask, _number: int, seconds: float) -> None:
    time.sleep(seconds)


@task("shop.sweep_carts")
def sweep_carts(_self: BoundTask) -> None:
    time.sleep(0.2)


@task("shop.charge_payment")
def charge_payment(self: BoundTask, number: int, seconds: float, failures: int) -> None:
    """Decline the first `failures` attempts; past the last retry the task fails."""
    time.sleep(seconds)
    if self.request.retries < failures:
        declined = PaymentDeclined(f"payment {number} was declined")
        raise self.retry(exc=declined, countdown=1 + self.request.retries)


def _announce(headers: dict[str, Any], **_: object) -> None:
    attempts.announce(attempt_name(headers["id"], headers["retries"]))


def _confirm(headers: dict[str, Any], **_: object) -> None:
    attempts.confirm(attempt_name(headers["id"], headers["retries"]))


# Fired in every process that publishes: the producer, beat, and a worker that retries.
before_task_publish.connect(_announce, weak=False)
after_task_publish.connect(_confirm, weak=False)
