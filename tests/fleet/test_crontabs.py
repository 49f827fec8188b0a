"""Crontabs are read as Celery itself reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery.schedules import crontab as celery_crontab
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.fleet import crontabs

NIGHT = datetime(2026, 11, 26, 1, 30, 20, tzinfo=UTC)


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    span = st.tuples(number, number).map("-".join)
    stepped = st.tuples(st.one_of(st.just("*"), span), st.integers(1, 70)).map(
        lambda pair: f"{pair[0]}/{pair[1]}"
    )
    part = st.one_of(st.just("*"), number, span, stepped)
    return st.lists(part, min_size=1, max_size=3).map(",".join)


WEEKDAYS = st.one_of(fields(0, 6), st.sampled_from(["mon", "sun", "mon-fri", "sat,sun", "fri-mon"]))
MONTHS = st.one_of(fields(1, 12), st.sampled_from(["jan", "mar-may", "nov-feb"]))


@given(fields(0, 59), fields(0, 23), fields(1, 31), MONTHS, WEEKDAYS)
def test_every_field_has_the_numbers_that_celery_gives_it(
    minute: str, hour: str, day: str, month: str, weekday: str
) -> None:
    ours = crontabs.parse((minute, hour, day, month, weekday))
    theirs = celery_crontab(minute, hour, weekday, day, month)
    assert ours is not None
    assert ours.minutes == theirs.minute
    assert ours.hours == theirs.hour
    assert ours.days == theirs.day_of_month
    assert ours.months == theirs.month_of_year
    assert ours.weekdays == theirs.day_of_week


@given(fields(0, 59), fields(0, 23), WEEKDAYS, st.integers(0, 3000))
def test_it_came_due_if_celery_says_that_it_did(
    minute: str, hour: str, weekday: str, minutes: int
) -> None:
    until = NIGHT + timedelta(minutes=minutes)
    ours = crontabs.parse((minute, hour, "*", "*", weekday))
    theirs = celery_crontab(minute, hour, weekday, nowfun=lambda: until)
    assert ours is not None
    is_due = theirs.remaining_estimate(NIGHT).total_seconds() <= 0
    assert ours.came_due(NIGHT, until, "UTC") is is_due


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("* * * * *", 60),
        ("*/5 * * * *", 300),
        ("0,10 */2 * * *", 600),
        ("30 4 * * *", 86_400),
        ("55,0 23,0 * * *", 300),
    ],
)
def test_the_shortest_interval_is_that_between_two_neighbours(written: str, seconds: int) -> None:
    crontab = crontabs.parse(written.split())
    assert crontab is not None
    assert crontab.shortest == seconds


@pytest.mark.parametrize(
    "written",
    ["", "* * * *", "x * * * *", "{0, 30} * * * *", "99 * * * *", "-1 * * * *", "1/ * * * *"],
)
def test_what_is_not_understood_is_not_guessed(written: str) -> None:
    assert crontabs.parse(written.split(" ")) is None


def test_it_goes_by_the_clock_of_its_time_zone() -> None:
    crontab = crontabs.parse(["0", "3", "*", "*", "*"])
    assert crontab is not None
    later = NIGHT + timedelta(hours=1)
    assert crontab.came_due(NIGHT, later, "Europe/Berlin") is True, "three there is two in UTC"
    assert crontab.came_due(NIGHT, later, "UTC") is False
    assert crontab.came_due(NIGHT, later, "Mars/Base") is None
    assert crontab.came_due(NIGHT, later, "../../etc/passwd") is None
    assert crontab.came_due(NIGHT, NIGHT + timedelta(days=90), "UTC") is None
