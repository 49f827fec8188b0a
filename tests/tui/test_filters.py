"""The filter line."""

from __future__ import annotations

import pytest

from celery_ops.tui import queues, workers
from celery_ops.tui.filters import Filter
from celery_ops.tui.text import Cell
from tests.tui import fleets
from tests.tui.fleets import NOW


def found(text: str) -> list[str]:
    chosen = Filter.parse(text)
    return [
        one.name for one in fleets.broken().workers if chosen.matches(one, workers.COLUMNS, NOW)
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["fast1@demo", "fast2@demo", "bulk1@demo", "bulk2@demo", "other@elsewhere"]),
        ("BULK", ["bulk1@demo", "bulk2@demo"]),
        ("bulk stalled", ["bulk1@demo"]),
        ("@demo !bulk", ["fast1@demo", "fast2@demo"]),
        ("state:silent", ["fast2@demo"]),
        ("!state:online @demo", ["fast1@demo", "fast2@demo", "bulk1@demo"]),
        ("queues:bulk", ["bulk1@demo"]),
        ("active:>1", ["fast2@demo", "bulk1@demo", "other@elsewhere"]),
        ("active:<=0", ["fast1@demo"]),
        ("state:>3", []),
        ("nothing:such", []),
        ("!", []),
    ],
)  # fmt: skip
def test_words_must_all_hold(text: str, names: list[str]) -> None:
    assert found(text) == names


def test_a_number_that_is_not_known_matches_no_comparison() -> None:
    odd = Filter.parse("ready:>=0")
    assert [
        one.name
        for one in fleets.broken().queues
        if odd.matches(one, queues.columns(lambda _: Cell("")), NOW)
    ] == ["bulk", "default", "mail"]


def test_a_field_that_is_no_column_is_told() -> None:
    assert Filter.parse("sate:online x").unknown_fields(workers.COLUMNS) == ("sate",)
    assert Filter.parse("state:online").unknown_fields(workers.COLUMNS) == ()
