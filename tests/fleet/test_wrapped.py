"""Originals are read out of the arguments of their wrappers, and nothing is guessed."""

from __future__ import annotations

import json
import pickle
import zlib
from typing import Any

import pytest

from celery_ops.errors import UsageError
from celery_ops.fleet.wrapped import Fields, NoOriginal, Original, original
from celery_ops.model import Body, StoredMessage

FIELDS = Fields("kwargs.name", "kwargs.id", "kwargs.args", "kwargs.kwargs", "kwargs.queue")
SAID: dict[str, Any] = {
    "name": "shop.mail", "id": "id-1", "args": [1], "kwargs": {"to": "ann"}, "queue": "mail",
}  # fmt: skip


def wrapper(args: Any = (), kwargs: Any = None, **body: Any) -> StoredMessage:
    data = json.dumps([list(args), kwargs or {}, {}]).encode()
    return StoredMessage(b"", body=Body(**{"data": data, **body}))


def said(**other: Any) -> StoredMessage:
    return wrapper(kwargs={**SAID, **other})


FOUND = Original("shop.mail", "id-1", [1], {"to": "ann"}, "mail")


def test_the_fields_of_the_original_are_where_the_paths_say() -> None:
    assert original(wrapper(kwargs=SAID), FIELDS) == FOUND
    nested = Fields("args.1.0.name", "args.1.0.id", "args.1.0.args", "args.1.0.kwargs")
    found = original(wrapper(args=["x", [SAID]]), nested)
    assert found == Original("shop.mail", "id-1", [1], {"to": "ann"}, None)
    assert original(wrapper(kwargs=SAID), Fields("kwargs.name", "kwargs.id")) == Original(
        "shop.mail", "id-1", [], {}, None
    )


def test_of_protocol_1_they_are_in_the_body() -> None:
    data = json.dumps({"task": "store", "args": [], "kwargs": SAID}).encode()
    assert original(wrapper(data=data), FIELDS) == FOUND


def test_a_compressed_body_is_opened() -> None:
    data = zlib.compress(json.dumps([[], SAID, {}]).encode())
    assert original(wrapper(data=data, compression="application/x-gzip"), FIELDS) == FOUND


def test_arguments_that_are_a_text_of_json_are_read_and_it_is_said() -> None:
    found = original(said(args="[1]", kwargs='{"to": "ann"}'), FIELDS)
    assert (found.args, found.kwargs, found.from_text) == ([1], {"to": "ann"}, True)


def test_what_kombu_marks_stays_marked_for_the_worker_to_read() -> None:
    marked = {"__type__": "datetime", "__value__": "2026-11-26T03:00:00"}
    assert original(said(kwargs={"at": marked}), FIELDS).kwargs == {"at": marked}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (said(name=None), "kwargs.name is not a text"),
        (said(name=""), "kwargs.name is not a text"),
        (said(name="x" * 256), "kwargs.name is no name"),
        (said(id="\ud800"), "kwargs.id is no name"),
        (said(id=3), "kwargs.id is not a text"),
        (said(args={"a": 1}), "kwargs.args is not a list"),
        (said(args="(1,)"), "kwargs.args is a text that is no JSON"),
        (said(args="[" * 100_000), "kwargs.args is a text that is no JSON"),
        (said(kwargs=[1]), "kwargs.kwargs is not a mapping"),
        (said(kwargs=None), "kwargs.kwargs is not a mapping"),
        (said(queue=["mail"]), "kwargs.queue is not a text"),
        (wrapper(kwargs={}), "there is no kwargs.args"),
        (wrapper(data=b"3"), "its body is not the arguments of a task"),
        (wrapper(data=b"{"), "its body is not opened: not the JSON it claims to be"),
        (
            wrapper(
                data=pickle.dumps([[], SAID, {}]), content_type="application/x-python-serialize"
            ),
            "its body is not opened: pickle",
        ),
        (
            wrapper(data=zlib.compress(b" " * 2_000_000), compression="gzip"),
            "its body is not opened: larger than 1 MiB",
        ),
        (StoredMessage(b""), "no body"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_or_of_another_type_is_the_reason(message: StoredMessage, why: str) -> None:
    with pytest.raises(NoOriginal, match="^" + why.replace(".", r"\.")):
        original(message, FIELDS)


@pytest.mark.parametrize("path", ["args.9", "args.x", "args.-1", "args.0.x", "kwargs.none.x"])
def test_a_path_that_leads_nowhere_is_said(path: str) -> None:
    with pytest.raises(NoOriginal, match="there is no " + path.replace(".", r"\.")):
        original(wrapper(args=["text"], kwargs=SAID), Fields(path, "kwargs.id"))


@pytest.mark.parametrize("path", ["", "name", "kwargs.", "headers.id", "kwargs.a b", ".kwargs"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        Fields(path, "kwargs.id").check()
    Fields("kwargs", "args.0").check()
