"""Opens the bodies of messages: decompressed within a bound, and read as JSON or not at all.

What lies in a queue is hostile input. A pickle could run anything, a few kilobytes can be
compressed from terabytes, and JSON can be nested deeper than it can be read: each of them stays
closed, and the reason is told. Pure.

Names of compressions: `kombu.compression`; of content types: `kombu.serialization`.
"""

from __future__ import annotations

import bz2
import json
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model.messages import Body

MOST_OPENED = 1024 * 1024
"""Bytes of a body that are looked at, decompressed."""
_LZMA_MEMORY = 100 * 1024 * 1024
"""The highest preset of xz needs 65 MiB."""
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_KOMBU_TYPED = {"__type__", "__value__"}
_LONGEST_NAME = 40


class Closed(ValueError):
    """A body that is not opened; the text is the reason, in a few words: `pickle`."""


def opened(body: Body, *, marked: bool = False) -> object:
    """What was sent, of JSON's types; values that kombu marks (dates, UUIDs, …) are their texts,
    or, `marked`, as they were sent.

    Raise Closed if it is not JSON, broken, or larger than MOST_OPENED.
    """
    name = name_of(body.content_type)
    if name != "json":
        raise Closed(name or "no content type")
    data = _decompressed(body)
    if len(data) > MOST_OPENED:
        raise Closed("larger than 1 MiB")
    hook = _plain if not marked and b'"__type__"' in data else None
    try:
        return json.loads(data, object_hook=hook)
    except RecursionError:
        raise Closed("nested too deeply") from None
    except ValueError:
        raise Closed("not the JSON it claims to be") from None


def name_of(content_type: str) -> str:
    """How people call a content type or a compression: `json`, `pickle`, `gzip`."""
    name = content_type.casefold().removeprefix("application/").removeprefix("x-")
    name = {"python-serialize": "pickle", "data": "raw bytes"}.get(name, name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _decompressed(body: Body) -> bytes:
    """At most one byte more than MOST_OPENED."""
    if not body.compression:
        return body.data
    name = name_of(body.compression)
    decompress = _DECOMPRESS.get(name)
    if decompress is None:
        raise Closed(f"compressed with {name}")
    try:
        return decompress(body.data, MOST_OPENED + 1)
    except (OSError, ValueError, EOFError, MemoryError, zlib.error, lzma.LZMAError):
        raise Closed(f"not the {name} it claims to be") from None


def _zlib(data: bytes, most: int) -> bytes:
    # kombu's "gzip" is zlib's format; other clients mean what they say.
    return zlib.decompressobj(wbits=_GZIP_OR_ZLIB).decompress(data, most)


def _bz2(data: bytes, most: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, most)


def _lzma(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(data, most)


_DECOMPRESS: Mapping[str, Callable[[bytes, int], bytes]] = {
    **dict.fromkeys(("gzip", "zlib", "deflate"), _zlib),
    **dict.fromkeys(("bz2", "bzip2", "bzip"), _bz2),
    **dict.fromkeys(("lzma", "xz"), _lzma),
}
if sys.version_info >= (3, 14):
    from compression import zstd

    def _zstd(data: bytes, most: int) -> bytes:
        return zstd.ZstdDecompressor().decompress(data, most)

    _DECOMPRESS = {**_DECOMPRESS, **dict.fromkeys(("zstd", "zstandard"), _zstd)}


def _plain(value: dict[str, object]) -> object:
    return value["__value__"] if value.keys() == _KOMBU_TYPED else value
