"""Which run is meant by what is typed after `runs adopt`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from celery_ops.cli.adopt import _of_run
from celery_ops.errors import UsageError
from celery_ops.model import TakenRecord

AT = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def taken(run: str, worker: str) -> TakenRecord:
    return TakenRecord("queues", worker, None, (), None, run, "ann@desk", AT)


FIRST, SECOND = taken("20261120-030000-00ab", "w1@web1"), taken("20261121-030000-00ab", "w2@web1")


def test_the_end_of_an_id_is_enough() -> None:
    assert _of_run([FIRST], "00ab") == [FIRST]
    assert _of_run([FIRST, SECOND], FIRST.run) == [FIRST]


def test_the_end_of_two_ids_is_refused() -> None:
    with pytest.raises(UsageError, match=f"{FIRST.run}, {SECOND.run}"):
        _of_run([SECOND, FIRST], "00ab")
