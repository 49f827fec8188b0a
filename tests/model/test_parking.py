"""Names of queues of parked messages: whatever a queue is called, it is found again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.model import Parked, parked


@given(st.text(min_size=1))
def test_the_name_tells_where_they_came_from(queue: str) -> None:
    place = Parked(queue, "20261126-031200-abcd", "2")
    assert parked(str(place)) == place
    nested = Parked(str(place), "20261127-031200-abcd", "3undo")
    assert parked(str(nested)) == nested


@pytest.mark.parametrize(
    "name",
    ["mail", "celery-ops.parked.", "celery-ops.parked.mail", "celery-ops.parked.mail.run",
     "celery-ops.parked..run-1", "celery-ops.parked.mail.-1", "x.celery-ops.parked.mail.run-1"],
)  # fmt: skip
def test_other_queues_are_not_taken_for_parked_ones(name: str) -> None:
    assert parked(name) is None
