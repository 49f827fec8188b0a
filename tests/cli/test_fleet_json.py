"""The JSON that scripts read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator

from celery_ops.cli import fleet_json
from celery_ops.model import HeldMessage, Unproven
from tests.cli.snapshots import (
    HOSTILE,
    hosts_snapshot,
    known_worker,
    snapshot,
    unknown_worker,
)

_MOMENT = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_COUNT = {"type": ["integer", "null"], "minimum": 0}
_TEXT = {"type": ["string", "null"]}
_RATE = {"type": ["number", "null"], "minimum": 0}


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
    by_priority={"type": "object", "additionalProperties": _COUNT},
    consumed_by=_list({"type": "string"}),
    waits_since=_MOMENT,
    bytes=_COUNT,
    watched_for={"type": "number", "minimum": 0},
    growth={"type": ["number", "null"]},
    arrivals=_RATE,
    completions=_RATE,
    at_least={"type": "boolean"},
    rates_why=_TEXT,
    drains_in=_RATE,
    elsewhere=_object(eta=_COUNT, next_eta=_MOMENT, limited=_COUNT, delayed=_COUNT),
    paused={"type": "boolean"},
    parked_from=_TEXT,
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

HOST_SERVICE = _object(
    host={"type": "string"},
    state=_TEXT,
    says=_TEXT,
    error=_TEXT,
    age={"type": ["number", "null"], "minimum": 0},
    worker=_TEXT,
    worker_state=_TEXT,
    expected=_TEXT,
    beat={"type": "boolean"},
    pid=_COUNT,
    started_at=_MOMENT,
    restarts=_COUNT,
    processes=_COUNT,
    memory=_COUNT,
    cpu={"type": ["number", "null"], "minimum": 0},
)
DISK = _object(mount={"type": "string"}, size=_COUNT, used=_COUNT, available=_COUNT)
HOST = _object(
    name={"type": "string"},
    address={"type": "string"},
    reachable={"type": ["boolean", "null"]},
    error=_TEXT,
    since=_MOMENT,
    reached_at=_MOMENT,
    unread=_TEXT,
    age={"type": ["number", "null"], "minimum": 0},
    load={"type": ["array", "null"], "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
    cpus=_COUNT,
    memory=_COUNT,
    memory_available=_COUNT,
    disks={"type": ["array", "null"], "items": DISK},
    uptime={"type": ["number", "null"], "minimum": 0},
    services=_list(HOST_SERVICE),
)
HOSTS = _object(
    **HEAD,
    hosts=_list(HOST),
    unmatched_services=_list(HOST_SERVICE),
    unmatched_workers=_list({"type": "string"}),
)


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
    assert_valid(json.loads(fleet_json.line(fleet_json.hosts(hosts_snapshot()))), HOSTS)


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
        "release": None,
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
    assert told["holder"]["step"] == "2.1"


def test_hosts_tell_what_is_known_and_null_for_the_rest() -> None:
    told = fleet_json.hosts(hosts_snapshot())
    web1, web2, db1 = told["hosts"]
    assert [one["reachable"] for one in told["hosts"]] == [True, False, None]
    assert (web1["load"], web1["cpus"], web1["age"]) == ([0.52, 1.0, 2.0], 4, 2.0)
    assert web1["disks"][0] == {"mount": "/", "size": 1000, "used": 850, "available": 150}
    assert (web2["error"], web2["since"]) == ("no route to host", "2026-11-20T03:10:30.123Z")
    assert db1["since"] == "2026-11-20T03:11:52.123Z"
    keys = ("age", "load", "cpus", "memory", "memory_available", "disks", "uptime")
    assert {web2[key] for key in keys} == {None}


def test_services_of_hosts_tell_their_worker_and_what_they_use() -> None:
    told = fleet_json.hosts(hosts_snapshot())
    runs, failed = told["hosts"][0]["services"]
    assert (runs["systemd"], runs["worker"], runs["expected"]) == (
        "celery-worker@1.service", "worker1@web1", None,
    )  # fmt: skip
    assert (runs["memory"], runs["cpu"], runs["processes"], runs["restarts"]) == (
        300 * 1024**2, 1.25, 5, 3,
    )  # fmt: skip
    assert (failed["state"], failed["worker"], failed["memory"]) == ("failed", None, None)
    assert [one["systemd"] for one in told["unmatched_services"]] == [
        "celery-mail.service", "celery-worker@1.service",
    ]  # fmt: skip
    assert told["unmatched_workers"] == ["stray@web9"]
