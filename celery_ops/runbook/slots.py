"""Values in a runbook: written out, or `${{ name }}`; and what they are worth in a run.

`${{ … }}` is a typed reference, not a template language: alone it keeps its type, inside a text it
is shown as people write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from celery_ops.config import units
from celery_ops.config.document import Items, Scalar, did_you_mean, shown
from celery_ops.errors import PreconditionFailed, UsageError
from celery_ops.model.releases import is_name
from celery_ops.runbook.expressions import Condition, InvalidExpression, condition
from celery_ops.runbook.names import (
    UnknownName,
    as_written,
    names_at,
    names_of_messages,
    names_of_results,
    value_at,
)
from celery_ops.runbook.params import bounded_duration
from celery_ops.runbook.roll_words import Offline
from celery_ops.runbook.schema import Argument, Constant, ParamType, Reference, Slot, Text
from celery_ops.runbook.selectors import Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery_ops.config.document import Node, Reader
    from celery_ops.config.units import Count
    from celery_ops.runbook.names import Names
    from celery_ops.runbook.positions import Source
    from celery_ops.runbook.schema import Param

T = TypeVar("T")

MAX_TEXT = 4_000
MAX_REFERENCES = 30
_REFERENCE = re.compile(r"\$\{\{(?P<inside>.*?)\}\}", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_SIGNED = re.compile(r"[-+]?[0-9]{1,6}")
_RATE = re.compile(r"[1-9][0-9]{0,6}/[smh]")
_WHOLE = re.compile(r"[0-9]{1,9}")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


# --- in a run -----------------------------------------------------------------------------------


def resolve(slot: Constant[T] | Reference, scope: Mapping[str, object]) -> T:
    """What a slot is worth; `scope` holds `params` as `parse_params` gave them.

    Raise UsageError if a parameter has no value; its type was checked when the file was read.
    """
    if isinstance(slot, Constant):
        return slot.value
    value = value_at(scope, slot.path)
    if value is None:
        raise UsageError(f"{slot} has no value")
    return cast("T", value)


def skips(offline: Slot[str], scope: Mapping[str, object]) -> bool:
    """Whether what cannot be reached is left out. Raise UsageError for a word that says neither."""
    word = resolve(offline, scope)
    if word not in set(Offline):
        raise UsageError(f"offline is {' or '.join(Offline)}, and not {shown(word)}")
    return word == Offline.SKIP


def render(text: Text, scope: Mapping[str, object]) -> str:
    """A text for people; what is not known is shown as `unknown`.

    Values of hostile sources are in it as they are: whoever shows it makes it safe.
    """
    return "".join(
        part if isinstance(part, str) else as_written(value_at(scope, part.path))
        for part in text.parts
    )


def render_argument(text: Text, scope: Mapping[str, object]) -> str:
    """A text for a program. Raise PreconditionFailed if something in it is not known."""
    for part in text.parts:
        if isinstance(part, Reference) and value_at(scope, part.path) is None:
            raise PreconditionFailed(f"{'.'.join(part.path)} is not known, and a command needs it")
    return render(text, scope)


def as_argument(argument: Argument, scope: Mapping[str, object]) -> object:
    """An argument of a control command, as JSON has it; a lone reference keeps its type.

    Raise PreconditionFailed if something in it is not known.
    """
    match argument:
        case Text(parts=(Reference() as reference,)):
            value = value_at(scope, reference.path)
            return (
                value if isinstance(value, bool | int | float) else render_argument(argument, scope)
            )
        case Text():
            return render_argument(argument, scope)
        case tuple():
            return [as_argument(one, scope) for one in argument]
        case _:
            return argument


# --- in the file --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ValueReader:
    """Reads slots, texts and conditions; notes what is wrong in the reader it is given.

    A slot that is wrong is read as its fallback: the file is refused anyway, and the rest of it is
    still checked.
    """

    reader: Reader
    source: Source
    params: Mapping[str, Param]

    def names(self, *, in_roll: bool) -> Names:
        """What can be named inside a roll, or anywhere else."""
        return names_at(tuple(self.params.values()), in_roll=in_roll)

    def names_of_messages(self) -> Names:
        """What can be named in a filter of messages."""
        return names_of_messages(tuple(self.params.values()))

    def names_of_results(self) -> Names:
        """What can be named in a filter of tasks that have ended."""
        return names_of_results(tuple(self.params.values()))

    def duration(self, node: Node, what: str) -> Slot[float]:
        """Seconds."""
        return self._slot(node, what, ParamType.DURATION, bounded_duration, 0.0)

    def some_time(self, node: Node, what: str) -> Slot[float]:
        """Seconds, more than none: a timeout."""
        return self._slot(node, what, ParamType.DURATION, _some_time, 0.0)

    def count(self, node: Node, what: str) -> Slot[Count]:
        """A number or a percentage."""
        return self._slot(node, what, ParamType.COUNT, units.count, units.Count(0))

    def at_least_one(self, node: Node, what: str) -> Slot[Count]:
        """A number or a percentage, but not 0."""
        return self._slot(node, what, ParamType.COUNT, _at_least_one, units.Count(0))

    def integer(self, node: Node, what: str) -> Slot[int]:
        """A whole number, not negative."""
        return self._slot(node, what, ParamType.INTEGER, _not_negative, 0)

    def positive(self, node: Node, what: str) -> Slot[int]:
        """A whole number of at least 1."""
        return self._slot(node, what, ParamType.INTEGER, _positive, 1)

    def flag(self, node: Node, what: str) -> Slot[bool]:
        """True or false."""
        return self._slot(node, what, ParamType.BOOLEAN, _flag, fallback=False)

    def signed(self, node: Node, what: str) -> Slot[int]:
        """A whole number other than 0: +2, -1."""
        return self._slot(node, what, ParamType.INTEGER, _signed, 1)

    def workers(self, node: Node, what: str) -> Slot[str]:
        """A selector, checked in form."""
        return self._slot(
            node, what, ParamType.WORKERS, lambda text: Selector.parse(text).source, ""
        )

    def plain_text(self, node: Node, what: str) -> Slot[str]:
        """A text for the engine (a host's name), not for people: a value or one reference."""
        return self._slot(node, what, ParamType.TEXT, str, "")

    def release(self, node: Node, what: str) -> Slot[str]:
        """The name of a release."""
        return self._slot(node, what, ParamType.RELEASE, _release, "")

    def rate(self, node: Node, what: str) -> Slot[str]:
        """So many at most in a second, a minute or an hour: `100/s`."""
        return self._slot(node, what, ParamType.TEXT, _rate, "")

    def text(self, node: Node, what: str, names: Names) -> Text:
        """A text with references in it."""
        written = self.reader.text(node, what, empty=True)
        if written is None or not isinstance(node, Scalar):
            return Text(())
        if not self._short_enough(node, what, written):
            return Text(())
        matches = list(_REFERENCE.finditer(written))
        if len(matches) > MAX_REFERENCES:
            self.reader.wrong(node.place, f"{what} has more than {MAX_REFERENCES} references")
            return Text(())
        parts: list[str | Reference] = []
        end = 0
        for match in matches:
            parts.append(written[end : match.start()])
            path = self._path(node, match)
            if path is not None:
                self._known(node, match, path, names)
                parts.append(Reference(path, self.source.place(node, match.start())))
            end = match.end()
        rest = written[end:]
        if "${{" in rest:
            opening = self.source.place(node, end + rest.index("${{"))
            self.reader.wrong(opening, "this ${{ has no }}")
        return Text(tuple(part for part in (*parts, rest) if part))

    def argument(self, node: Node, what: str, names: Names) -> Argument:
        """A value as YAML's core schema reads it: text only where it is quoted, or looks it."""
        if isinstance(node, Items):
            return tuple(self.argument(one, f"an entry of {what}", names) for one in node.nodes)
        if isinstance(node, Scalar) and not node.quoted:
            if node.is_null:
                return None
            if node.text.lower() in {"true", "false"}:
                return node.text.lower() == "true"
            if _NUMBER.fullmatch(node.text):
                return float(node.text) if "." in node.text else int(node.text)
        return self.text(node, what, names)

    def texts(self, node: Node, what: str, names: Names) -> tuple[Text, ...]:
        """A list of texts."""
        items = self.reader.items(node, what)
        return tuple(self.text(item, f"an entry of {what}", names) for item in items)

    def condition(self, node: Node, what: str, names: Names) -> Condition | None:
        written = self.reader.text(node, what)
        if written is None or not isinstance(node, Scalar):
            return None
        try:
            return condition(written, node.place, names)
        except InvalidExpression as error:
            for fault in error.faults:
                self.reader.wrong(self.source.place(node, fault.offset), f"{what}: {fault.says}")
            return None

    def filter(self, node: Node, what: str) -> Condition | Reference | None:
        """Which messages: a condition, or a parameter that holds one or is empty."""
        if isinstance(node, Scalar) and "${{" in node.text:
            slot = self.plain_text(node, what)
            return slot if isinstance(slot, Reference) else None
        return self.condition(node, what, self.names_of_messages())

    def conditions(self, node: Node, what: str, names: Names) -> tuple[Condition, ...]:
        """A list of conditions, or a single one; never none at all."""
        nodes = node.nodes if isinstance(node, Items) else (node,)
        if not nodes:
            self.reader.wrong(node.place, f"{what} has no condition")
        found = (self.condition(item, what, names) for item in nodes)
        return tuple(one for one in found if one is not None)

    def _slot(
        self, node: Node, what: str, needed: ParamType, parse: Callable[[str], T], fallback: T
    ) -> Slot[T]:
        written = self.reader.text(node, what)
        if written is None or not isinstance(node, Scalar):
            return Constant(fallback)
        match = _REFERENCE.search(written) if self._short_enough(node, what, written) else None
        if match is None:
            return Constant(self._constant(node, what, written, parse, fallback))
        if match[0] != written.strip():
            self.reader.wrong(node.place, f"{what}: {match[0]} must stand alone to keep its type")
            return Constant(fallback)
        path = self._path(node, match)
        if path is None or not self._is_param(node, match, path):
            return Constant(fallback)
        param = self.params[path[1]]
        if param.type is not needed:
            self.reader.wrong(
                self.source.place(node, match.start()),
                f"{what} is {needed.value}, and the parameter {param.name} is {param.type.value}",
            )
        return Reference(path, node.place)

    def _short_enough(self, node: Scalar, what: str, written: str) -> bool:
        if len(written) <= MAX_TEXT:
            return True
        self.reader.wrong(node.place, f"{what} has more than {MAX_TEXT} characters")
        return False

    def _constant(
        self, node: Node, what: str, written: str, parse: Callable[[str], T], fallback: T
    ) -> T:
        try:
            return parse(written)
        except (ValueError, UsageError) as error:
            self.reader.wrong(node.place, f"{what}: {error}")
            return fallback

    def _path(self, node: Scalar, match: re.Match[str]) -> tuple[str, ...] | None:
        inside = match["inside"].strip()
        if _PATH.fullmatch(inside):
            return tuple(inside.split("."))
        place = self.source.place(node, match.start())
        self.reader.wrong(place, f"{shown(match[0])}: ${{{{ }}}} holds one name and nothing else")
        return None

    def _is_param(self, node: Scalar, match: re.Match[str], path: tuple[str, ...]) -> bool:
        place = self.source.place(node, match.start())
        if path[0] != "params" or len(path) != 2:
            self.reader.wrong(place, "only a parameter can stand here, as ${{ params.NAME }}")
            return False
        if path[1] not in self.params:
            hint = did_you_mean(path[1], self.params)
            self.reader.wrong(place, f"unknown parameter {shown(path[1])}{hint}")
            return False
        return True

    def _known(
        self, node: Scalar, match: re.Match[str], path: tuple[str, ...], names: Names
    ) -> None:
        try:
            names.type_of(path)
        except UnknownName as error:
            self.reader.wrong(self.source.place(node, match.start()), str(error))


def _rate(text: str) -> str:
    if not _RATE.fullmatch(text):
        raise ValueError(f"not a rate: {shown(text)} (write how many in which time: 100/s, 30/m)")
    return text


def _release(text: str) -> str:
    if not is_name(text):
        raise ValueError(
            f"no name of a release: {shown(text)} (`previous` is for parameters of type release)"
        )
    return text


def _some_time(text: str) -> float:
    seconds = bounded_duration(text)
    if seconds <= 0:
        raise ValueError("no time at all")
    return seconds


def _at_least_one(text: str) -> Count:
    number = units.count(text)
    if number.number < 1:
        raise ValueError("must be at least 1")
    return number


def _positive(text: str) -> int:
    number = _not_negative(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _signed(text: str) -> int:
    if not _SIGNED.fullmatch(text) or int(text) == 0:
        raise ValueError(f"not a whole number other than 0, as +2 or -1: {shown(text)}")
    return int(text)


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"neither true nor false: {shown(text)}")
    return text == "true"


def _not_negative(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"not a whole number of at least 0: {shown(text)}")
    return int(text)
