"""Values are hidden by their names: in data, and in texts that only look like it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.fleet.masking import Masks

if TYPE_CHECKING:
    from collections.abc import Callable

MASKS = Masks()
SECRET = "S3CR3T"


@pytest.mark.parametrize(
    "key",
    [
        "password", "PASSWORD", "db_password", "userPassword1", "passwd", "pwd", "pw", "passphrase",
        "token", "accessToken", "csrf-token", "secret", "client_secret", "SECRET_KEY", "jwt",
        "Authorization", "HTTP_AUTHORIZATION", "x-api-key", "apiKey", "API_KEY", "apikey",
        "privateKey", "card", "cardNumber", "card_number", "CreditCard", "creditcard", "cvv", "pin",
        "ssn", "iban", "cookie", "Set-Cookie", "sessionid", "session_id", "aws_credentials", "auth",
    ],
)  # fmt: skip
def test_usual_names_are_hidden(key: str) -> None:
    assert MASKS.hide(key)


@pytest.mark.parametrize(
    "key",
    ["name", "discard", "postcard", "shipping", "opinion", "passenger", "author", "id", "key", ""],
)
def test_other_names_are_not(key: str) -> None:
    assert not MASKS.hide(key)


def test_further_names_are_globs_in_any_case() -> None:
    masks = Masks(("Patient*", "diagnosis", "*_nr"))
    hidden = ["patient", "patientName", "PATIENT_ID", "Diagnosis", "insurance_NR"]
    assert [masks.hide(key) for key in hidden] == [True] * len(hidden)
    assert not masks.hide("diagnoses")
    assert not MASKS.hide("patient")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{'password': 'hun\\'ter', 'a': 1}", "{'password': ***, 'a': 1}"),
        ('{"password" : "x", "a": 1}', '{"password" : ***, "a": 1}'),
        ("{b'token': b'x', 1: 2}", "{b'token': ***, 1: 2}"),
        ("Login(user='x', password=Secret('S'), b=2)", "Login(user='x', password=***, b=2)"),
        ("[('Authorization', 'Bearer x'), ('A', 'h')]", "[('Authorization', ***), ('A', 'h')]"),
        ("['mysql', '--password', 'x', 'db']", "['mysql', '--password', ***, 'db']"),
        ("'mysql --password=x'", "'mysql --password=***'"),
        ("'https://h/?token=abc&x=1'", "'https://h/?token=***&x=1'"),
        ("'redis://user:pw@h/0'", "'redis://user:***@h/0'"),
        ("'Authorization: Bearer abc', 1", "'Authorization: ***', 1"),
        ("{'card': {'n': '41', 'c': [1, (2)]}, 'z': 1}", "{'card': ***, 'z': 1}"),
        ("{'card': <Card '41'>, 'z': 1}", "{'card': ***, 'z': 1}"),
        ("{'token': None, 'z': 1}", "{'token': ***, 'z': 1}"),
        ("{'token': 'cut in the mid...", "{'token': ***"),
        ("{'card': {'n': '41...", "{'card': ***"),
        ("'{\"password\": \"a\\\\\"b\", \"k\": 1}'", "'{\"password\": ***"),
        ('{"x": "{\\"pw\\": \\"a\\\\\\"b\\", \\"k\\": 1}"', '{"x": "{\\"pw\\": ***, \\"k\\": 1}"'),
        ("{'password=x': 1}", "{'password=***': 1}"),
        ("('--token=x', 'y')", "('--token=***', 'y')"),
        ("nothing to hide", "nothing to hide"),
        ("", ""),
    ],
)  # fmt: skip
def test_texts_are_masked(text: str, shown: str) -> None:
    assert MASKS.in_text(text) == shown
    assert MASKS.in_text(shown) == shown


@pytest.mark.parametrize("text", ["('hunter2',)", "{'note': 'hunter2'}", "hunter2"])
def test_what_has_no_telling_name_is_shown(text: str) -> None:
    assert MASKS.in_text(text) == text


_keys = st.sampled_from(["password", "api_key", "Authorization", "card", "token"])
_others = st.text(max_size=8)
_junk = st.text(max_size=8)
_secrets = st.builds(lambda before, after: f"{before}{SECRET}{after}", _junk, _junk)
_plain = st.none() | st.booleans() | st.integers() | _junk


def _inside(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, max_size=3) | st.dictionaries(_others, children, max_size=3)


_kept_secret = _secrets | st.lists(_secrets, max_size=3) | st.dictionaries(_others, _secrets)
_data = st.recursive(
    _plain | st.dictionaries(_keys, _kept_secret, max_size=3), _inside, max_leaves=8
)
WRITERS: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "json": json.dumps,
    "json, as it is": lambda value: json.dumps(value, ensure_ascii=False),
    "json in repr": lambda value: repr(json.dumps(value)),
    "json in json": lambda value: json.dumps({"x": json.dumps({"y": value})}),
    "repr in repr": lambda value: repr({"x": repr(value)}),
}


@pytest.mark.parametrize("writer", WRITERS)
@given(data=_data, cut=st.integers(min_value=0, max_value=400))
def test_no_quoted_secret_gets_through_wherever_the_text_was_cut(
    writer: str, data: object, cut: int
) -> None:
    text = WRITERS[writer](data)
    assert SECRET not in MASKS.in_text(text)
    assert SECRET not in MASKS.in_text(text[:cut])


@given(st.text(alphabet="'\"\\:=,;()[]{}<>&\n passwordtoken-", max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    assert isinstance(MASKS.in_text(text), str)
