"""What a `filter` sees of a message that waits."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from celery_ops.config.document import Place
from celery_ops.model import StoredMessage
from celery_ops.runbook.expressions import Truth, condition
from celery_ops.runbook.facts import MessageFacts, message_facts, scope_of_message
from celery_ops.runbook.names import names_of_messages

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MESSAGE = StoredMessage(
    raw=b"{}",
    priority=6,
    id="id-1",
    task="shop.mail",
    retries=3,
    eta=NOON,
    origin="gen1@web1",
    redelivered=False,
    sent_at=NOON - timedelta(minutes=5),
)
UNKNOWN = StoredMessage(b"{}")


def judged(source: str, message: StoredMessage) -> Truth:
    wanted = condition(source, Place("--filter", 1, 1), names_of_messages(()))
    return wanted.evaluate(scope_of_message(message, NOON)).truth


def test_a_message_tells_what_its_headers_say() -> None:
    assert message_facts(MESSAGE, NOON) == MessageFacts(
        id="id-1",
        task="shop.mail",
        retries=3,
        eta=NOON,
        age=300.0,
        origin="gen1@web1",
        priority=6,
        redelivered=False,
    )


def test_a_message_from_the_future_has_no_negative_age() -> None:
    assert message_facts(replace(MESSAGE, sent_at=NOON + timedelta(hours=1)), NOON).age == 0.0


def test_every_fact_can_be_named() -> None:
    assert scope_of_message(MESSAGE, NOON).keys() == {
        *(entry.name for entry in fields(MessageFacts)),
        "params",
    }
    assert scope_of_message(MESSAGE, NOON, {"x": 1})["params"] == {"x": 1}


@pytest.mark.parametrize(
    "source",
    [
        "task == 'shop.mail' and retries > 2",
        "age >= 5m and not redelivered",
        "origin in ['gen1@web1', 'gen2@web1']",
        "priority == 6 and id != 'id-2'",
        "eta == eta",
    ],
)
def test_a_filter_is_a_condition_as_in_runbooks(source: str) -> None:
    assert judged(source, MESSAGE) is Truth.HOLDS


@pytest.mark.parametrize(
    ("source", "truth"),
    [
        ("task == 'shop.mail'", Truth.UNKNOWN),
        ("task != 'shop.mail'", Truth.UNKNOWN),
        ("not retries > 2", Truth.UNKNOWN),
        ("retries > 2 or priority == 0", Truth.HOLDS),
        ("age > 1s and priority > 0", Truth.FAILS),
    ],
)
def test_what_is_not_known_is_neither_a_match_nor_its_contrary(source: str, truth: Truth) -> None:
    assert judged(source, UNKNOWN) is truth
