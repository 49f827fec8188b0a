"""Conditions: a small typed language that looks at facts and can do nothing else.

    condition  = all { "or" all }            all = negation { "and" negation }
    negation   = "not" negation | comparison
    comparison = operand [ ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") operand ]
    operand    = name { "." name } | literal | "[" literals "]" | "(" condition ")"
    literal    = 3 | 2.5 | 30s | 25% | 'text' | "text" | true | false

No calls and no arithmetic. The result of a condition is Kleene's: what rests on something unknown
is neither true nor false, unless the rest decides it alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.config.units import Count
from celery_ops.runbook.names import Kind, Names, Type, UnknownName, as_evidence, value_at
from celery_ops.runbook.syntax import (
    All,
    Any,
    Comparison,
    Fault,
    InvalidExpression,
    Literal,
    Name,
    Not,
    Tree,
    names_in,
    parse,
)

if TYPE_CHECKING:
    from celery_ops.config.document import Place

__all__ = ["Condition", "Fault", "InvalidExpression", "Truth", "Verdict", "condition"]


class Truth(Enum):
    """Kleene's three values."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "is not known"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a condition, and why.

    `unknown` are the names nothing is known of (only for UNKNOWN); `found` are the values that
    decided it, as `worker.active is 2`.
    """

    truth: Truth
    found: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True only for HOLDS: what is unknown does not hold."""
        return self.truth is Truth.HOLDS

    @property
    def says(self) -> str:
        """The evidence in words: `worker.active is 2`, `worker.queues is not known`."""
        if self.truth is Truth.UNKNOWN:
            verb = "is" if len(self.unknown) == 1 else "are"
            return f"{' and '.join(self.unknown)} {verb} not known"
        if self.found:
            return ", ".join(self.found)
        return "it always holds" if self.holds else "it never holds"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was parsed and type-checked against the names of its place."""

    source: str
    place: Place
    tree: Tree

    def evaluate(self, scope: Mapping[str, object]) -> Verdict:
        """Judge it against facts, by the names' first parts (`worker`, `fleet`, `params` …).

        None anywhere on the way to a value means that the value is unknown.
        """
        return _judge(self.tree, scope)

    @property
    def names(self) -> frozenset[str]:
        """The dotted names that it looks up, whole: `before.worker.queues` alone is no use of
        `worker.queues`.
        """
        return frozenset(str(name) for name in names_in(self.tree))

    def __str__(self) -> str:
        return self.source


def condition(source: str, place: Place, names: Names) -> Condition:
    """Parse and check; raise InvalidExpression with every fault that can be told at once."""
    tree = parse(source)
    checker = _Checker(names)
    checker.boolean(tree)
    if checker.faults:
        raise InvalidExpression(checker.faults)
    return Condition(source, place, tree)


# --- types --------------------------------------------------------------------------------------


class _Checker:
    """Finds the type of every part and notes what does not fit."""

    def __init__(self, names: Names) -> None:
        self.faults: list[Fault] = []
        self._names = names

    def boolean(self, tree: Tree) -> None:
        """Check a part that must be true or false."""
        match tree:
            case All(parts) | Any(parts):
                for part in parts:
                    self.boolean(part)
            case Not(part):
                self.boolean(part)
            case Comparison():
                self._comparison(tree)
            case Name() | Literal():
                found = self._type(tree)
                if found is not None and found != Type(Kind.BOOLEAN):
                    self._wrong(
                        tree,
                        f"{tree} is {found}, and a condition must be true or false: compare it",
                    )

    def _comparison(self, tree: Comparison) -> None:
        left, right = self._operand(tree.left), self._operand(tree.right)
        if left is None or right is None:
            return
        if tree.operator in {"in", "not in"}:
            self._membership(tree, left, right)
        elif not left.fits(right):
            self._wrong(tree, f"{left} cannot be compared with {right}")
        elif tree.operator in {"==", "!="}:
            self._choices(left, tree.right)
            self._choices(right, tree.left)
        elif not (left.ordered and right.ordered):
            what = right if left.ordered else left
            self._wrong(tree, f"{what} has no order; compare it with == or !=")

    def _membership(self, tree: Comparison, left: Type, right: Type) -> None:
        if not right.many:
            self._wrong(
                tree, f"{tree.right} is {right}; {tree.operator} needs a set or a list there"
            )
        elif left.many:
            self._wrong(
                tree, f"{tree.left} is {left}; {tree.operator} asks for one thing at a time"
            )
        elif not Type(left.kind, many=True).fits(right):
            self._wrong(tree, f"{left} cannot be in {right}")
        else:
            self._choices(left, tree.right)

    def _operand(self, tree: Tree) -> Type | None:
        if isinstance(tree, Name | Literal):
            return self._type(tree)
        self._wrong(tree, "only names and values can be compared, not conditions")
        return None

    def _type(self, tree: Name | Literal) -> Type | None:
        if isinstance(tree, Literal):
            return tree.type
        try:
            return self._names.type_of(tree.path)
        except UnknownName as error:
            self._wrong(tree, str(error))
            return None

    def _choices(self, expected: Type, tree: Tree) -> None:
        """A text that the other side can never be is a typing mistake."""
        if not expected.choices or not isinstance(tree, Literal):
            return
        written = tree.value if isinstance(tree.value, frozenset) else {tree.value}
        for text in sorted(str(text) for text in written if text not in expected.choices):
            hint = (
                did_you_mean(text, expected.choices) or f" (one of {', '.join(expected.choices)})"
            )
            self._wrong(tree, f"it is never {shown(text)}{hint}")

    def _wrong(self, tree: Tree, says: str) -> None:
        self.faults.append(Fault(tree.offset, says))


# --- evaluation ---------------------------------------------------------------------------------

_Operator = Callable[..., bool]
_OPERATORS: Mapping[str, _Operator] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda item, items: item in items,
    "not in": lambda item, items: item not in items,
}


def _judge(tree: Tree, scope: Mapping[str, object]) -> Verdict:
    match tree:
        case All(parts):
            return _joined([_judge(part, scope) for part in parts], decides=Truth.FAILS)
        case Any(parts):
            return _joined([_judge(part, scope) for part in parts], decides=Truth.HOLDS)
        case Not(part):
            inner = _judge(part, scope)
            return Verdict(_OPPOSITE[inner.truth], inner.found, inner.unknown)
        case Comparison(name, left, right):
            return _decided([left, right], scope, _OPERATORS[name])
        case Name() | Literal():
            return _decided([tree, _TRUE], scope, operator.eq)


_OPPOSITE = {
    Truth.HOLDS: Truth.FAILS,
    Truth.FAILS: Truth.HOLDS,
    Truth.UNKNOWN: Truth.UNKNOWN,
}
_TRUE = Literal(value=True, type=Type(Kind.BOOLEAN), written="true", offset=0)


def _joined(verdicts: list[Verdict], *, decides: Truth) -> Verdict:
    """`and` is decided by one that fails, `or` by one that holds; else by what is unknown."""
    for truth in (decides, Truth.UNKNOWN):
        chosen = [verdict for verdict in verdicts if verdict.truth is truth]
        if chosen:
            break
    else:
        truth, chosen = _OPPOSITE[decides], verdicts
    return Verdict(
        truth,
        tuple(dict.fromkeys(fact for verdict in chosen for fact in verdict.found)),
        tuple(dict.fromkeys(name for verdict in chosen for name in verdict.unknown)),
    )


def _decided(operands: list[Tree], scope: Mapping[str, object], decide: _Operator) -> Verdict:
    values: list[object] = []
    found: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for tree in operands:
        value = tree.value if isinstance(tree, Literal) else None
        if isinstance(tree, Name):
            value = value_at(scope, tree.path)
            if value is None:
                unknown[str(tree)] = None
            else:
                found[f"{tree} is {as_evidence(value)}"] = None
        values.append(_comparable(value))
    if unknown:
        return Verdict(Truth.UNKNOWN, unknown=tuple(unknown))
    left, right = values
    return Verdict(Truth.HOLDS if decide(left, right) else Truth.FAILS, tuple(found))


def _comparable(value: object) -> object:
    if isinstance(value, Count) and not value.percent:
        return value.number
    return frozenset(value) if isinstance(value, tuple | list) else value
