"""Bodies are opened within a bound, as JSON or not at all."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.model.bodies import MOST_OPENED, Closed, name_of, opened
from celery_ops.model.messages import Body

SENT = [[1, "ann"], {"lang": "de"}, {}]
JSON = json.dumps(SENT).encode()
COMPRESSED = {
    "application/x-gzip": zlib.compress(JSON),  # as kombu does it
    "gzip": gzip.compress(JSON),
    "application/x-bz2": bz2.compress(JSON),
    "application/x-lzma": lzma.compress(JSON),
    "zlib": zlib.compress(JSON),
}
BOMB = b"[" + b"0," * (10 * MOST_OPENED) + b"0]"


@pytest.mark.parametrize("compression", COMPRESSED)
def test_compressed_bodies_are_opened(compression: str) -> None:
    assert opened(Body(COMPRESSED[compression], compression=compression)) == SENT
    assert opened(Body(JSON)) == SENT


@pytest.mark.parametrize(
    ("compression", "data"),
    [
        ("application/x-gzip", zlib.compress(BOMB)),
        ("application/x-bz2", bz2.compress(BOMB)),
        ("application/x-lzma", lzma.compress(BOMB)),
        (None, BOMB),
    ],
    ids=["gzip", "bz2", "lzma", "as it is"],
)
def test_what_is_larger_than_the_bound_stays_closed(compression: str | None, data: bytes) -> None:
    with pytest.raises(Closed, match="larger than 1 MiB"):
        opened(Body(data, compression=compression))


def test_a_body_of_just_that_size_is_opened() -> None:
    data = b'"' + b"x" * (MOST_OPENED - 2) + b'"'
    assert len(str(opened(Body(zlib.compress(data), compression="zlib")))) == MOST_OPENED - 2


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (Body(pickle.dumps(SENT), "application/x-python-serialize"), "pickle"),
        (Body(b"- 1", "application/x-yaml"), "yaml"),
        (Body(b"\x91", "application/x-msgpack"), "msgpack"),
        (Body(b"\0", "application/data"), "raw bytes"),
        (Body(b"", ""), "no content type"),
        (Body(b"hello", "text/plain"), "text/plain"),
        (Body(b"", "x" * 100), "x" * 39 + "…"),
        (Body(JSON, compression="application/zstd-next"), "compressed with zstd-next"),
        (Body(JSON, compression="gzip"), "not the gzip it claims to be"),
        (Body(JSON, compression="bz2"), "not the bz2 it claims to be"),
        (Body(JSON, compression="lzma"), "not the lzma it claims to be"),
        (Body(b"\xff\xfe"), "not the JSON it claims to be"),
        (Body(b"{"), "not the JSON it claims to be"),
        (Body(b"9" * 5_000), "not the JSON it claims to be"),
        (Body(b"[" * 100_000 + b"]" * 100_000), "nested too deeply"),
    ],
)
def test_what_cannot_be_opened_says_why(body: Body, why: str) -> None:
    with pytest.raises(Closed) as closed:
        opened(body)
    assert str(closed.value) == why


def test_no_memory_is_given_to_a_window_of_gigabytes() -> None:
    alone = bytearray(lzma.compress(JSON, format=lzma.FORMAT_ALONE))
    assert opened(Body(bytes(alone), compression="lzma")) == SENT
    alone[1:5] = b"\xff\xff\xff\xff"  # the size of its dictionary
    with pytest.raises(Closed, match="not the lzma it claims to be"):
        opened(Body(bytes(alone), compression="lzma"))


def test_values_that_kombu_marks_are_their_texts() -> None:
    marked = {"at": {"__type__": "datetime", "__value__": "2026-11-20T12:00:00"}}
    assert opened(Body(json.dumps(marked).encode())) == {"at": "2026-11-20T12:00:00"}


@given(st.binary(max_size=200), st.sampled_from([None, *COMPRESSED]))
def test_any_bytes_are_opened_or_stay_closed(data: bytes, compression: str | None) -> None:
    with suppress(Closed):
        opened(Body(data, compression=compression))


def test_names_are_short() -> None:
    assert [name_of(one) for one in ("application/json", "APPLICATION/X-GZIP", "zstd")] == [
        "json", "gzip", "zstd",
    ]  # fmt: skip
