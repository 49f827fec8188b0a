"""Records that other operators read."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.broker import records
from celery_ops.errors import RecordUnreadable
from celery_ops.model import ConsumedQueue, Holder, Incarnation, ServiceRef, TakenRecord
from tests.broker.contract import ANN, RUN, STOPPED, TAKEN

MOMENTS = st.datetimes(min_value=datetime(1990, 1, 1), timezones=st.just(UTC))
TEXTS = st.text(st.characters())
RECORDS = st.builds(
    TakenRecord,
    kind=st.sampled_from(["queues", "service"]),
    worker=TEXTS,
    incarnation=st.none() | st.builds(Incarnation, TEXTS, st.integers(), MOMENTS),
    queues=st.lists(st.builds(ConsumedQueue, TEXTS, TEXTS)).map(tuple),
    service=st.none()
    | st.builds(
        ServiceRef, TEXTS, TEXTS, TEXTS, st.none() | TEXTS, st.booleans(), st.none() | TEXTS
    ),
    run=TEXTS,
    operator=TEXTS,
    at=MOMENTS,
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: TakenRecord) -> None:
    assert records.decode_taken(records.encode_taken(record)) == record


@given(RECORDS, st.builds(ConsumedQueue, TEXTS, TEXTS))
def test_a_record_of_a_paused_queue_comes_back_and_is_of_one_queue(
    record: TakenRecord, queue: ConsumedQueue
) -> None:
    paused = replace(record, kind="paused", queues=(queue,))
    assert records.decode_taken(records.encode_taken(paused)) == paused
    assert paused.key == f"paused:{record.worker}:{queue.name}"
    for queues in ((), (queue, queue)):
        with pytest.raises(RecordUnreadable):
            records.decode_taken(records.encode_taken(replace(paused, queues=queues)))


@given(st.builds(Holder, TEXTS, TEXTS, TEXTS, MOMENTS, TEXTS), TEXTS)
def test_a_holder_comes_back_as_it_was(holder: Holder, token: str) -> None:
    assert records.decode_lease(records.encode_lease(holder, token)) == holder


def test_every_field_of_a_record_is_written() -> None:
    written = json.loads(records.encode_taken(STOPPED))
    assert written.keys() == {field.name for field in fields(TakenRecord)} | {"v"}
    assert written["service"].keys() == {field.name for field in fields(ServiceRef)}


def test_moments_are_read_in_any_zone() -> None:
    written = json.loads(records.encode_lease(ANN, "t"))
    written["since"] = ANN.since.astimezone(timezone(timedelta(hours=5))).isoformat()
    assert records.decode_lease(json.dumps(written)) == ANN


def test_what_earlier_versions_wrote_is_read() -> None:
    lease = json.loads(records.encode_lease(ANN, "t"))
    del lease["step"]
    assert records.decode_lease(json.dumps(lease)) == ANN
    run = json.loads(records.encode_run(RUN))
    del run["broken_by"]
    assert records.decode_run(json.dumps(run)) == RUN


def changed(**entries: object) -> str:
    return json.dumps({**json.loads(records.encode_taken(TAKEN)), **entries})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "version None"),
        (changed(v=2), "version 2"),
        (changed(kind="beat"), "unknown kind: 'beat'"),
        (changed(worker=None), "'worker'"),
        (changed(at="yesterday"), "'at'"),
        (changed(at="2026-11-20T03:00:00"), "'at'"),
        (changed(queues=None), "'queues'"),
        (changed(queues=[["mail"]]), "'queues'"),
        (changed(queues=[["mail", 1]]), "'queues'"),
        (changed(incarnation=[]), "'incarnation'"),
        (changed(incarnation={"node": "x", "pid": "1"}), "'pid'"),
        (changed(service={"host": "x"}), "'supervisor'"),
        (changed(more=1), "'more'"),
    ],
)
def test_half_a_record_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecordUnreadable) as refused:
        records.decode_taken(text)
    assert says in refused.value.says


TREE: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(json.loads(records.encode_taken(STOPPED)))), TREE)
def test_no_record_makes_the_reader_fail_otherwise(name: str, value: object) -> None:
    text = json.dumps({**json.loads(records.encode_taken(STOPPED)), name: value})
    try:
        records.decode_taken(text)
    except RecordUnreadable:
        return
