"""All nodes a fleet was ever seen to have, and what was read of its broker.

Rounds, heartbeats and broker readings go in; `Surveyor` takes out what to ask next and what to
show.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.fleet.flow import Flows
from celery_ops.fleet.known import Asking, KnownNode, answers_by_node
from celery_ops.fleet.orphans import HELD_QUESTIONS, Suspects
from celery_ops.fleet.waiting import Waiting
from celery_ops.model.holding import places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.model import Heartbeat, Holder, TakenRecord, Targets
    from celery_ops.ports import QueuesReading, Round

FORGOTTEN_AFTER = timedelta(minutes=5)
CLOCK_SKEW = timedelta(seconds=1)
"""Deliveries are stamped by the workers' clocks, replies by ours."""


class Memory:
    """What was learned of a fleet."""

    def __init__(self, scope: Sequence[str], expected: Iterable[str]) -> None:
        """`scope` are globs of node names that are ours; `expected`, names services should run."""
        self._scope = tuple(scope)
        self._expected = frozenset(expected)
        self.nodes: dict[str, KnownNode] = {}
        self.bound: frozenset[str] | None = None
        self.queues: QueuesReading | None = None
        self.taken: tuple[TakenRecord, ...] = ()
        self.holder: Holder | None = None
        self.forwarder: Holder | None = None
        """Who carries the messages of others past tasks that are held."""
        self.held: Counter[str] = Counter()
        self.unanswered = 0
        self.suspects: Suspects | None = Suspects()
        """Held messages that no worker shows; None while it is not known what is held."""
        self.unasked = ""
        """Why nobody can be asked."""
        self.counted = False
        """The broker counted who listens, and in the last round of everybody all answered."""
        self.flows = Flows()
        self.waiting = Waiting()
        self._everybody_was_asked = False
        self._unexplained: frozenset[str] = frozenset()
        for name in self._expected:
            self._node(name)

    def hear(self, heartbeat: Heartbeat, at: datetime) -> None:
        """A heartbeat, or a goodbye."""
        self._node(heartbeat.node).hear(heartbeat, at)

    def learn(self, round_: Round, to: Targets | None, asking: Asking) -> None:
        """A round of answers, and who is missing in it."""
        answers = answers_by_node(round_.replies)
        for name, given in answers.items():
            self._node(name).learn(given, asking)
        for name in to.names if to is not None else list(self.nodes):
            node = self.nodes.get(name)
            if node is not None and name not in answers:
                node.miss(round_.asked_at)
        self.unasked = round_.unasked
        if to is None:
            self._everybody_was_asked = asking.questions >= HELD_QUESTIONS
            self.counted = round_.complete and round_.expected is not None
            self._count_listeners(round_, answers.keys())

    def learn_aside(self, round_: Round, asking: Asking) -> None:
        """A round that only adds to what is known: nobody is missing in it."""
        for name, given in answers_by_node(round_.replies).items():
            self._node(name).learn(given, asking)

    def note_queues(self, reading: QueuesReading, monotonic: float) -> None:
        """Queue sizes, read after the round they belong to."""
        self.queues = reading
        ready = {queue.name: queue.ready for queue in reading.queues if queue.ready > 0}
        for node in self.nodes.values():
            node.note_standstill(monotonic, ready)
        self._note_held(reading)
        self.waiting.note(reading)
        is_heard = self.unanswered == 0 and not self.unasked
        everybody_told = is_heard and not any(
            node.is_answering and node.consuming is None and not node.is_scheduler
            for node in self.nodes.values()
        )
        self.flows.note(reading, self.nodes.values(), monotonic, everybody_told=everybody_told)
        if self._everybody_was_asked:
            self._everybody_was_asked = False
            self.suspects = (self.suspects or Suspects()).after(reading, self.nodes.values())

    def forget(self, now: datetime, supervised: Iterable[str]) -> None:
        """Drop nodes that are gone.

        Not bound, without a service, without a sign for five minutes.
        """
        kept = {*supervised, *self._expected, *(self.bound or ())}
        for node in list(self.nodes.values()):
            if node.name in kept:
                continue
            signs = (node.seen_at, node.goodbye_at, node.listens_at)
            last = max((sign for sign in signs if sign is not None), default=None)
            if last is None or now - last >= FORGOTTEN_AFTER:
                del self.nodes[node.name]

    @property
    def queue_names(self) -> set[str]:
        """Queues that somebody consumes, consumed in this life, or is owed."""
        names = {queue.name for record in self.taken for queue in record.queues}
        names.update(places(self.taken))
        for node in self.nodes.values():
            names.update(queue.name for queue in node.consumed_before)
        return names

    def _node(self, name: str) -> KnownNode:
        node = self.nodes.get(name)
        if node is None:
            mine = any(fnmatchcase(name, pattern) for pattern in self._scope)
            node = self.nodes[name] = KnownNode(name, mine=mine)
        return node

    def _count_listeners(self, round_: Round, answered: Iterable[str]) -> None:
        """Compare how many listen with who answered.

        Bindings of the dead stay on the broker, so a bound name that does not answer may be nobody.
        But if exactly as many listeners did not answer as bound names did not, then all of these
        are alive.
        """
        names = set(answered)
        self.unanswered = 0
        if round_.complete or round_.expected is None:
            return
        heard = max((len(replies) for replies in round_.replies.values()), default=0)
        silent_listeners = max(0, round_.expected - heard)
        if silent_listeners == 0:
            return
        silent_names = (self.bound or frozenset()) - names
        if len(silent_names) == silent_listeners:
            for name in silent_names:
                node = self._node(name)
                node.listens_at = round_.ended_at
                if node.missed_since is None:
                    node.miss(round_.asked_at)
        else:
            missed = sum(node.missed_since is not None for node in self.nodes.values())
            self.unanswered = max(0, silent_listeners - missed)

    def _note_held(self, reading: QueuesReading) -> None:
        """Count held messages that no worker shows, once they were seen so in two readings.

        Only while something is being drained: comparing every id of a large fleet is not free.
        """
        if reading.unacked is None or not any(node.drain for node in self.nodes.values()):
            self._unexplained, self.held = frozenset(), Counter()
            return
        visible = {
            task.id
            for node in self.nodes.values()
            for part in (node.active, node.reserved, node.scheduled)
            if part is not None
            for task in part.value
        }
        told = self._told_since()
        unexplained = [
            one
            for one in reading.unacked
            if one.task_id not in visible
            and one.queue in told
            and one.since + CLOCK_SKEW < told[one.queue]
        ]
        self.held = Counter(
            one.queue
            for one in unexplained
            if one.queue is not None and one.tag in self._unexplained
        )
        self._unexplained = frozenset(one.tag for one in unexplained)

    def _told_since(self) -> dict[str | None, datetime]:
        """Until when all consumers of a queue have told what they hold.

        A message that was delivered later may be with one of them that was not asked since.
        """
        told: dict[str | None, datetime] = {}
        silent: set[str] = set()
        for node in self.nodes.values():
            parts = (node.active, node.reserved, node.scheduled)
            at = min((part.at for part in parts if part is not None), default=None)
            for queue in node.consumed_before:
                if at is None or None in parts:
                    silent.add(queue.name)
                else:
                    told[queue.name] = min(at, told.get(queue.name, at))
        return {queue: at for queue, at in told.items() if queue not in silent}
