"""Publishes the demo's numbered tasks, one after the other, until it is told to stop.

It stops between two of them, so that none is left announced and not sent.
"""

from __future__ import annotations

import logging
import signal
import sys
import time

from celery_ops.demo.orders import order
from celery_ops.demo.tasks import app, attempts

_INTERVAL = 0.18
"""Seconds between two tasks. Keeps the fleet's eight slots busy for about two thirds of the time:
six of them still suffice while one worker restarts."""

_BACKLOG = 400
"""Tasks that may wait before the producer does: a fleet that is kept stopped fills no memory."""


class Producer:
    """The loop, and the wish to end it."""

    def __init__(self) -> None:
        self._stopping = False

    def stop(self, *_: object) -> None:
        """A signal handler; the task in hand is published first."""
        self._stopping = True

    def run(self) -> None:
        while not self._stopping:
            if attempts.waiting() < _BACKLOG:
                self._publish()
            time.sleep(_INTERVAL)

    def _publish(self) -> None:
        wanted = order(attempts.next_number())
        app.send_task(
            wanted.task,
            args=(wanted.number, wanted.seconds),
            kwargs=wanted.arguments,
            countdown=wanted.countdown,
        )


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    producer = Producer()
    signal.signal(signal.SIGTERM, producer.stop)
    signal.signal(signal.SIGINT, producer.stop)
    logging.getLogger(__name__).info("one task every %s s", _INTERVAL)
    producer.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
