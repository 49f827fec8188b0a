"""The `--filter` of messages: a condition as in runbooks, and what it could not judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.document import Place
from celery_ops.errors import UsageError
from celery_ops.runbook.expressions import InvalidExpression, Truth, condition
from celery_ops.runbook.facts import scope_of_message
from celery_ops.runbook.names import names_of_messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from celery_ops.model import StoredMessage


class Filter:
    """A condition on messages. Raise UsageError, pointing at each mistake, if it is none.

    `not_known` are its names that were not known of some message.
    """

    def __init__(self, source: str) -> None:
        try:
            self._wanted = condition(source, Place("--filter", 1, 1), names_of_messages(()))
        except InvalidExpression as error:
            marks = [f"\n  {source}\n  {' ' * one.offset}^ {one.says}" for one in error.faults]
            raise UsageError(f"The filter cannot be used:{''.join(marks)}") from error
        self.source = source
        self.not_known: dict[str, None] = {}

    def at(self, now: datetime) -> Callable[[StoredMessage], bool | None]:
        """Whether a message is wanted, judged at that moment; None: that cannot be told."""

        def wants(message: StoredMessage) -> bool | None:
            verdict = self._wanted.evaluate(scope_of_message(message, now))
            self.not_known |= dict.fromkeys(verdict.unknown)
            return None if verdict.truth is Truth.UNKNOWN else verdict.holds

        return wants
