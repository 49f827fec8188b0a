"""From the text of a condition to its tree. Knows no names and no types of names.

Bounded in length and depth, so that no text can keep it busy or exhaust the stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from celery_ops.config import units
from celery_ops.config.document import shown
from celery_ops.runbook.names import Kind, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_LENGTH = 2_000
MAX_DEPTH = 50
_MAX_DIGITS = 18

KEYWORDS = frozenset({"and", "or", "not", "in", "true", "false"})


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with an expression; `offset` counts characters from 0."""

    offset: int
    says: str


class InvalidExpression(ValueError):
    """An expression that cannot be used, with its faults in the order they were found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.says for fault in faults))
        self.faults = tuple(faults)


# --- trees --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written out. Lists are frozensets, durations are seconds (float)."""

    value: object
    type: Type
    written: str = field(compare=False)
    offset: int = field(compare=False)

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted name."""

    path: tuple[str, ...]
    offset: int = field(compare=False)

    def __str__(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left operator right`."""

    operator: str
    left: Tree
    right: Tree
    offset: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    """`not part`."""

    part: Tree
    offset: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class All:
    """`part and part …`."""

    parts: tuple[Tree, ...]
    offset: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Any:
    """`part or part …`."""

    parts: tuple[Tree, ...]
    offset: int = field(compare=False)


Tree = Literal | Name | Comparison | Not | All | Any


def parse(source: str) -> Tree:
    """The tree of a condition. Raise InvalidExpression with the first fault of form."""
    if len(source) > MAX_LENGTH:
        raise InvalidExpression([Fault(0, f"a condition has at most {MAX_LENGTH} characters")])
    return _Parser(source).parse()


def names_in(tree: Tree) -> Iterator[Name]:
    """Every name that a tree looks up, from left to right."""
    match tree:
        case Name():
            yield tree
        case Literal():
            return
        case Not(part):
            yield from names_in(part)
        case Comparison(_, left, right):
            yield from names_in(left)
            yield from names_in(right)
        case All(parts) | Any(parts):
            for part in parts:
                yield from names_in(part)


# --- tokens -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    """`kind` is the name of a group of `_TOKEN`, or `end`."""

    kind: str
    text: str
    offset: int


_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<number>[0-9][A-Za-z0-9.%]*)"
    r"|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<mark>==|!=|<=|>=|[<>()\[\],.])"
)
_WORDS_FOR = {
    "=": "write == to compare",
    "!": "write not",
    "&": "write and",
    "|": "write or",
    "'": "the text has no end",
    '"': "the text has no end",
    "$": "a condition names things without ${{ }}",
    **dict.fromkeys("+-*/%", "there is no arithmetic in a condition"),
}


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None or match.lastgroup is None:
            character = source[at]
            hint = _WORDS_FOR.get(character)
            raise InvalidExpression(
                [Fault(at, hint or f"{shown(character)} has no meaning in a condition")]
            )
        if match.lastgroup != "space":
            yield _Token(match.lastgroup, match[0], at)
        at = match.end()
    yield _Token("end", "", len(source))


# --- grammar ------------------------------------------------------------------------------------

_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})


class _Parser:
    """Recursive descent, one method a rule of the grammar in `expressions`."""

    def __init__(self, source: str) -> None:
        self._tokens = list(_tokens(source))
        self._at = 0
        self._depth = 0

    def parse(self) -> Tree:
        tree = self._any()
        if self._next.kind != "end":
            self._fail_at(self._next)
        return tree

    def _any(self) -> Tree:
        return self._chain("or", self._all, Any)

    def _all(self) -> Tree:
        return self._chain("and", self._negation, All)

    def _chain(
        self,
        word: str,
        rule: Callable[[], Tree],
        build: Callable[[tuple[Tree, ...], int], Tree],
    ) -> Tree:
        parts = [rule()]
        while self._accept("name", word):
            parts.append(rule())
        return parts[0] if len(parts) == 1 else build(tuple(parts), parts[0].offset)

    def _negation(self) -> Tree:
        token = self._accept("name", "not")
        if token is None:
            return self._comparison()
        self._deeper(token)
        part = self._negation()
        self._depth -= 1
        return Not(part, token.offset)

    def _comparison(self) -> Tree:
        left = self._operand()
        operator = self._operator()
        if operator is None:
            return left
        tree = Comparison(operator, left, self._operand(), left.offset)
        again = self._next
        if self._operator() is not None:
            raise InvalidExpression(
                [Fault(again.offset, "comparisons cannot be chained; join two of them with and")]
            )
        return tree

    def _operator(self) -> str | None:
        token = self._next
        if token.kind == "mark" and token.text in _COMPARISONS:
            return self._take().text
        if self._accept("name", "in"):
            return "in"
        following = self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        if (token.text, following.text) == ("not", "in"):
            self._at += 2
            return "not in"
        return None

    def _operand(self) -> Tree:
        opening = self._accept("mark", "(")
        if opening:
            self._deeper(opening)
            tree = self._any()
            self._expect(")")
            self._depth -= 1
            return tree
        opening = self._accept("mark", "[")
        if opening:
            return self._list(opening)
        if self._next.kind == "name" and self._next.text not in KEYWORDS:
            return self._name()
        return self._literal()

    def _name(self) -> Name:
        first = self._take()
        path = [first.text]
        while self._accept("mark", "."):
            if self._next.kind != "name":
                self._fail_at(self._next)
            path.append(self._take().text)
        if self._next.text == "(":
            raise InvalidExpression([Fault(self._next.offset, "a condition cannot call anything")])
        return Name(tuple(path), first.offset)

    def _list(self, opening: _Token) -> Literal:
        items: list[Literal] = []
        while not self._accept("mark", "]"):
            if items:
                self._expect(",")
            items.append(self._literal())
            if items[-1].type != items[0].type:
                says = f"a list holds one kind of thing: {items[0].type}, then {items[-1].type}"
                raise InvalidExpression([Fault(items[-1].offset, says)])
        kind = items[0].type.kind if items else None
        values = frozenset(item.value for item in items)
        return Literal(values, Type(kind, many=True), "the list", opening.offset)

    def _literal(self) -> Literal:
        token = self._next
        if token.kind == "name" and token.text in {"true", "false"}:
            value: object = token.text == "true"
            kind = Kind.BOOLEAN
        elif token.kind == "text":
            value, kind = token.text[1:-1], Kind.TEXT
        elif token.kind == "number":
            value, kind = _number(token)
        else:
            self._fail_at(token)
        self._at += 1
        written = shown(str(value)) if kind is Kind.TEXT else token.text
        return Literal(value, Type(kind), written, token.offset)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        return token

    def _accept(self, kind: str, text: str) -> _Token | None:
        return self._take() if (self._next.kind, self._next.text) == (kind, text) else None

    def _expect(self, mark: str) -> None:
        if self._accept("mark", mark) is None:
            self._fail_at(self._next, f"; expected {mark}")

    def _deeper(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidExpression([Fault(token.offset, f"nested more than {MAX_DEPTH} deep")])

    def _fail_at(self, token: _Token, expected: str = "") -> NoReturn:
        what = (
            "the condition ends too early"
            if token.kind == "end"
            else f"unexpected {shown(token.text)}"
        )
        raise InvalidExpression([Fault(token.offset, what + expected)])


def _number(token: _Token) -> tuple[object, Kind]:
    """Whole numbers, decimals, durations and percentages, told apart by how they end."""
    text = token.text
    if len(text) > _MAX_DIGITS:
        raise InvalidExpression([Fault(token.offset, f"{shown(text)} is too long for a number")])
    if text.isdigit():
        return int(text), Kind.NUMBER
    if re.fullmatch(r"[0-9]+\.[0-9]+", text):
        return float(text), Kind.NUMBER
    try:
        if text.endswith("%"):
            return units.count(text), Kind.COUNT
        return units.duration(text), Kind.DURATION
    except ValueError as error:
        raise InvalidExpression([Fault(token.offset, str(error))]) from error
