"""YAML in which everything has a position and nothing is guessed.

Read as YAML 1.2 core from the node graph: `on` and `no` are strings, duplicate keys, anchors,
tags and unknown keys are errors, and all errors of a file are reported at once. Keys that begin
with `x-` are left to the user.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import yaml

from celery_ops.errors import InvalidDocument, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

MAX_BYTES = 250_000
"""No file of ours is near it; a larger one would keep PyYAML busy for minutes."""
MAX_DEPTH = 50
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_PRINTABLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file, counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as written. `quoted` ones are text, whatever they look like."""

    text: str
    quoted: bool
    place: Place

    @property
    def is_null(self) -> bool:
        return not self.quoted and _NULL.fullmatch(self.text) is not None


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    nodes: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping and what it says."""

    key: Scalar
    node: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping, in the order of the file."""

    entries: tuple[Entry, ...]
    place: Place

    def get(self, key: str) -> Node | None:
        return next((entry.node for entry in self.entries if entry.key.text == key), None)


Node = Scalar | Items | Table


def decoded(content: bytes, file: str) -> str:
    """A file's content as text. Raise InvalidDocument, with the place, if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        place = _place_after(before, file)
        raise InvalidDocument(
            [Problem(file, place.line, place.column, "not UTF-8 text")]
        ) from error


def parse(text: str, file: str) -> Node:
    """The document's root node. Raise InvalidDocument with every problem of form.

    `file` is only named in problems. An empty document is an empty table.
    """
    if len(text) > MAX_BYTES:
        raise InvalidDocument([Problem(file, 1, 1, f"larger than {MAX_BYTES} characters")])
    try:
        root = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise InvalidDocument([_syntax_problem(error, text, file)]) from error
    except yaml.reader.ReaderError as error:
        place = _place_after(text[: error.position], file)
        says = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise InvalidDocument([Problem(file, place.line, place.column, says)]) from error
    if root is None:
        return Table((), Place(file, 1, 1))
    problems: list[Problem] = []
    node = _convert(root, file, problems)
    if problems:
        raise InvalidDocument(problems)
    return node


class Reader:
    """Reads typed values from nodes and collects what is wrong instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, place: Place, says: str) -> None:
        """Note a problem at a place."""
        self.problems.append(Problem(place.file, place.line, place.column, says))

    def finish(self) -> None:
        """Raise InvalidDocument if anything was wrong, in the order of the file."""
        if self.problems:
            found = sorted(
                dict.fromkeys(self.problems), key=lambda one: (one.file, one.line, one.column)
            )
            raise InvalidDocument(found)

    def table(
        self, node: Node, what: str, known: Iterable[str], required: Iterable[str] = ()
    ) -> dict[str, Node]:
        """The entries of a mapping by key; unknown and missing keys are noted."""
        entries = self.any_table(node, what)
        names = list(known)
        for key, entry in entries.items():
            if key not in names:
                self.wrong(
                    entry.key.place, f"unknown key {shown(key)} in {what}{did_you_mean(key, names)}"
                )
        for key in required:
            if key not in entries:
                self.wrong(node.place, f"{what} needs the key {shown(key)}")
        return {key: entry.node for key, entry in entries.items() if key in names}

    def any_table(self, node: Node, what: str) -> dict[str, Entry]:
        """The entries of a mapping with keys of the user's choice; `x-…` is left out."""
        if not isinstance(node, Table):
            self.wrong(node.place, f"{what} must be a mapping, not {kind(node)}")
            return {}
        return {
            entry.key.text: entry for entry in node.entries if not entry.key.text.startswith("x-")
        }

    def items(self, node: Node, what: str) -> tuple[Node, ...]:
        if not isinstance(node, Items):
            self.wrong(node.place, f"{what} must be a list, not {kind(node)}")
            return ()
        return node.nodes

    def text(self, node: Node, what: str, *, empty: bool = False) -> str | None:
        """A string. Unquoted numbers and words count as text; null, lists and mappings do not."""
        if not isinstance(node, Scalar) or node.is_null:
            self.wrong(node.place, f"{what} must be text, not {kind(node)}")
            return None
        if not node.text and not empty:
            self.wrong(node.place, f"{what} is empty")
            return None
        return node.text

    def texts(self, node: Node, what: str) -> tuple[str, ...]:
        """A list of strings."""
        found = (
            self.text(item, f"an entry of {what}", empty=True) for item in self.items(node, what)
        )
        return tuple(text for text in found if text is not None)

    def boolean(self, node: Node, what: str) -> bool | None:
        """`true` or `false`; `yes` and `on` are strings in YAML 1.2 and refused by name."""
        if isinstance(node, Scalar) and not node.quoted:
            if _TRUE.fullmatch(node.text):
                return True
            if _FALSE.fullmatch(node.text):
                return False
        self.wrong(node.place, f"{what} must be true or false, not {kind(node)}")
        return None

    def integer(self, node: Node, what: str, *, least: int = 0) -> int | None:
        if isinstance(node, Scalar) and not node.quoted and _INTEGER.fullmatch(node.text):
            number = int(node.text) if len(node.text) <= 18 else least - 1
            if number >= least:
                return number
        self.wrong(
            node.place, f"{what} must be a whole number of at least {least}, not {kind(node)}"
        )
        return None

    def parsed(self, node: Node, what: str, parse_text: Callable[[str], T]) -> T | None:
        """A string through a parser that raises ValueError with a sentence."""
        text = self.text(node, what)
        if text is None:
            return None
        try:
            return parse_text(text)
        except ValueError as error:
            self.wrong(node.place, f"{what}: {error}")
            return None

    def choice(self, node: Node, what: str, choices: Iterable[str]) -> str | None:
        names = list(choices)
        text = self.text(node, what)
        if text is None or text in names:
            return text
        hint = did_you_mean(text, names) or f" (one of {', '.join(names)})"
        self.wrong(node.place, f"{what} cannot be {shown(text)}{hint}")
        return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` when something close is known that can be printed, else nothing."""
    names = [name for name in known if name.isprintable()]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def shown(text: str) -> str:
    """Text as it can stand in a message: quoted, escaped and cut to a readable length."""
    cut = text if len(text) <= _PRINTABLE_LENGTH else text[: _PRINTABLE_LENGTH - 1] + "…"
    return repr(cut)


def kind(node: Node) -> str:
    """What a node is, in the words of a message."""
    match node:
        case Items():
            return "a list"
        case Table():
            return "a mapping"
        case Scalar(text, quoted):
            return "nothing" if not quoted and not text else shown(text)


class _Loader(yaml.SafeLoader):
    """Composes only what means what stands there, once: no aliases, anchors or tags, no abyss."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = cast("Callable[[], yaml.Event]", self.peek_event)()
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, "aliases (*name) are not supported; write it out")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.anchor is not None:
                raise _refused(event, "anchors (&name) are not supported; write it out")
            if event.tag is not None:
                raise _refused(event, "tags (!name) are not supported; quote the text")
        if self._depth == MAX_DEPTH:
            raise _refused(event, f"nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _refused(event: yaml.Event, says: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=says, problem_mark=cast("yaml.Mark", event.start_mark))


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Problem(file, 1, 1, error.problem or "not YAML")
    says = error.problem or error.context or "not YAML"
    lines = text.splitlines()
    if mark.line < len(lines) and "${" in lines[mark.line]:
        says += "; quote ${…} inside { } and [ ]"
    return Problem(file, mark.line + 1, mark.column + 1, says)


def _place_after(before: str, file: str) -> Place:
    """Counted as YAML counts lines, and as PyYAML's own marks do."""
    lines = _LINE_BREAK.split(before)
    return Place(file, len(lines), len(lines[-1]) + 1)


def _convert(node: yaml.Node, file: str, problems: list[Problem]) -> Node:
    mark = node.start_mark
    place = Place(file, mark.line + 1, mark.column + 1)
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, node.style is not None, place)
    if isinstance(node, yaml.SequenceNode):
        return Items(tuple(_convert(child, file, problems) for child in node.value), place)
    return _converted_table(node, place, problems)


def _converted_table(node: yaml.Node, place: Place, problems: list[Problem]) -> Table:
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = _convert(key_node, place.file, problems)
        value = _convert(value_node, place.file, problems)
        if not isinstance(key, Scalar):
            says = f"{kind(key)} cannot be a key"
        elif key.text in seen:
            says = f"duplicate key {shown(key.text)} (first on line {seen[key.text]})"
        else:
            seen[key.text] = key.place.line
            entries.append(Entry(key, value))
            continue
        problems.append(Problem(place.file, key.place.line, key.place.column, says))
    return Table(tuple(entries), place)
