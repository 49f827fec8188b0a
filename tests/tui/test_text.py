"""Text that others wrote, and numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.tui.text import Cell, Tone, age, aged, number, safe
from tests.tui.fleets import HOSTILE


@given(st.text(alphabet=st.characters(), max_size=300))
def test_no_text_can_steer_the_terminal(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_one_printable_line(text: str) -> None:
    assert safe(text).isprintable()
    assert "\n" not in safe(text)


def test_a_control_character_is_shown_and_not_dropped() -> None:
    assert safe("a\x1b[31mb\n") == "a␛[31mb␊"
    assert safe("\u202eexe") == "<202E>exe"
    assert safe("\x7f\x9b") == "␡<009B>"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert safe("x" * 10_000, 10) == "xxxxxxxxx…"


def test_letters_of_any_language_stay() -> None:
    assert safe("Müller漢字é") == "Müller漢字é"


def test_a_pile_of_combining_marks_is_cut_down() -> None:
    assert len(safe("e" + "\u0301" * 500)) == 3


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "?"), (-0.3, "0.0s"), (0.44, "0.4s"), (8.9, "8s"), (94, "1m"), (7_300, "2h"),
        (900_000, "10d"),
    ],
)  # fmt: skip
def test_ages_are_short(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown


def test_what_is_not_known_is_never_a_number() -> None:
    assert number(None) == "?"
    assert number(0) == "0"
    assert number(1204) == "1,204"


def test_a_stale_value_is_dim_and_tells_its_age() -> None:
    assert aged("2", 1.0) == Cell("2")
    assert aged("2", 8.0) == Cell("2 (8s)", Tone.DIM)
