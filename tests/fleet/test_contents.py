"""Arguments as they are shown: shortened, masked, and whatever they were, text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.fleet.contents import MOST_SHOWN, contents
from celery_ops.fleet.masking import Masks
from celery_ops.model import Body, StoredMessage

MASKS = Masks(("patient*",))


def of_body(value: object) -> StoredMessage:
    return StoredMessage(b"", body=Body(json.dumps(value).encode()))


@pytest.mark.parametrize(
    ("body", "args", "kwargs"),
    [
        ([[], {}, {}], "()", "{}"),
        ([[1], {}, {}], "(1,)", "{}"),
        ([[1, "a", None, True, 2.5], {}, {}], "(1, 'a', None, True, 2.5)", "{}"),
        ([["it's"], {"a": [1, {"b": []}]}, {}], '("it\'s",)', "{'a': [1, {'b': []}]}"),
        ([[], {"password": ["x", {"y": 1}], "a": 1}, {}], "()", "{'password': ***, 'a': 1}"),
        ([[{"patientName": "Bob"}], {}, {}], "({'patientName': ***},)", "{}"),
        ([[["token", "x"], ["other", "y"]], {}, {}], "(['token', ***], ['other', 'y'])", "{}"),
        ([["--token=x"], {"u": "redis://:pw@h"}, {}], "('--token=***',)", "{'u': 'redis://:***@h'}"),
        ([['{"secret": "x"}'], {}, {}], "('{\"secret\": ***}',)", "{}"),
        ({"args": [1], "kwargs": {"pin": 2}, "task": "t"}, "(1,)", "{'pin': ***}"),
    ],
)  # fmt: skip
def test_arguments_are_read_from_the_body(body: object, args: str, kwargs: str) -> None:
    shown = contents(of_body(body), MASKS)
    assert (shown.args, shown.kwargs, shown.closed) == (args, kwargs, "")


@pytest.mark.parametrize(
    "body", [None, 1, "text", [], {}, [1, 2, 3], [[], []], {"args": {}, "kwargs": []}, [{}, []]]
)
def test_another_body_is_not_taken_for_arguments(body: object) -> None:
    shown = contents(of_body(body), MASKS)
    assert (shown.args, shown.kwargs) == (None, None)
    assert str(shown) == "(not the arguments of a task)"


def test_what_the_publisher_wrote_for_people_wins() -> None:
    body = Body(b"[[7], {}, {}]")
    message = StoredMessage(b"", args="<hidden>", kwargs="{'token': 'x'}", body=body)
    shown = contents(message, MASKS)
    assert (shown.args, shown.kwargs) == ("<hidden>", "{'token': ***}")
    assert str(shown) == "<hidden> {'token': ***}"


def test_a_pickled_message_shows_what_its_headers_tell() -> None:
    body = Body(b"\x80\x05.", "application/x-python-serialize")
    assert contents(StoredMessage(b"", args="(1,)", kwargs="{}", body=body), MASKS).args == "(1,)"
    assert str(contents(StoredMessage(b"", body=body), MASKS)) == "(pickle)"
    assert str(contents(StoredMessage(b""), MASKS)) == "(no body)"


def test_empty_arguments_take_no_room() -> None:
    assert str(contents(of_body([[], {}, {}]), MASKS)) == ""
    assert str(contents(of_body([[1], {}, {}]), MASKS)) == "(1,)"
    assert str(contents(of_body([[], {"a": 1}, {}]), MASKS)) == "{'a': 1}"


LARGE: dict[str, Any] = {
    "long text": "x" * 900_000,
    "many": list(range(100_000)),
    "many empty": [[]] * 200_000,
    "many names": {f"name {number}": number for number in range(30_000)},
    "long names": {"n" * 1_000 + str(number): number for number in range(500)},
    "masked": {f"token {number}": "x" for number in range(30_000)},
    "pairs": [["token", "x"]] * 50_000,
    "deep": json.loads("[" * 400 + "]" * 400),
    "wide and deep": [[[[[list(range(9))] * 9] * 9] * 9] * 9],
    "large number": int("9" * 4_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_more_is_written_than_is_shown(name: str) -> None:
    args = contents(of_body([[LARGE[name]], {}, {}]), MASKS).args
    kwargs = contents(of_body([[], {"a": LARGE[name]}, {}]), MASKS).kwargs
    for part in (args, kwargs):
        assert part is not None
        assert 1 < len(part) <= MOST_SHOWN
        assert "…" in part


@pytest.mark.parametrize("padding", [0, 1_000, 100_000])
def test_texts_of_headers_are_cut_before_anything_is_computed_of_them(padding: int) -> None:
    text = "(" + "'" * padding + "{'password': 'hunter2" + "x" * padding
    shown = contents(StoredMessage(b"", args=text, kwargs=text), MASKS)
    for part in (shown.args, shown.kwargs):
        assert part is not None
        assert len(part) <= MOST_SHOWN
        assert "hunter2" not in part


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.just("password"), inside, max_size=4)
    ),
    max_leaves=20,
)


def hidden(value: object) -> object:
    """The same with a mark wherever a value stands under `password`."""
    if isinstance(value, dict):
        return {
            key: {"deep": ["S3CR3T", 1]} if key == "password" else hidden(item)
            for key, item in value.items()
        }
    return [hidden(item) for item in value] if isinstance(value, list) else value


@given(_json, _json)
def test_any_json_is_shown_without_what_is_hidden(args: object, kwargs: object) -> None:
    shown = contents(of_body([[hidden(args)], {"x": hidden(kwargs)}, {}]), MASKS)
    assert shown.args is not None
    assert "S3CR3T" not in str(shown)
    assert max(len(shown.args), len(shown.kwargs or "")) <= MOST_SHOWN
