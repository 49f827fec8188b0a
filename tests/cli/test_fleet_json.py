"""The JSON that scripts read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator

from celery_ops.cli import fleet_json
from celery_ops.model import HeldMessage, Unproven
from tests.cli.snapshots import HOSTILE, known_worker, snapshot, unknown_worker

_MOMENT = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_COUNT = {"type": ["integer", "null"], "minimum": 0}
_TEXT = {"type": ["string", "null"]}


def _object(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: object) -> dict[str, object]:
    return {"type": "array", "items": of}


WORKER = _object(
    name={"type": "string"},
    state={"type": "string"},
    age={"type": ["number", "null"], "minimum": 0},
    pid=_COUNT,
    started_at=_MOMENT,
    pool=_TEXT,
    concurrency=_COUNT,
    active=_COUNT,
    reserved=_COUNT,
    scheduled=_COUNT,
    queues={"type": ["array", "null"], "items": {"type": "string"}},
    processed=_COUNT,
    version=_TEXT,
    service={"type": ["object", "null"], "required": ["host"]},
)
QUEUE = _object(
    name={"type": "string"},
    ready=_COUNT,
    unacked=_COUNT,
    consumers=_COUNT,
    oldest=_MOMENT,
    orphans=_COUNT,
)
PROBLEM = _object(
    rule={"type": "string"},
    level={"enum": ["error", "warning", "info"]},
    subject={"type": "string"},
    says={"type": "string"},
    fix={"type": "string"},
)
HEAD = {
    "context": {"type": "string"},
    "broker": {"type": "string"},
    "at": {**_MOMENT, "type": "string"},
    "complete": {"type": "boolean"},
}
STATUS = _object(
    **HEAD,
    workers=_list(WORKER),
    queues=_list(QUEUE),
    problems=_list(PROBLEM),
    taken=_list(_object(worker={"type": "string"}, run={"type": "string"}, at=_MOMENT)),
    holder={"type": ["object", "null"]},
    orphans={"type": ["array", "null"], "items": _object(id=_TEXT, task=_TEXT, queue=_TEXT)},
    unproven=_list(_object(queue=_TEXT, messages=_COUNT, why={"type": "string"})),
)
WORKERS = _object(**HEAD, workers=_list(WORKER))
QUEUES = _object(**HEAD, queues=_list(QUEUE))


def assert_valid(document: Any, schema: dict[str, object]) -> None:
    Draft202012Validator(schema).validate(document)


def test_orphans_are_told_or_said_to_be_unknown() -> None:
    left = HeldMessage("tag", "id-1", "app.send", "mail", snapshot().at)
    doubt = Unproven("mail", (left, left), "b@web2 has not answered")
    open_ = replace(snapshot(), orphans=(left,), unproven=(doubt, replace(doubt, settles=True)))
    told = fleet_json.status(open_)
    assert told["orphans"] == [
        {"id": "id-1", "task": "app.send", "queue": "mail", "since": fleet_json.moment(left.since)}
    ]
    assert told["unproven"] == [
        {"queue": "mail", "messages": 2, "why": "b@web2 has not answered", "vouch_for": []}
    ]
    assert_valid(json.loads(fleet_json.page(told)), STATUS)
    assert fleet_json.status(snapshot())["orphans"] is None


def test_the_documents_have_their_shapes() -> None:
    fleet = snapshot()
    assert_valid(json.loads(fleet_json.page(fleet_json.status(fleet))), STATUS)
    assert_valid(json.loads(fleet_json.line(fleet_json.workers(fleet))), WORKERS)
    assert_valid(json.loads(fleet_json.line(fleet_json.queues(fleet))), QUEUES)


def test_a_worker_is_told_as_documented() -> None:
    told = fleet_json.worker(known_worker(), snapshot().at)
    assert told == {
        "name": "worker1@web1",
        "state": "online",
        "says": "",
        "age": 0.4,
        "pid": 11066,
        "started_at": "2026-11-20T02:12:00.123Z",
        "pool": "prefork",
        "concurrency": 4,
        "active": 0,
        "reserved": 0,
        "scheduled": 0,
        "queues": ["default"],
        "processed": 1234,
        "version": None,
        "service": {"host": "web1", "systemd": "celery-worker@1.service", "state": "running"},
        "taken": None,
        "mine": True,
    }


def test_what_is_not_known_is_null_and_never_zero() -> None:
    told = fleet_json.worker(unknown_worker(), snapshot().at)
    assert {key for key, value in told.items() if value is not None} == {
        "name", "state", "says", "mine",
    }  # fmt: skip


def test_a_document_is_one_line_whatever_is_in_it() -> None:
    line = fleet_json.line(fleet_json.status(snapshot(unknown_worker(HOSTILE))))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["workers"][0]["name"] == HOSTILE


def test_who_took_what_and_who_holds_the_lease_is_told() -> None:
    told = fleet_json.status(snapshot())
    assert told["taken"][0]["operator"] == "ann@desk"
    assert told["taken"][0]["queues"] == ["default"]
    assert told["holder"]["what"] == "rolling-restart"
