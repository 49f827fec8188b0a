"""Durations and counts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

from celery_ops.config.units import (
    DURATION_PATTERN,
    Count,
    as_duration,
    as_share,
    as_size,
    count,
    duration,
)


def refusal(read: Callable[[str], object], text: str) -> str:
    try:
        read(text)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("2d", 172800)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "30 s", "-5s", "1e3s", "30sec", "nan", "٣s", "1s2", "1s" * 6, "1s\n"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="30s, 10m, 1h30m"):
        duration(text)
    assert re.search(DURATION_PATTERN, text) is None or text.endswith("\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (0.9999, "1s"), (1.5, "1.5s"), (59.97, "1m"), (5400, "1h30m")],
)
def test_a_duration_is_written_the_usual_way(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


@given(st.floats(0.001, 10**8))
def test_what_is_written_can_be_read_again(seconds: float) -> None:
    assert duration(as_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.5)


@given(st.text(max_size=300))
def test_any_text_is_a_duration_or_refused_in_one_short_line(text: str) -> None:
    for read in (duration, count):
        says = refusal(read, text)
        assert len(says) < 300
        assert says.isprintable()


def test_a_share_is_rounded_down_for_at_most_and_up_for_at_least() -> None:
    assert (Count(25, percent=True).down(7), Count(25, percent=True).up(7)) == (1, 2)
    assert (Count(3).down(7), Count(3).up(7)) == (3, 3)


@pytest.mark.parametrize("text", ["101%", "-1", "1.5", "%", "", "٣", "1234567"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"count|everything"):
        count(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (312 * 1024**2, "312M"),
        (1023 * 1024**2, "1.0G"),
        (2_000_000_000, "1.9G"),
        (100 * 1024**3, "100G"),
        (3 * 1024**5, "3072T"),
    ],
)
def test_sizes_are_told_as_df_and_free_do(amount: int, text: str) -> None:
    assert as_size(amount) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.0, "0%"), (0.5, "50%"), (0.07, "7%"), (0.9701, "98%"), (0.001, "1%"), (1.0, "100%")],
)
def test_a_share_is_rounded_up(part: float, text: str) -> None:
    assert as_share(part) == text
