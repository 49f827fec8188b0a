"""What RabbitMQ notes of a message's deaths; samples as 3.10 writes them."""

from __future__ import annotations

from typing import Any

import pytest

from celery_ops.broker.rabbit import deaths as amqp_deaths
from celery_ops.broker.rabbit import raw as amqp_raw
from celery_ops.model import Address


def death(queue: str, reason: str, *more: list[Any]) -> list[Any]:
    return ["F", [["count", "l", 1], ["reason", "S", reason], ["queue", "S", queue],
                  ["time", "T", 1_764_000_000], ["exchange", "S", ""],
                  ["routing-keys", "A", [["S", queue]]], *more]]  # fmt: skip


def noted(*deaths: list[Any]) -> dict[str, Any]:
    headers: list[Any] = [["id", "S", "id-1"]]
    if deaths:
        headers.append(["x-death", "A", list(deaths)])
        headers += [[f"x-first-death-{name}", "S", "?"] for name in ("queue", "reason", "exchange")]
    return {"headers": headers, "delivery_mode": 2}


@pytest.mark.parametrize(
    ("properties", "queue"),
    [
        (noted(death("mail", "rejected")), "mail"),
        (noted(death("mail", "maxlen")), "mail"),
        (noted(death("waiting", "expired"), death("mail", "rejected")), "mail"),
        (noted(death("between", "expired"), death("mail", "expired")), "mail"),
        (noted(death("later", "rejected"), death("mail", "rejected")), "later"),
        (noted(death("later", "delivery_limit"), death("mail", "expired")), "later"),
        (noted(), None),
        ({"delivery_mode": 2}, None),
        ({"headers": [["x-death", "S", "mine"]]}, None),
        ({"headers": [["x-death", "A", [["S", "mine"], ["F", []]]]]}, None),
        ({"headers": [["x-death", "A", [["F", [["queue", "I", 3]]]]]]}, None),
    ],
)
def test_it_came_from_where_a_consumer_had_it_last_or_where_it_died_first(
    properties: dict[str, Any], queue: str | None
) -> None:
    found = amqp_deaths.came_from(properties)
    assert found == (None if queue is None else Address("", queue))


def test_an_expiration_that_was_removed_is_told() -> None:
    lost = death("mail", "expired", ["original-expiration", "S", "50"])
    assert amqp_deaths.expiry_removed(noted(lost))
    assert not amqp_deaths.expiry_removed(noted(death("mail", "expired")))


@pytest.mark.parametrize("body", [b"[]", b"x-death"])
def test_a_revived_message_is_what_it_was_before(body: bytes) -> None:
    before, dead = noted(), noted(death("mail", "rejected"))
    raws = [amqp_raw.written(amqp_raw.write_properties(one), body) for one in (before, dead)]
    assert [amqp_deaths.revived(raw) for raw in raws] == [raws[0], raws[0]]


def test_what_bears_nothing_else_has_no_headers_afterwards() -> None:
    dead = noted(death("mail", "rejected"))
    del dead["headers"][0]
    raw = amqp_raw.written(amqp_raw.write_properties(dead), b"")
    encoded, _ = amqp_raw.read(amqp_deaths.revived(raw))
    assert amqp_raw.read_properties(encoded) == {"delivery_mode": 2}
