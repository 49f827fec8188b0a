"""The proof that a worker is drained, as a table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery_ops.fleet.drain import DrainProof, DrainReading
from celery_ops.model import Incarnation

LIFE = Incarnation("w@h", 7, datetime(2026, 11, 20, tzinfo=UTC))
QUIET = DrainReading(0.0, 0.0, LIFE, (), 0, 0, 41)


def readings(*moments: float, of: DrainReading = QUIET) -> list[DrainReading]:
    return [replace(of, asked=at, ended=at) for at in moments]


def proof_of(series: list[DrainReading]) -> DrainProof:
    proof = DrainProof()
    for reading in series:
        proof = proof.after(reading)
    return proof


def test_three_quiet_rounds_that_span_long_enough_are_a_proof() -> None:
    proof = proof_of(readings(0.0, 0.8, 1.6))
    assert proof.proved
    assert proof.missing == ""
    assert proof.quiet_for == pytest.approx(1.6)


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(readings(0.0, 3.0), id="two rounds"),
        pytest.param(readings(0.0, 0.5, 1.0, 1.4), id="too short"),
        pytest.param([replace(QUIET, asked=i / 2, ended=i / 2 + 2.0) for i in range(5)], id="slow"),
    ],
)
def test_fewer_or_shorter_rounds_prove_nothing(series: list[DrainReading]) -> None:
    assert not proof_of(series).proved


def test_what_is_missing_is_told_once_and_not_with_every_look() -> None:
    told = {proof_of(readings(*range(count))).missing for count in (1, 2)}
    assert told == {"holds nothing visible, and has to stay so for 1.5 s"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"active": 1}, "1 active"),
        ({"active": None}, "active unknown"),
        ({"reserved": 2}, "2 reserved"),
        ({"reserved": None}, "arguments that are not JSON"),
        ({"consuming": None}, "what it consumes is unknown"),
        ({"consuming": ("mail",)}, "consumes mail"),
        ({"processed": None}, "stats unknown"),
        ({"incarnation": None}, "stats unknown"),
    ],
)
def test_one_round_that_is_busy_or_unknown_begins_the_proof_anew(
    changed: dict[str, Any], says: str
) -> None:
    disturbed = replace(QUIET, asked=1.6, ended=1.6, **changed)
    proof = proof_of([*readings(0.0, 0.8), disturbed])
    assert not proof.proved
    assert says in proof.missing
    assert not proof_of([*readings(0.0, 0.8), disturbed, *readings(1.7, 1.8)]).proved


def test_a_task_that_came_and_went_between_rounds_is_noticed() -> None:
    one_more = replace(QUIET, processed=42)
    assert not proof_of([*readings(0.0, 0.8), *readings(1.6, of=one_more)]).proved


def test_a_new_incarnation_proves_nothing_of_the_old_one() -> None:
    reborn = Incarnation("w@h", 7, LIFE.started_at + timedelta(minutes=1))
    other = replace(QUIET, incarnation=reborn)
    assert not proof_of([*readings(0.0, 0.8, 1.6), *readings(1.7, of=other)]).proved


def test_a_queue_taken_up_in_between_starts_the_wait_for_the_last_pop_again() -> None:
    consuming = replace(QUIET, consuming=("mail",))
    series = [*readings(0.0, 0.8), *readings(1.0, of=consuming), *readings(1.1, 1.9)]
    assert not proof_of(series).proved
    assert proof_of([*series, *readings(2.65)]).proved
