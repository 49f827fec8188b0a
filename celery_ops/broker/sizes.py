"""How many messages each queue holds: waiting in the broker, and held by workers.

Reads only, and never KEYS. Queues that nobody named are found from kombu's bindings and from a SCAN
with a budget, which goes on at the next call where the last one stopped. The messages that workers
hold lie in one hash for all queues: each is looked into once, when its tag is new.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.broker import messages, scripts
from celery_ops.broker.heads import QueueHeads
from celery_ops.broker.names import escaped
from celery_ops.broker.refusals import Refused
from celery_ops.broker.routes import routed
from celery_ops.ports import QueueReading, QueuesReading, Unacked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from celery_ops.broker.messages import Held
    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Answer, Wire, Word
    from celery_ops.ports import Clock

UNACKED_CAP = 10_000
_TAGS_AT_A_TIME = 200
_BYTES_A_CALL = 16 * 1024 * 1024
_BYTES_AT_A_TIME = 1024 * 1024
"""So much is decoded before the event loop gets its turn."""
_QUEUES_AT_A_TIME = 500
_KEYS_A_SCAN = 2_000
_SCANS_A_CALL = 5
_LATEST = 253_402_300_799.0
"""The last second of the year 9999, which is as far as dates go."""
_BEAT_LOCK = "redbeat::lock"
"""RedBeat's own default; it has a database and a key prefix of its own, both mostly not set."""
_LOCK_INTERVAL = 2.0
_PASS_AGAIN = 10.0
"""Seconds between two passes over the key space."""


class QueueSizes:
    """Reads `QueuesReading`s, and remembers between two of them what need not be read again."""

    def __init__(self, wire: Wire, names: Names, clock: Clock) -> None:
        self._wire = wire
        self._names = names
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._by_script = True
        """One answer for many lists; where scripts are not allowed, each is asked for by itself."""
        self._finder = QueueFinder(wire, names, clock)
        self._ledger = UnackedLedger(wire, names)
        self._heads = QueueHeads(wire, names)
        self._beat_lock: tuple[float, float | None] | None = None

    async def read(self, known: Collection[str]) -> QueuesReading:
        """Sizes of the queues in `known`, and of all others that were found."""
        async with self._one_at_a_time:
            return await self._read(known)

    def reply_lists(self) -> set[str]:
        """Keys of our clients' reply lists that were come across since the last call."""
        found, self._finder.reply_lists = self._finder.reply_lists, set()
        return found

    async def _read(self, known: Collection[str]) -> QueuesReading:
        found = await self._finder.find()
        wanted = sorted({*known, *found, *self._ledger.queues})
        at = self._clock.now()
        ready, held = await self._count(wanted)
        unacked = await self._ledger.read(held, self._finder.bindings)
        late = sorted(self._ledger.queues - set(wanted))
        if late:
            ready |= (await self._count(late))[0]
        await self._heads.look(ready)
        counts = Counter(entry.queue for entry in unacked or ())
        queues = []
        for name, steps in sorted(ready.items()):
            size, heads = self._heads.of(name, steps)
            told = unacked is not None and name not in self._ledger.uncertain
            queues.append(
                QueueReading(
                    name=name,
                    ready=sum(steps.values()),
                    unacked=counts[name] if told else None,
                    by_priority=tuple(steps.items()),
                    bytes=size,
                    heads=heads,
                )
            )
        notes = (*self._finder.notes, *self._ledger.notes, *self._heads.notes)
        return QueuesReading(
            at=at,
            queues=tuple(queues),
            unacked=unacked,
            notes=notes,
            unlisted=" ".join(self._finder.notes),
            beat_lock=await self._lock(),
        )

    async def _lock(self) -> float | None:
        """Seconds for which RedBeat's lock is held. By itself: who may not read that key must not
        be refused all the rest.
        """
        now = self._clock.monotonic()
        if self._beat_lock is None or now - self._beat_lock[0] >= _LOCK_INTERVAL:
            (answer,) = await self._wire.read_many([("PTTL", _BEAT_LOCK)], at_once=False)
            self._beat_lock = (now, _seconds(answer))
        return self._beat_lock[1]

    async def _count(self, queues: Sequence[str]) -> tuple[dict[str, dict[int, int]], HeldTags]:
        """Ready messages by step; and, at the same moment, the tags of the held ones."""
        ready: dict[str, dict[int, int]] = {}
        held: HeldTags | None = None
        for start in range(0, max(1, len(queues)), _QUEUES_AT_A_TIME):
            some = queues[start : start + _QUEUES_AT_A_TIME]
            keys = [key for queue in some for key in self._names.keys(queue)]
            first = self._ledger.commands() if held is None else []
            told, lengths = await self._lengths(first, keys)
            held = held or HeldTags.of(iter(told), self._wire)
            of_key = iter(lengths)
            for queue in some:
                steps = {step: next(of_key) for step in self._names.steps}
                if min(steps.values()) >= 0:
                    ready[queue] = steps
        return ready, held or HeldTags(0, {})

    async def _lengths(
        self, first: Sequence[tuple[Word, ...]], keys: Sequence[str]
    ) -> tuple[list[Answer], list[int]]:
        """What else is asked for first, at the same moment, and the lists' lengths; -1 for a key
        that is not a list: whatever it is, it is not that queue.
        """
        if self._by_script:
            script: tuple[Word, ...] = ("EVAL", scripts.LENGTHS, len(keys), *keys)
            with suppress(Refused):
                *told, lengths = await self._wire.read_many([*first, script])
                if not isinstance(lengths, Exception):
                    return told, lengths
            self._by_script = False
        answers = await self._wire.read_many([*first, *(("LLEN", key) for key in keys)])
        return answers[: len(first)], [self._length(one) for one in answers[len(first) :]]

    def _length(self, answer: Answer) -> int:
        if isinstance(answer, Exception):
            if "WRONGTYPE" in str(answer):
                return -1
            raise self._wire.refused(answer)
        return int(answer)


def _seconds(answer: Answer) -> float | None:
    """Of PTTL: negative where there is no such key, or it never expires."""
    return answer / 1000 if isinstance(answer, int) and answer >= 0 else None


class HeldTags:
    """What `unacked_index` and `unacked` held at one moment: delivery tags with their times."""

    def __init__(self, held: int, since: Mapping[str, float]) -> None:
        self.held = held
        self.since = since

    @classmethod
    def of(cls, answers: Iterator[Answer], wire: Wire) -> HeldTags:
        held, index = next(answers), next(answers)
        for refused in (held, index):
            if isinstance(refused, Exception):
                raise wire.refused(refused)
        return cls(int(held), dict(_tags(index)))


class UnackedLedger:
    """Which task and queue each held message belongs to."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names
        self._held: dict[str, Held] = {}
        self.queues: set[str] = set()
        """Every queue that a held message came from."""
        self.uncertain: set[str] = set()
        """Queues whose held messages cannot be told from those of others."""
        self.notes: tuple[str, ...] = ()

    def commands(self) -> list[tuple[Word, ...]]:
        """What has to be read in the same moment as the queues."""
        # One more than the cap is enough to know that there are too many.
        return [
            ("HLEN", self._names.unacked),
            ("ZRANGE", self._names.unacked_index, 0, UNACKED_CAP, "WITHSCORES"),
        ]

    async def read(
        self, tags: HeldTags, bindings: Mapping[str, Sequence[tuple[str, str]]]
    ) -> tuple[Unacked, ...] | None:
        """Every held message; None above the cap, or while new ones are still being looked into."""
        self.notes, self.queues, self.uncertain = (), set(), set()
        count = max(tags.held, len(tags.since))
        if count > UNACKED_CAP:
            self._held.clear()
            self.notes = (
                f"Workers hold {count} messages; above {UNACKED_CAP} they are not told apart.",
            )
            return None
        for gone in self._held.keys() - tags.since.keys():
            del self._held[gone]
        unread = await self._look_into([tag for tag in tags.since if tag not in self._held])
        if unread:
            self.notes = (f"{unread} of {count} held messages have not been looked into yet.",)
            return None
        if tags.held > len(tags.since):
            self.notes = (
                f"{tags.held - len(tags.since)} held messages are missing in"
                f" {self._names.unacked_index_name}: no visibility timeout will restore them.",
            )
            return None
        return tuple(self._entries(tags.since, bindings))

    async def _look_into(self, new: Sequence[str]) -> int:
        """Read new messages within the budget of bytes; how many are left for the next call."""
        spent = unyielded = 0
        for start in range(0, len(new), _TAGS_AT_A_TIME):
            if spent > _BYTES_A_CALL:
                return len(new) - start
            some = new[start : start + _TAGS_AT_A_TIME]
            found = await self._wire.read("HMGET", self._names.unacked, *some)
            for tag, raw in zip(some, found, strict=True):
                if raw is None:  # acknowledged since its tag was read
                    continue
                held = messages.read_held(raw)
                self._held[tag] = held or messages.Held(None, "", "")
                spent += len(raw)
                unyielded += len(raw)
                if unyielded > _BYTES_AT_A_TIME:
                    unyielded = 0
                    await asyncio.sleep(0)
        return 0

    def _entries(
        self, since: Mapping[str, float], bindings: Mapping[str, Sequence[tuple[str, str]]]
    ) -> Iterator[Unacked]:
        for tag, score in since.items():
            held = self._held.get(tag)
            if held is None:
                continue
            queues = routed(held.exchange, held.routing_key, bindings)
            self.queues |= queues
            if len(queues) != 1:
                self.uncertain |= queues
            queue = next(iter(queues)) if len(queues) == 1 else None
            yield Unacked(tag, held.task_id, queue, moment(score), held.task)


class QueueFinder:
    """Finds queues that nobody named: those bound to an exchange, and lists of messages."""

    def __init__(self, wire: Wire, names: Names, clock: Clock) -> None:
        self._wire = wire
        self._names = names
        self._clock = clock
        self._pass = _Pass()
        self._next_pass_at = 0.0
        self._queues: frozenset[str] | None = None
        """Queues that the last whole pass found; None before its end."""
        self.bindings: dict[str, tuple[tuple[str, str], ...]] = {}
        """(routing key, queue) of each exchange that routes tasks."""
        self.reply_lists: set[str] = set()
        """Keys of our clients' reply lists that were come across."""
        self.notes: tuple[str, ...] = ()

    async def find(self) -> frozenset[str]:
        """Names of queues found so far; `notes` says if that cannot be all."""
        self.notes = ()
        try:
            await self._scan()
        except Refused as refused:
            self.notes = (f"Queues that nobody consumes cannot be looked for: {refused.says}",)
        bound = {queue for entries in self.bindings.values() for _, queue in entries}
        found = bound | self._pass.queues() | (self._queues or frozenset())
        return frozenset(queue for queue in found if queue and not self._names.is_plumbing(queue))

    async def _scan(self) -> None:
        if self._pass.is_over and self._clock.monotonic() < self._next_pass_at:
            return
        if self._pass.is_over:
            self._pass = _Pass(queues=self._pass.queues())
        for _ in range(_SCANS_A_CALL):
            await self._scan_some(self._pass)
            if self._pass.is_over:
                await self._end_pass(self._pass)
                return
        if self._queues is None:
            total = await self._wire.read("DBSIZE")
            self.notes = (
                f"The {total} keys of the broker's database have not all been scanned yet:"
                " queues that nobody consumes may be missing.",
            )

    async def _scan_some(self, current: _Pass) -> None:
        kind, names = current.kind, self._names
        pattern = escaped(names.binding_prefix if kind == "set" else names.prefix) + "*"
        cursor, keys = await self._wire.read(
            "SCAN", current.cursor, "MATCH", pattern, "COUNT", _KEYS_A_SCAN, "TYPE", kind
        )
        texts = list(_decoded(keys))
        if kind == "list":
            await self._judge(texts, current)
        else:
            exchanges = {key[len(names.binding_prefix) :] for key in texts}
            current.exchanges |= {name for name in exchanges if not names.is_plumbing(name)}
        current.advance(int(cursor))

    async def _judge(self, keys: Iterable[str], current: _Pass) -> None:
        """A list is a queue if what it holds is a message of kombu's."""
        new = {}
        for key in keys:
            place = self._names.queue_of(key)
            if place and self._names.is_reply_list(place[0]):
                self.reply_lists.add(key)
            elif place and place[0] in current.known:
                current.lists[place[0]] = True
            elif place and place[0] not in current.lists and not self._names.is_plumbing(place[0]):
                new[place[0]] = key
        if not new:
            return
        found = await self._wire.read_many(
            [("LINDEX", key, -1) for key in new.values()], at_once=False
        )
        for queue, message in zip(new, found, strict=True):
            if isinstance(message, bytes):
                current.lists[queue] = messages.is_message(message)

    async def _end_pass(self, current: _Pass) -> None:
        self._next_pass_at = self._clock.monotonic() + _PASS_AGAIN
        self._queues = current.queues()
        bindings: dict[str, tuple[tuple[str, str], ...]] = {}
        exchanges = sorted(current.exchanges)
        for start in range(0, len(exchanges), _QUEUES_AT_A_TIME):
            some = exchanges[start : start + _QUEUES_AT_A_TIME]
            tables = await self._wire.read_many(
                [("SMEMBERS", self._names.binding(exchange)) for exchange in some], at_once=False
            )
            for exchange, members in zip(some, tables, strict=True):
                if not isinstance(members, Exception):
                    entries = (self._names.bound(member) for member in _decoded(members))
                    bindings[exchange] = tuple(entry for entry in entries if entry is not None)
        self.bindings = bindings


class _Pass:
    """One pass over the key space: bindings first, then lists; it goes on over several calls."""

    def __init__(self, *, queues: frozenset[str] = frozenset()) -> None:
        """`queues` were found by the pass before: their messages need not be read again."""
        self.known = queues
        self._kinds = ["set", "list"]
        self.cursor = 0
        self.exchanges: set[str] = set()
        self.lists: dict[str, bool] = {}
        """Lists that were found; whether they hold messages."""

    @property
    def is_over(self) -> bool:
        return not self._kinds

    @property
    def kind(self) -> str:
        return self._kinds[0]

    def advance(self, cursor: int) -> None:
        self.cursor = cursor
        if cursor == 0:
            self._kinds.pop(0)

    def queues(self) -> frozenset[str]:
        return frozenset(name for name, holds_messages in self.lists.items() if holds_messages)


def _decoded(texts: Iterable[bytes]) -> Iterator[str]:
    """kombu's names are UTF-8; a key that is not is none of Celery's."""
    for text in texts:
        try:
            yield text.decode()
        except UnicodeDecodeError:
            continue


def _tags(index: Answer) -> Iterator[tuple[str, float]]:
    """Members with their scores: redis-py pairs them up for some versions of its replies."""
    is_paired = bool(index) and isinstance(index[0], tuple | list)
    for tag, score in index if is_paired else zip(index[::2], index[1::2], strict=True):
        yield tag.decode(errors="surrogatepass"), float(score)


def moment(score: float) -> datetime:
    """When a message was delivered; anybody may have written any number there."""
    return datetime.fromtimestamp(max(0.0, min(score, _LATEST)), UTC)
