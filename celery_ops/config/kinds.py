"""The kinds of value a configuration can hold: each reads itself strictly and describes itself.

A kind reads a node into a typed value and gives its own JSON schema, so that what is published and
what is accepted are one table. Reading never stops at the first problem.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from celery_ops.config.document import (
    Items,
    Place,
    Reader,
    Scalar,
    Table,
    did_you_mean,
    kind,
    shown,
)
from celery_ops.config.secret import Secret
from celery_ops.config.units import DURATION_PATTERN, duration
from celery_ops.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.config.document import Node

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Schema = dict[str, object]

_VARIABLE = re.compile(r"\$\{([^{}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,2})?")


@dataclass(slots=True)
class Source:
    """One file while it is read: where its problems go and what its values may refer to.

    `unset` collects variables that are not set, apart from the problems: a context that is not used
    may lack its own.
    """

    reader: Reader
    environ: Mapping[str, str]
    directory: Path
    unset: list[Problem] = field(default_factory=list)

    def expanded(self, node: Scalar, what: str) -> str:
        """The text with each `${NAME}` replaced by what the environment says."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if not match[0].endswith("}") or not _VARIABLE_NAME.fullmatch(name):
                says = f"{what}: write a variable as ${{NAME}}"
                self.reader.wrong(node.place, says)
            elif name not in self.environ:
                says = f"{what}: the environment variable {name} is not set"
                self.unset.append(
                    Problem(node.place.file, node.place.line, node.place.column, says)
                )
            return self.environ.get(name, "unset")

        return _VARIABLE.sub(value, node.text)


class Kind(Protocol[T_co]):
    """How one value is written."""

    def read(self, source: Source, node: Node, what: str) -> T_co | None:
        """The value, or None after noting why not. `what` names it in problems."""
        ...

    def schema(self) -> Schema:
        """Its JSON schema (draft 2020-12). It may allow a little more than `read`, never less."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A string. Unquoted numbers and words are text too."""

    def read(self, source: Source, node: Node, what: str) -> str | None:
        return source.reader.text(node, what)

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean"], "minLength": 1}


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A string that keeps its place, for problems that only show later."""

    def read(self, source: Source, node: Node, what: str) -> Scalar | None:
        if source.reader.text(node, what) is None or not isinstance(node, Scalar):
            return None
        return node

    def schema(self) -> Schema:
        return Text().schema()


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""

    def read(self, source: Source, node: Node, what: str) -> bool | None:
        return source.reader.boolean(node, what)

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number between two bounds, both included."""

    least: int
    most: int

    def read(self, source: Source, node: Node, what: str) -> int | None:
        number = source.reader.integer(node, what, least=self.least)
        if number is not None and number > self.most:
            source.reader.wrong(node.place, f"{what} can be at most {self.most}")
            return None
        return number

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, written with a unit."""

    def read(self, source: Source, node: Node, what: str) -> float | None:
        return source.reader.parsed(node, what, duration)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": DURATION_PATTERN}


@dataclass(frozen=True, slots=True)
class SecretText:
    """Text that may hold a password: variables are replaced, and it is never shown again."""

    def read(self, source: Source, node: Node, what: str) -> Secret | None:
        if source.reader.text(node, what) is None or not isinstance(node, Scalar):
            return None
        value = source.expanded(node, what)
        if not value:
            source.reader.wrong(node.place, f"{what} is empty")
            return None
        return Secret(value)

    def schema(self) -> Schema:
        return Text().schema()


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A path on this machine; `~` is the home directory, a relative one counts from the file."""

    def read(self, source: Source, node: Node, what: str) -> Path | None:
        text = source.reader.text(node, what)
        if text is None:
            return None
        if "\0" in text:
            source.reader.wrong(node.place, f"{what} contains a NUL character")
            return None
        if text == "~" or text.startswith("~/"):
            return Path(source.environ.get("HOME", "~")) / text[2:]
        return source.directory / text

    def schema(self) -> Schema:
        return Text().schema()


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that are handed on as they are. Variables are replaced: passwords occur in them."""

    def read(self, source: Source, node: Node, what: str) -> Mapping[str, object] | None:
        if not isinstance(node, Table):
            source.reader.any_table(node, what)
            return None
        return cast("Mapping[str, object]", self._value(source, node, what))

    def schema(self) -> Schema:
        return {"type": "object"}

    def _value(self, source: Source, node: Node, what: str) -> object:
        match node:
            case Table(entries):
                return {
                    one.key.text: self._value(source, one.node, f"{what}.{one.key.text[:60]}")
                    for one in entries
                }
            case Items(nodes):
                return [self._value(source, one, what) for one in nodes]
            case Scalar():
                return _core_value(node, source.expanded(node, what))


@dataclass(frozen=True, slots=True)
class ListOf(Generic[T]):
    """A list of one kind of value."""

    kind: Kind[T]
    least: int = 0

    def read(self, source: Source, node: Node, what: str) -> tuple[T, ...] | None:
        if not isinstance(node, Items):
            source.reader.items(node, what)
            return None
        if len(node.nodes) < self.least:
            source.reader.wrong(node.place, f"{what} is empty")
            return None
        found = (self.kind.read(source, one, f"an entry of {what}") for one in node.nodes)
        return tuple(one for one in found if one is not None)

    def schema(self) -> Schema:
        return {"type": "array", "items": self.kind.schema(), "minItems": self.least}


@dataclass(frozen=True, slots=True)
class MapOf(Generic[T]):
    """A mapping from names of the user's choice to one kind of value."""

    kind: Kind[T]
    noun: str
    least: int = 0

    def read(self, source: Source, node: Node, what: str) -> dict[str, T] | None:
        if not isinstance(node, Table):
            source.reader.any_table(node, what)
            return None
        entries = source.reader.any_table(node, what)
        if len(entries) < self.least:
            source.reader.wrong(node.place, f"{what} is empty: it needs at least one {self.noun}")
        found: dict[str, T] = {}
        for name, entry in entries.items():
            if re.fullmatch(_NAME, name) is None:
                says = "write letters, digits, dots, dashes and underscores"
                source.reader.wrong(
                    entry.key.place, f"{shown(name)} cannot name a {self.noun}: {says}"
                )
                continue
            value = self.kind.read(source, entry.node, f"{self.noun} {name}")
            if value is not None:
                found[name] = value
        return found

    def schema(self) -> Schema:
        return {
            "type": "object",
            "patternProperties": {"^x-": {}, f"^(?!x-){_NAME}$": self.kind.schema()},
            "additionalProperties": False,
            "minProperties": self.least,
        }


@dataclass(frozen=True, slots=True)
class Key(Generic[T]):
    """One key of a record: its name, its kind, and a sentence for people."""

    name: str
    kind: Kind[T]
    help: str
    required: bool = False


class Values:
    """What a record says; each value has the type of its key.

    `unset` are the environment variables it asks for, at any depth, that are not set.
    """

    def __init__(
        self,
        place: Place,
        found: Mapping[str, object],
        nodes: Mapping[str, Node],
        unset: tuple[Problem, ...],
    ) -> None:
        self.place = place
        self.unset = unset
        self._found = found
        self._nodes = nodes

    def get(self, key: Key[T]) -> T | None:
        """The value, or None if it is not there or was refused."""
        return cast("T | None", self._found.get(key.name))

    def get_or(self, key: Key[T], default: T) -> T:
        value = self.get(key)
        return default if value is None else value

    def given(self, keys: Iterable[Key[Any]]) -> tuple[Key[Any], ...]:
        """Those of the keys that are written, refused values too."""
        return tuple(key for key in keys if key.name in self._nodes)

    def names_in(self, key: Key[Any]) -> tuple[str, ...]:
        """The keys that a mapping has as it is written, those of refused values too."""
        node = self._nodes.get(key.name)
        return tuple(one.key.text for one in node.entries) if isinstance(node, Table) else ()

    def place_of(self, key: Key[Any]) -> Place:
        """Where the value stands; the record itself if it is not there."""
        node = self._nodes.get(key.name)
        return self.place if node is None else node.place


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys. Of each group in `one_of` exactly one key must be there.

    `example` is shown to those who write something else.
    """

    keys: tuple[Key[Any], ...]
    one_of: tuple[tuple[str, ...], ...] = ()
    example: str = ""

    def read(self, source: Source, node: Node, what: str) -> Values | None:
        if not isinstance(node, Table):
            hint = f": {self.example}" if self.example else ""
            source.reader.wrong(node.place, f"{what} must be a mapping, not {kind(node)}{hint}")
            return None
        required = [key.name for key in self.keys if key.required]
        nodes = source.reader.table(node, what, [key.name for key in self.keys], required)
        for group in self.one_of:
            self._check_group(source, node, what, [name for name in group if name in nodes], group)
        before = len(source.unset)
        found = {
            key.name: key.kind.read(source, nodes[key.name], f"{key.name} of {what}")
            for key in self.keys
            if key.name in nodes
        }
        return Values(node.place, found, nodes, tuple(source.unset[before:]))

    def schema(self) -> Schema:
        properties = {key.name: key.kind.schema() | {"description": key.help} for key in self.keys}
        schema: Schema = {
            "type": "object",
            "properties": properties,
            "patternProperties": {"^x-": {}},
            "additionalProperties": False,
        }
        required = [key.name for key in self.keys if key.required]
        if required:
            schema["required"] = required
        if self.one_of:
            schema["allOf"] = [
                {"oneOf": [{"required": [name]} for name in group]} for group in self.one_of
            ]
        return schema

    @staticmethod
    def _check_group(
        source: Source, node: Node, what: str, given: list[str], group: tuple[str, ...]
    ) -> None:
        if len(given) == 1:
            return
        has = f"has both {given[0]} and {given[1]}" if given else "has none"
        says = f"{what} needs exactly one of {', '.join(group)}, and {has}"
        source.reader.wrong(node.place, says)


def known_name(source: Source, node: Scalar, names: tuple[str, ...], noun: str) -> str | None:
    """The text if it is one of the names, else None after saying which was probably meant."""
    if node.text in names:
        return node.text
    hint = did_you_mean(node.text, names) or f" (there are: {', '.join(names[:10])})"
    source.reader.wrong(node.place, f"no {noun} is called {shown(node.text)}{hint}")
    return None


def _core_value(node: Scalar, text: str) -> object:
    """A scalar by YAML 1.2's core schema; what a variable brought in is always text."""
    if node.quoted or text != node.text:
        return text
    if node.is_null:
        return None
    if text.lower() in {"true", "false"} and text in {text.lower(), text.title(), text.upper()}:
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
