"""What conditions and references can name at each place of a runbook, and of which type it is.

The types come from the annotations of the dataclasses in `facts`, so a name that is misspelt or
compared with something of another kind is found when the file is read, not at 3 am.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from functools import cache
from typing import TYPE_CHECKING, cast

from celery_ops.config.document import did_you_mean, shown
from celery_ops.config.units import Count, as_duration
from celery_ops.runbook.facts import (
    BeforeFacts,
    FleetFacts,
    MessageFacts,
    ResultFacts,
    StepFacts,
    TargetsFacts,
    WorkerFacts,
)
from celery_ops.runbook.schema import Param, ParamType

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN_OF_A_SET = 8
_LISTED = 20
_ONLY_IN_A_ROLL = "is only known inside a roll"


class UnknownName(ValueError):
    """A name that does not exist at its place; the text is a sentence."""


class Kind(Enum):
    """What a value is; the text is how messages call it."""

    BOOLEAN = "true or false"
    NUMBER = "a number"
    TEXT = "text"
    DURATION = "a duration"
    MOMENT = "a moment"
    COUNT = "a count"


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a name or a literal. `many` is a set of it; kind None: of anything (`[]`).

    `choices` are the only texts there are, where that is known (a worker's states).
    """

    kind: Kind | None
    many: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind is None:
            return "an empty list"
        if not self.many:
            return self.kind.value
        return f"a set of {self.kind.value.removeprefix('a ')}"

    @property
    def ordered(self) -> bool:
        """Whether `<` means something."""
        return not self.many and self.kind in {Kind.NUMBER, Kind.DURATION, Kind.MOMENT}

    def fits(self, other: Type) -> bool:
        """Whether values of the two can be equal at all."""
        if self.many != other.many:
            return False
        if None in (self.kind, other.kind) or self.kind is other.kind:
            return True
        return {self.kind, other.kind} == {Kind.COUNT, Kind.NUMBER}


@dataclass(frozen=True, slots=True)
class Names:
    """The names there are at one place; a name can have parts of its own.

    `elsewhere` are names that exist at other places, with the reason they do not here.
    """

    members: Mapping[str, Type | Names]
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def type_of(self, path: Sequence[str]) -> Type:
        """The type of a dotted name. Raise UnknownName if there is no such value."""
        found: Type | Names = self
        for position, part in enumerate(path):
            so_far = ".".join(path[:position])
            if isinstance(found, Type):
                raise UnknownName(f"{so_far} is {found} and has no part {shown(part)}")
            if part not in found.members:
                raise UnknownName(found.missing(so_far, part))
            found = found.members[part]
        if isinstance(found, Names):
            whole = ".".join(path)
            raise UnknownName(
                f"{whole} is not a value; name a part of it ({_listed(whole, found.members)})"
            )
        return found

    def missing(self, owner: str, part: str) -> str:
        """The sentence for a part that does not exist."""
        if part in self.elsewhere:
            return f"{part} {self.elsewhere[part]}"
        hint = did_you_mean(part, self.members)
        if owner:
            return (
                f"{owner} has no {shown(part)}{hint or f' (it has {_listed(None, self.members)})'}"
            )
        return (
            f"unknown name {shown(part)}{hint or f' (known here: {_listed(None, self.members)})'}"
        )


@cache
def names_of(facts: type) -> Names:
    """The names of a dataclass's fields.

    Any of them may be unknown in a run, so an optional field is of the same type as another.
    """
    hints = typing.get_type_hints(facts)
    return Names({entry.name: _annotated(hints[entry.name]) for entry in fields(facts)})


def names_at(params: Sequence[Param], *, in_roll: bool) -> Names:
    """What can be named in a roll's steps and `verify`, or anywhere else."""
    everywhere: dict[str, Type | Names] = {
        "fleet": names_of(FleetFacts),
        "targets": names_of(TargetsFacts),
        "params": Names({param.name: _of_param(param.type) for param in params}),
    }
    of_the_target: dict[str, Type | Names] = {
        "worker": names_of(WorkerFacts),
        "before": names_of(BeforeFacts),
        "step": names_of(StepFacts),
    }
    if in_roll:
        return Names(everywhere | of_the_target)
    return Names(everywhere, elsewhere=dict.fromkeys(of_the_target, _ONLY_IN_A_ROLL))


def names_of_messages(params: Sequence[Param]) -> Names:
    """What can be named in a `filter`."""
    return _names_of_a_filter(MessageFacts, params, "is not known of a message")


def names_of_results(params: Sequence[Param]) -> Names:
    """The same where it is about tasks that have ended."""
    return _names_of_a_filter(ResultFacts, params, "is not known of a task that has ended")


def _names_of_a_filter(facts: type, params: Sequence[Param], unknown: str) -> Names:
    members = names_of(facts).members
    elsewhere = {"fleet", "targets", "worker", "before", "step"} - members.keys()
    return Names(
        {**members, "params": Names({param.name: _of_param(param.type) for param in params})},
        elsewhere=dict.fromkeys(sorted(elsewhere), unknown),
    )


def value_at(scope: Mapping[str, object], path: Sequence[str]) -> object:
    """The value of a dotted name, or None if it, or anything on the way to it, is not known."""
    found: object = scope
    for part in path:
        if found is None:
            return None
        found = found.get(part) if isinstance(found, Mapping) else getattr(found, part)
    return found


def as_written(value: object) -> str:
    """A value as people write it: `10m`, `25%`, `true`, `03:12:00.120 UTC`; None is `unknown`.

    The text of hostile sources is kept as it is: whoever shows it makes it safe.
    """
    match value:
        case None:
            return "unknown"
        case bool():
            return "true" if value else "false"
        case float():
            return as_duration(value)
        case datetime():
            return f"{value.astimezone(UTC):%H:%M:%S.%f}"[:-3] + " UTC"
        case frozenset() | tuple():
            return ", ".join(sorted(as_written(item) for item in value))
        case _:
            return str(value)


def as_evidence(value: object) -> str:
    """A value in a message: texts are quoted, escaped and cut, long sets are cut."""
    match value:
        case str():
            return shown(str(value))
        case frozenset() | tuple():
            items = sorted(as_evidence(item) for item in value)
            more = len(items) - _SHOWN_OF_A_SET
            listed = ", ".join(items[:_SHOWN_OF_A_SET]) + (f" and {more} more" if more > 0 else "")
            return f"[{listed}]" if items else "empty"
        case _:
            return as_written(value)


def _annotated(annotation: object) -> Type | Names:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        (known,) = (one for one in arguments if one is not types.NoneType)
        return _annotated(known)
    if origin in (frozenset, tuple):
        item = _annotated(arguments[0])
        if isinstance(item, Type):
            return Type(item.kind, many=True, choices=item.choices)
    if isinstance(annotation, type):
        if is_dataclass(annotation):
            return names_of(annotation)
        if issubclass(annotation, StrEnum):
            members = cast("Mapping[str, StrEnum]", annotation.__members__)
            return Type(Kind.TEXT, choices=tuple(member.value for member in members.values()))
        if annotation in _KINDS:
            return Type(_KINDS[annotation])
    raise TypeError(f"conditions have no kind for {annotation!r}")


_KINDS: Mapping[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.NUMBER,
    str: Kind.TEXT,
    float: Kind.DURATION,
    datetime: Kind.MOMENT,
    Count: Kind.COUNT,
}


def _of_param(declared: ParamType) -> Type:
    match declared:
        case ParamType.WORKERS | ParamType.TEXT | ParamType.RELEASE:
            return Type(Kind.TEXT)
        case ParamType.COUNT:
            return Type(Kind.COUNT)
        case ParamType.DURATION:
            return Type(Kind.DURATION)
        case ParamType.INTEGER:
            return Type(Kind.NUMBER)
        case ParamType.BOOLEAN:
            return Type(Kind.BOOLEAN)


def _listed(owner: str | None, members: Mapping[str, object]) -> str:
    names = [f"{owner}.{name}" if owner else name for name in members]
    more = ", …" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more if names else "nothing"
