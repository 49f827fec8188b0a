"""How a list of steps is read: one verb a step, in the places where it may stand.

Which verbs there are is `grammar`'s; this module knows none of them by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from celery_ops.config.document import Place, Scalar, Table, did_you_mean, kind, shown
from celery_ops.runbook.schema import NO_RETRIES, Constant, DoctorStep, Retries, Slot, Step, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from celery_ops.config.document import Node
    from celery_ops.runbook.expressions import Condition
    from celery_ops.runbook.names import Names
    from celery_ops.runbook.slots import ValueReader

MAX_STEPS = 200
DEFAULT_PAUSE = 5.0
"""Seconds between two attempts, for steps that do not say."""
DEFAULT_TIMEOUT = 120.0
"""Seconds, for steps that need not say how long they may take."""


class Where(Enum):
    """The lists of a runbook that hold steps; the value is how messages call them."""

    PREFLIGHT = "preflight"
    STEPS = "the steps"
    ROLL = "the steps of a roll"
    FINALLY = "finally"


@dataclass(frozen=True, slots=True)
class Spot:
    """One step in the file: its verb, its keys (the verb's included), and what its place knows."""

    id: str
    verb: str
    keys: Mapping[str, Node]
    where: Where
    names: Names
    place: Place

    @property
    def value(self) -> Node:
        """What stands behind the verb."""
        return self.keys[self.verb]

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"{self.verb} (step {self.id})"


@dataclass(frozen=True, slots=True)
class Verb:
    """How one verb is read: where it may stand, its other keys, and why some are required."""

    read: Callable[[StepReader, Spot], Step | DoctorStep | None]
    where: frozenset[Where]
    keys: tuple[str, ...] = ()
    required: Mapping[str, str] | None = None


class StepReader:
    """Reads lists of steps and notes what is wrong in the reader of `values`.

    `rules` are doctor's rules, or None where they are not known.
    """

    def __init__(
        self,
        values: ValueReader,
        verbs: Mapping[str, Verb],
        rules: Collection[str] | None,
    ) -> None:
        self.values = values
        self.rules = rules
        self._reader = values.reader
        self._verbs = verbs

    def steps(self, node: Node, where: Where, prefix: str = "") -> tuple[Step | DoctorStep, ...]:
        """The steps of a list; their ids are the prefix and their position from 1."""
        items = self._reader.items(node, where.value)
        if len(items) > MAX_STEPS:
            self.wrong(node.place, f"{where.value}: more than {MAX_STEPS} steps")
        found = (
            self._step(item, where, f"{prefix}{position}")
            for position, item in enumerate(items[:MAX_STEPS], 1)
        )
        return tuple(step for step in found if step is not None)

    def wrong(self, place: Place, says: str) -> None:
        """Note a problem."""
        self._reader.wrong(place, says)

    def when(self, spot: Spot) -> Condition | None:
        """The step's `when:`, if it has one."""
        node = spot.keys.get("when")
        return None if node is None else self.values.condition(node, "when", spot.names)

    def timeout(self, spot: Spot) -> Slot[float]:
        """The step's `timeout:`; without one 2 minutes, where the verb does not require it."""
        node = spot.keys.get("timeout")
        if node is None:
            return Constant(DEFAULT_TIMEOUT)
        return self.values.some_time(node, f"timeout of {spot.what}")

    def retries(self, spot: Spot) -> Retries:
        """The step's `retries:` and `retry_pause:`; never again without them."""
        times, pause = spot.keys.get("retries"), spot.keys.get("retry_pause")
        if times is not None and spot.where in {Where.PREFLIGHT, Where.FINALLY}:
            self.wrong(times.place, f"nothing is tried again in {spot.where.value}")
        if times is None:
            if pause is not None:
                self.wrong(pause.place, f"retry_pause of {spot.what} needs the key 'retries' too")
            return NO_RETRIES
        what = f"retries of {spot.what}"
        return Retries(
            self.values.integer(times, what),
            Constant(DEFAULT_PAUSE)
            if pause is None
            else self.values.duration(pause, f"retry_pause of {spot.what}"),
        )

    def text(self, spot: Spot, key: str) -> Text | None:
        """Another text of the step, if it has it."""
        node = spot.keys.get(key)
        return None if node is None else self.values.text(node, f"{key} of {spot.what}", spot.names)

    def table(
        self, node: Node, what: str, known: Collection[str], required: Mapping[str, str]
    ) -> dict[str, Node]:
        """The keys of a step or a block, and why some of them are required."""
        keys = self._reader.table(node, what, [*known])
        if isinstance(node, Table):
            for key, reason in required.items():
                if key not in keys:
                    self.wrong(node.place, f"{what} needs the key {shown(key)}: {reason}")
        return keys

    def _step(self, node: Node, where: Where, position: str) -> Step | DoctorStep | None:
        if not isinstance(node, Table):
            self.wrong(
                node.place, f"step {position} must be a verb and its value, not {kind(node)}"
            )
            return None
        named = self._verb_of(node, where, position)
        if named is None:
            return None
        name, verb = named
        what = f"{name} (step {position})"
        keys = self.table(node, what, (name, *verb.keys), verb.required or {})
        names = self.values.names(in_roll=where is Where.ROLL)
        return verb.read(self, Spot(position, name, keys, where, names, node.place))

    def _verb_of(self, node: Table, where: Where, position: str) -> tuple[str, Verb] | None:
        """The one verb of a step, if it has exactly one and that may stand here."""
        written = [entry.key for entry in node.entries if entry.key.text in self._verbs]
        if not written:
            self._no_verb(node, where, position)
            return None
        if len(written) > 1:
            both = " and ".join(shown(key.text) for key in written)
            self.wrong(written[1].place, f"one verb a step: step {position} has {both}")
            return None
        (key,) = written
        verb = self._verbs[key.text]
        if where not in verb.where:
            says = (
                f"{shown(key.text)} cannot stand in {where.value}{_one_of(self._possible(where))}"
            )
            self.wrong(key.place, says)
            return None
        return key.text, verb

    def _no_verb(self, node: Table, where: Where, position: str) -> None:
        """Blame the key that looks most like a verb: not one that is another verb's key."""
        possible = self._possible(where)
        others = {key for verb in self._verbs.values() for key in verb.keys}
        suspects = [entry.key for entry in node.entries if entry.key.text not in others]
        if not suspects:
            self.wrong(node.place, f"step {position} has no verb{_one_of(possible)}")
            return
        suspect: Scalar = suspects[0]
        hint = did_you_mean(suspect.text, self._verbs) or _one_of(possible)
        self.wrong(suspect.place, f"unknown verb {shown(suspect.text)}{hint}")

    def _possible(self, where: Where) -> list[str]:
        return [name for name, verb in self._verbs.items() if where in verb.where]


def _one_of(names: Collection[str]) -> str:
    return f" (possible here: {', '.join(names)})"
