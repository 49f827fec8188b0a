"""The history of the queues' depths, and how it is drawn."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_ops.tui.depths import POINTS, SECONDS, Depths, sparkline
from tests.tui import fleets
from tests.tui.fleets import NOW


def noted(*readings: tuple[float, int | None], lost: bool = False) -> Depths:
    """(points after NOW, ready) of the queue `mail`."""
    depths = Depths()
    for point, ready in readings:
        at = NOW + timedelta(seconds=point * SECONDS)
        snapshot = fleets.fleet((), (fleets.queue("mail", ready=ready),), at=at)
        depths.note(snapshot)
    if lost:
        depths.note(fleets.lost())
    return depths


def of(depths: Depths, until: float, points: int = 5) -> tuple[int | None, ...]:
    return depths.of("mail", NOW + timedelta(seconds=until * SECONDS), points)


def test_a_point_is_the_most_that_waited_meanwhile() -> None:
    depths = noted((0, 3), (0.1, 7), (0.2, 5), (1, 4))
    assert of(depths, 1, 2) == (7, 4)


def test_what_was_not_read_is_a_gap_and_not_nothing() -> None:
    assert of(noted((0, 3), (1, None), (3, 0)), 3) == (None, 3, None, None, 0)


def test_a_lost_broker_leaves_a_gap() -> None:
    assert of(noted((1, 3), lost=True), 3, 4) == (None, 3, None, None)


def test_the_oldest_points_make_room_for_the_newest() -> None:
    depths = noted(*((point, point) for point in range(3 * POINTS)))
    last = 3 * POINTS - 1
    assert of(depths, last, POINTS) == tuple(range(last - POINTS + 1, last + 1))


def test_a_long_pause_leaves_nothing_of_before() -> None:
    assert of(noted((0, 3), (2 * POINTS, 4)), 2 * POINTS, POINTS) == (*[None] * (POINTS - 1), 4)


def test_a_frozen_display_keeps_its_history_as_long_as_there_is_any() -> None:
    depths = noted(*((point, point) for point in range(20)))
    assert of(depths, 4, 3) == (2, 3, 4)
    depths = noted((0, 1), (4 * POINTS, 2))
    assert of(depths, 0, 1) == (None,)


def test_a_clock_that_is_set_back_begins_anew() -> None:
    assert of(noted((10 * POINTS, 3), (0, 4)), 0, 2) == (None, 4)


def test_a_queue_that_is_gone_is_forgotten_in_the_end() -> None:
    depths = noted((0, 3))
    for point in range(1, 3 * POINTS):
        at = NOW + timedelta(seconds=point * SECONDS)
        depths.note(fleets.fleet((), (fleets.queue("other"),), at=at))
    assert depths._points.keys() == {"other"}


@pytest.mark.parametrize(
    ("points", "drawn"),
    [
        ((0, 0, 0), "▁▁▁"),
        ((0, 1, 1_000), "▁▂█"),
        ((5, None, 5), "█ █"),
        ((None, None), "  "),
        ((7, 14), "▅█"),
        ((), ""),
    ],
)
def test_bars_tell_nothing_from_little_and_from_unknown(
    points: tuple[int | None, ...], drawn: str
) -> None:
    assert sparkline(points) == drawn
