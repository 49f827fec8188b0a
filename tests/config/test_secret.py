"""Secrets do not show."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.secret import MASK, Secret, masked

PASSWORD = "s3cr3t/?#@:x"


def test_a_secret_shows_only_when_it_is_revealed() -> None:
    secret = Secret(PASSWORD)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{[secret]}"]
    assert not any(PASSWORD in text for text in shown)
    assert secret.reveal() == PASSWORD


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, json.dumps])
def test_a_secret_is_not_serialised(write: Callable[[object], object]) -> None:
    with pytest.raises(TypeError):
        write(Secret(PASSWORD))


def test_equal_secrets_are_equal() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("amqp://user:pw@h//", "amqp://user:***@h//"),
        ("sentinel://:a@h1:1;sentinel://:b@h2:2", "sentinel://:***@h1:1;sentinel://:***@h2:2"),
        ("redis://:p/w?x#y@h/0", "redis://:***@h/0"),
        ("cannot reach 'redis://u:pw@h/0'.", "cannot reach 'redis://u:***@h/0'."),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("see http://h:80/x and a@b.c", "see http://h:80/x and a@b.c"),
        ("worker1@web1: 3 tasks", "worker1@web1: 3 tasks"),
    ],
)
def test_passwords_of_urls_are_masked_and_the_rest_stays(text: str, expected: str) -> None:
    assert masked(text) == expected


@given(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    st.sampled_from(["redis://:{}@h/0", "x amqp://u:{}@h:1//;y", "a://h,redis://u:{}@h"]),
    st.booleans(),
)
def test_no_password_gets_through(password: str, url: str, quoted: bool) -> None:
    password = f"<{password}>"
    text = url.format(quote(password, safe="") if quoted else password)
    assert password not in masked(text)
    assert quote(password, safe="") not in masked(text)
    assert MASK in masked(text)


@pytest.mark.parametrize("text", ["://:", "?", "a", ",a://", "://?passw", "x://:@"])
def test_masking_takes_no_longer_than_the_text_is_long(text: str) -> None:
    masked(text * (1_000_000 // len(text)))
