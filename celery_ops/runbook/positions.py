"""Where in a file a character of a YAML value stands.

A value's own place is known from the parser; quotes, escapes, folded lines and block scalars shift
what is inside it. Where the two texts do not match, the place of the whole value is the answer.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from celery_ops.config.document import Place

if TYPE_CHECKING:
    from celery_ops.config.document import Scalar

_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1, as PyYAML counts lines
_BLOCK_HEADER = re.compile(r"[|>][^\n]*\n")


class Source:
    """The text of a YAML file, to look positions up in."""

    def __init__(self, text: str) -> None:
        lines = _LINE_END.split(text.removeprefix("\ufeff"))
        self.lines = tuple(lines)
        self._text = "\n".join(lines)
        self._starts = list(accumulate((len(line) + 1 for line in lines), initial=0))

    def place(self, scalar: Scalar, offset: int) -> Place:
        """The place of the character at `offset` (from 0) of a scalar's value, or of its end."""
        start = self._starts[scalar.place.line - 1] + scalar.place.column - 1
        index = self._index_of(scalar, start, offset)
        if index is None:
            return scalar.place
        line = bisect_right(self._starts, index)
        return Place(scalar.place.file, line, index - self._starts[line - 1] + 1)

    def _index_of(self, scalar: Scalar, start: int, offset: int) -> int | None:
        """Where in the file the offset is; None if the value is written in another way."""
        text = self._text
        quote = text[start] if scalar.quoted and text[start : start + 1] in ("'", '"') else ""
        header = _BLOCK_HEADER.match(text, start)
        index = header.end() if header else start + len(quote)
        for character in scalar.text[:offset]:
            if character.isspace():
                index += text[index : index + 1].isspace()
                continue
            index = self._skip_space(index)
            if quote == '"' and text[index : index + 1] == "\\":
                index += 1
            if text[index : index + 1] != character:
                return None
            index += 2 if quote == character == "'" else 1
        behind = scalar.text[offset : offset + 1]
        return self._skip_space(index) if behind and not behind.isspace() else index

    def _skip_space(self, index: int) -> int:
        while self._text[index : index + 1].isspace():
            index += 1
        return index
