"""When a round of questions is over: with its last reply, not with its timeout.

PUBLISH tells how many listeners a question reached. Usually each of them answers, and the round
ends with that many replies. Some listeners never do: a `redis-cli psubscribe '*'`, another monitor,
a beat that answers nothing but ping, a stopped worker, a worker that cannot serialise its answer.
So when it has become quiet before everybody answered, the round looks closer:

1. It takes the names that can be listening: those bound to the control exchange, and `known`.
2. It sends a ping after the questions (a *roll call*). A worker works off its control messages in
   order, so a pong from a node that has not answered an earlier question means that it never will.
3. The round is over once every name has answered everything or has ponged. The listeners that are
   left over have no name, hence are not nodes; and when as many ponged as listen, the names that
   are left over are not listening, hence are bindings of the dead. A name that does neither is
   waited for until the deadline, once: names that were silent for a whole round are waited for
   again only if they are in `known`, or after they were heard again.

What was found is remembered for as long as the number of listeners stays the same, so the next
round ends with its last reply again.

Where the broker does not count listeners (RabbitMQ tells only that there are none), the names are
all there is: those that are bound, if that can be told, and `known`.

A directed round expects each target once, and goes on listening for a moment: two processes under
one name both answer. Pure: time is handed in, in seconds on any monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.ports import Reply

ROLL_CALL = "ping"
_SHORTEST_QUIET = 0.03
_LONGEST_QUIET = 0.25
_QUIET_AMONG_STRANGERS = 0.3
_SHORTEST_GRACE = 0.02
_LONGEST_GRACE = 0.2
_REMEMBERED = 30.0
"""After so many seconds a round looks closer again: another listener may have taken a place."""


_Arguments = TypeVar("_Arguments")
_LAST = {ROLL_CALL: 1, "reserved": 2, "scheduled": 3}


def in_order(calls: Iterable[tuple[str, _Arguments]]) -> list[tuple[str, _Arguments]]:
    """The order in which the (method, arguments) of one round are to be sent.

    A ping is the roll call for what was sent before it. After it comes what a worker may be unable
    to serialise, since tasks' arguments are part of the answer: then it throws away all control
    messages that it has received and not yet handled (celery.worker.pidbox, `reset`).
    """
    return sorted(calls, key=lambda call: _LAST.get(call[0], 0))


class Next(Enum):
    """What a round needs now."""

    REPLIES = auto()
    """Wait for more, at most until `Round.look_again_at`."""
    NAMES = auto()
    """Somebody is missing: hand in the bound names, and the ticket of a roll call."""
    OVER = auto()


@dataclass(slots=True)
class Asked:
    """One question of a round. `listeners` is how many it reached, None until it is published."""

    method: str
    listeners: int | None = None
    replies: list[Reply] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def add(self, reply: Reply) -> None:
        self.replies.append(reply)
        self.names.add(reply.node)


@dataclass(frozen=True, slots=True)
class _Concluded:
    """How a method was answered in a round whose listeners did not all answer."""

    listeners: int
    deaf: int
    """How many of them did not."""
    complete: bool
    """Whether all nodes did."""
    until: float


class Memory:
    """What earlier rounds found out about listeners that do not answer."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        """Names that were silent for a whole round and have not been heard since."""
        self._concluded: dict[str, _Concluded] = {}

    def heard(self, node: str) -> None:
        if node in self.silent:
            self.silent.discard(node)
            self._concluded.clear()

    def heard_late(self, node: str) -> None:
        """A reply came after its round was over, so that round had concluded too early."""
        self.silent.discard(node)
        self._concluded.clear()

    def learn(self, asked: Iterable[Asked], *, complete: bool, now: float) -> None:
        for question in asked:
            listeners = question.listeners or 0
            deaf = max(0, listeners - len(question.replies))
            until = now + _REMEMBERED
            self._concluded[question.method] = _Concluded(listeners, deaf, complete, until)

    def concluded(self, question: Asked, now: float) -> tuple[int, bool] | None:
        """(listeners that will not answer, whether all nodes answer), if that is known."""
        earlier = self._concluded.get(question.method)
        if earlier is None or earlier.listeners != question.listeners or earlier.until <= now:
            return None
        return earlier.deaf, earlier.complete


class Round:
    """One round: questions that were asked at once, by ticket."""

    def __init__(
        self,
        questions: dict[str, str],
        *,
        targets: Iterable[str] | None,
        known: Iterable[str],
        memory: Memory,
        started: float,
        timeout: float,
        is_counted: bool = True,
    ) -> None:
        """`is_counted`: the broker tells how many listeners a question reaches."""
        self.asked = {ticket: Asked(method) for ticket, method in questions.items()}
        self.targets = None if targets is None else frozenset(targets)
        self.complete = False
        self._known = frozenset(known) if targets is None else self.targets or frozenset()
        self._is_counted = is_counted
        self._memory = memory
        self._started = started
        self._deadline = started + timeout
        self._last_reply_at = started
        self._candidates: frozenset[str] | None = None
        last = next(reversed(self.asked.values()), None)
        self._roll = last if last is not None and last.method == ROLL_CALL else None
        self._roll_ticket: str | None = None

    @property
    def replies(self) -> dict[str, tuple[Reply, ...]]:
        return {question.method: tuple(question.replies) for question in self.asked.values()}

    @property
    def expected(self) -> int | None:
        """How many nodes were listening, as far as it is known by now."""
        if self.targets is not None:
            return len(self.targets)
        counts = [question.listeners for question in self.asked.values()]
        if any(count is None for count in counts):
            return None
        if self.complete:
            return max((len(question.replies) for question in self.asked.values()), default=0)
        return max((count for count in counts if count is not None), default=0)

    @property
    def tickets(self) -> tuple[str, ...]:
        return (*self.asked, *((self._roll_ticket,) if self._roll_ticket else ()))

    def published(self, listeners: Mapping[str, int | None], now: float) -> None:
        """Questions, or the roll call, are out: how many listeners each ticket reached; None where
        that is not told.
        """
        for ticket, count in listeners.items():
            question = self._roll if ticket == self._roll_ticket else self.asked[ticket]
            if question is not None:
                question.listeners = count
        self._last_reply_at = max(self._last_reply_at, now)

    def add(self, ticket: str, reply: Reply, now: float) -> None:
        self._last_reply_at = now
        self._memory.heard(reply.node)
        question = self._roll if ticket == self._roll_ticket else self.asked.get(ticket)
        if question is not None:
            question.add(reply)

    def look_closer(self, bound: Iterable[str]) -> None:
        """Answer to `Next.NAMES`: the names that are bound to the control exchange."""
        self._candidates = frozenset(bound) | self._known if self.targets is None else self.targets

    @property
    def wants_roll_call(self) -> bool:
        """Somebody is missing, and a ping was not the last question anyway."""
        return self._roll is None and bool(self._awaited())

    def call_roll(self, ticket: str) -> None:
        """A ping under that ticket is about to be published to whom the questions went."""
        self._roll_ticket = ticket
        self._roll = Asked(ROLL_CALL)

    def look_again_at(self) -> float:
        """When `next` may have another answer although no reply came."""
        pause = self._grace() if self._everybody_answered() else self._quiet()
        soonest = self._last_reply_at + pause
        return min(self._deadline, soonest) if self._is_waiting_for_quiet() else self._deadline

    def next(self, now: float) -> Next:
        """What to do now; sets `complete` when the round is over."""
        if self._listeners_exhausted():
            return self._end(complete=self.targets is None or self._everybody_answered())
        if self.targets is None and self._as_before(now):
            return Next.OVER
        if now >= self._deadline:
            return self._give_up()
        if self.targets is not None and self._everybody_answered():
            over = now - self._last_reply_at >= self._grace()
            return self._end(complete=True) if over else Next.REPLIES
        if self._roll_is_complete():
            return self._conclude(now)
        if now - self._last_reply_at < self._quiet():
            return Next.REPLIES
        if self._candidates is None:
            return Next.NAMES
        return self._conclude(now) if not self._awaited() else Next.REPLIES

    def _listeners_exhausted(self) -> bool:
        return all(_all_answered(question) for question in self.asked.values())

    def _as_before(self, now: float) -> bool:
        """Everybody answered who did in an earlier round with as many listeners."""
        complete = True
        for question in self.asked.values():
            earlier = self._memory.concluded(question, now)
            if earlier is None:
                return False
            deaf, all_answered = earlier
            if len(question.replies) < (question.listeners or 0) - deaf:
                return False
            if not self._known <= question.names | self._nodes_that_only_pong():
                return False
            complete = complete and all_answered
        self.complete = complete
        return True

    def _nodes_that_only_pong(self) -> frozenset[str]:
        """Ponged, answered nothing else, and nobody vouches for them as workers: beats."""
        roll = self._roll
        others = [question for question in self.asked.values() if question is not roll]
        if roll is None or not others:
            return frozenset()
        answered = frozenset[str]().union(*(question.names for question in others))
        return frozenset(roll.names) - answered - self._known

    def _awaited(self) -> frozenset[str]:
        """Names that may still answer something."""
        ponged = self._roll.names if self._roll else set()
        missing = frozenset[str]().union(
            *(self._listening() - question.names - ponged for question in self.asked.values())
        )
        return missing - (self._memory.silent - self._known)

    def _listening(self) -> frozenset[str]:
        """Names that can be behind the listeners."""
        if self._roll is not None and self._roll_is_complete():
            return frozenset(self._roll.names)
        return self._candidates or frozenset()

    def _roll_is_complete(self) -> bool:
        """Every listener ponged, hence answered all that it will."""
        return self.targets is None and self._roll is not None and _all_answered(self._roll)

    def _conclude(self, now: float) -> Next:
        """Everybody who can answer did."""
        complete = self._nobody_is_missing()
        if self.targets is None:
            self._memory.learn(self.asked.values(), complete=complete, now=now)
        return self._end(complete=complete)

    def _give_up(self) -> Next:
        """The deadline came first."""
        if self.targets is None and self._candidates is not None:
            self._memory.silent |= self._awaited()
        return self._end(complete=False)

    def _nobody_is_missing(self) -> bool:
        names = self._listening() - self._nodes_that_only_pong()
        return all(
            names <= question.names or _all_answered(question) for question in self.asked.values()
        )

    def _everybody_answered(self) -> bool:
        """Each target answered everything."""
        return self.targets is not None and all(
            self.targets <= question.names for question in self.asked.values()
        )

    def _end(self, *, complete: bool) -> Next:
        self.complete = complete
        return Next.OVER

    def _is_waiting_for_quiet(self) -> bool:
        return self._everybody_answered() or self._candidates is None or not self._awaited()

    def _quiet(self) -> float:
        """As long a silence as half of what the replies took to come means that no more will.

        Where nobody counts and nobody is known, it takes longer; and without any reply it never
        does: the question has reached somebody.
        """
        if not self._is_counted and not self._known:
            has_begun = any(question.replies for question in self.asked.values())
            return _QUIET_AMONG_STRANGERS if has_begun else math.inf
        return _within(_SHORTEST_QUIET, (self._last_reply_at - self._started) / 2, _LONGEST_QUIET)

    def _grace(self) -> float:
        return _within(_SHORTEST_GRACE, (self._last_reply_at - self._started) * 2, _LONGEST_GRACE)


def _all_answered(question: Asked) -> bool:
    return question.listeners is not None and len(question.replies) >= question.listeners


def _within(low: float, value: float, high: float) -> float:
    return max(low, min(value, high))
