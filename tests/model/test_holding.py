"""Names of what a hold uses: found again by themselves."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from celery_ops.model import HELD, HOLD, ConsumedQueue, Parked, TakenRecord, parked
from celery_ops.model.holding import arrived, behind, held_of, hold_of, places, through

AT = datetime(2026, 11, 26, 3, tzinfo=UTC)
QUEUE = ConsumedQueue("mail", "{}")


def record(kind: str, worker: str = "", tasks: tuple[str, ...] = ("shop.mail",)) -> TakenRecord:
    return TakenRecord(kind, worker, None, (QUEUE,), None, "r-1", "ann@web", AT, tasks)


@given(st.text(min_size=1))
def test_the_name_tells_what_it_stands_in_for(queue: str) -> None:
    assert behind(through(queue)) == queue
    assert parked(held_of(queue, "r-1")) == Parked(queue, "r-1", "hold")


def test_other_queues_are_not_taken_for_one() -> None:
    for name in ("mail", "celery-ops.through.", "celery-ops.through", "x.celery-ops.through.mail"):
        assert behind(name) is None


def test_a_hold_is_one_and_its_workers_are_many() -> None:
    hold, held = record(HOLD), record(HELD, "a@web")
    assert (hold.key, held.key) == ("hold", "held:a@web:mail")
    assert hold_of([held]) is None
    assert hold_of([held, hold]) == hold
    assert list(places([held, hold])) == [
        arrived("mail"), through("mail"), held_of("mail", "r-1")
    ]  # fmt: skip
    assert hold.mend == held.mend == "celery-ops task release shop.mail"
    assert hold.says == "shop.mail held, in mail"
    assert (held.paused, held.queue) == (None, "mail")
