"""Selectors: which workers, in an operator's words.

Terms are separated by commas or spaces and add up; `!term` takes away. A term is a node name, a
glob of node names, `queue:NAME`, `host:NAME`, `state:STATE` or `release:NAME`. A term that matches
nothing is an error: at 3 am it is a typing mistake, and the worker that was meant would be left
out in silence.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import UsageError
from celery_ops.model import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.model import FleetSnapshot, Worker

MAX_LENGTH = 20_000
_GLOB = re.compile(r"[*?\[]")


class Field(StrEnum):
    """What of a worker a term looks at; the value is its prefix."""

    NAME = "name"
    QUEUE = "queue"
    HOST = "host"
    STATE = "state"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Term:
    """One term. `pattern` is compared literally first and as a glob then."""

    field: Field
    pattern: str
    excludes: bool
    text: str

    def matches(self, worker: Worker) -> bool:
        """Whether the worker is known to be meant.

        What is not known counts against touching the worker: `queue:x` does not match one whose
        queues nobody knows, and `!queue:x` does.
        """
        values = _values(worker, self.field)
        if values is None:
            return self.excludes
        return any(value == self.pattern or fnmatchcase(value, self.pattern) for value in values)


@dataclass(frozen=True, slots=True)
class Selector:
    """Some terms; only exclusions mean *all but these*."""

    terms: tuple[Term, ...]
    source: str

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raise UsageError for an empty selector and for a term that makes no sense."""
        if len(text) > MAX_LENGTH:
            raise UsageError(f"a selector has at most {MAX_LENGTH} characters")
        words = [word for word in re.split(r"[,\s]+", text) if word]
        if not words:
            raise UsageError("no workers are named: * names all of them")
        return cls(tuple(_term(word) for word in words), text.strip())

    def __str__(self) -> str:
        return self.source


def select(selector: Selector, snapshot: FleetSnapshot) -> tuple[Worker, ...]:
    """The workers that are meant, in the snapshot's order; only such as are within the scope.

    Raise UsageError if a term matches none of them, or if nothing is left.
    """
    mine = [worker for worker in snapshot.workers if worker.mine]
    for term in selector.terms:
        if term.field is Field.RELEASE and all(one.release is None for one in mine):
            raise UsageError(
                f"{shown(term.text)}: it is not known which release any worker runs",
                fix="How releases are kept stands in the configuration: `release:` of the context.",
            )
        if not any(term.matches(worker) for worker in mine):
            raise _no_match(term, mine, snapshot)
    wanted = [term for term in selector.terms if not term.excludes]
    unwanted = [term for term in selector.terms if term.excludes]
    chosen = tuple(
        worker
        for worker in mine
        if (not wanted or any(term.matches(worker) for term in wanted))
        and not any(term.matches(worker) for term in unwanted)
    )
    if not chosen:
        raise UsageError(f"{shown(str(selector))} excludes every worker it names")
    return chosen


def _term(word: str) -> Term:
    text = word.removeprefix("!")
    prefix, colon, rest = text.partition(":")
    if not colon:
        if not text:
            raise UsageError(f"{shown(word)} names nothing")
        return Term(Field.NAME, text, word.startswith("!"), word)
    fields = [field.value for field in Field]
    if prefix not in fields:
        hint = did_you_mean(prefix, fields) or f" (one of {', '.join(fields)})"
        raise UsageError(f"{shown(word)}: workers have no {shown(prefix)}{hint}")
    if not rest:
        raise UsageError(f"{shown(word)} does not say which {prefix}")
    if prefix == Field.STATE and not _GLOB.search(rest):
        states = [state.value for state in WorkerState]
        if rest not in states:
            hint = did_you_mean(rest, states) or f" (one of {', '.join(states)})"
            raise UsageError(f"no worker is ever {shown(rest)}{hint}")
    return Term(Field(prefix), rest, word.startswith("!"), word)


def _values(worker: Worker, field: Field) -> Iterable[str] | None:
    match field:
        case Field.NAME:
            return (worker.name,)
        case Field.QUEUE:
            if worker.queues is None and worker.taken is None:
                return None
            owed = worker.taken.queues if worker.taken else ()
            return (*(worker.queues or ()), *(queue.name for queue in owed), *worker.paused)
        case Field.HOST:
            service = () if worker.service is None else (worker.service.ref.host,)
            return (worker.name.partition("@")[2], *service)
        case Field.STATE:
            return (worker.state.value,)
        case Field.RELEASE:
            return None if worker.release is None else (worker.release,)


def _no_match(term: Term, mine: list[Worker], snapshot: FleetSnapshot) -> UsageError:
    foreign = next((one for one in snapshot.workers if not one.mine and term.matches(one)), None)
    if foreign is not None:
        return UsageError(
            f"{shown(term.text)} is outside the scope of {snapshot.context}",
            fix="Only workers within a context's `scope` are ever touched.",
        )
    if not mine:
        return UsageError(f"{shown(term.text)} matches nothing: no worker is known at all")
    known = sorted({value for worker in mine for value in _values(worker, term.field) or ()})
    return UsageError(f"no worker matches {shown(term.text)}", fix=_close_to(term, known))


def _close_to(term: Term, known: list[str]) -> str | None:
    alike = [name for name in known if name.partition("@")[0] == term.pattern]
    close = alike or difflib.get_close_matches(term.pattern, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(shown(name) for name in close[:3])}?"
    if not known:
        return None
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"There are {', '.join(shown(name) for name in known[:8])}{more}."
