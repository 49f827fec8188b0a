"""What each question is asked with, the same on every broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.ports import Question

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS: Mapping[Question, Mapping[str, object]] = {
    # Arguments as shortened text: works for those that are not JSON, and bounds the reply.
    Question.ACTIVE: {"safe": True},
    # `flush_every` is an attribute of tasks of celery-batches.
    Question.REGISTERED: {
        "taskinfoitems": ["rate_limit", "acks_late", "flush_every", "ignore_result"]
    },
}
