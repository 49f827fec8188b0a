"""Where in a file a character of a YAML value stands.

A value's own place is known from the parser; quotes, escapes, folded lines and block scalars shift
what is inside it. Where the two texts do not match, the place of the whole value is the answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from celery_ops.config.document import Place

if TYPE_CHECKING:
    from celery_ops.config.document import Scalar

_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1, as PyYAML counts lines
_BLOCK_HEADER = re.compile(r"[|>][^\n]*\n")


class Source:
    """The text of a YAML file, to look positions up in."""

    def __init__(self, text: str) -> None:
        self.lines = _LINE_END.split(text.removeprefix("\ufeff"))

    def place(self, scalar: Scalar, offset: int) -> Place:
        """The place of the character at `offset` (from 0) of a scalar's value, or of its end."""
        start = scalar.place
        rest = self.lines[start.line - 1 :]
        written = "\n".join([rest[0][start.column - 1 :], *rest[1:]]) if rest else ""
        index = _index_of(scalar, written, offset)
        if index is None:
            return start
        before = written[:index]
        if "\n" not in before:
            return Place(start.file, start.line, start.column + index)
        line = start.line + before.count("\n")
        return Place(start.file, line, index - before.rindex("\n"))


def _index_of(scalar: Scalar, written: str, offset: int) -> int | None:
    """Where in `written`, which begins with the scalar as it stands in the file, the offset is."""
    header = _BLOCK_HEADER.match(written)
    index = header.end() if header else int(scalar.quoted)
    for character in scalar.text[:offset]:
        if character.isspace():
            index += written[index : index + 1].isspace()
            continue
        index = _skip_space(written, index)
        if written.startswith('"') and written[index : index + 1] == "\\":
            index += 1
        if written[index : index + 1] != character:
            return None
        doubled = written.startswith("'") and character == "'"
        index += 2 if doubled else 1
    if offset < len(scalar.text) and not scalar.text[offset].isspace():
        index = _skip_space(written, index)
    return index


def _skip_space(text: str, index: int) -> int:
    while text[index : index + 1].isspace():
        index += 1
    return index
