"""Reads a demo's books and says what became of every attempt of every task.

Two questions: what is known now (`ledger`), and what is the final balance (`settle`). A task that
was purged, revoked, or discarded by a worker that does not know it, was sent and never ended: the
final balance counts it as lost, whoever wanted it so.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from celery_ops.demo import attempts as books
from celery_ops.demo.layout import Addresses, Layout
from celery_ops.demo.processes import Process, suspended
from celery_ops.errors import BrokerUnreachable, OpsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from celery_ops.config.secret import Secret
    from celery_ops.demo.registry import Demo

_QUIET = 5.0
_POLL = 0.5
_SETTLE_WITHIN = 180.0
"""More than Redis takes to give back what a killed worker had reserved (a minute and a sweep)."""

_TIMEOUT = 5.0
_PRIORITY_SEPARATOR = "\x06\x16"


@dataclass(frozen=True, slots=True)
class Ledger:
    """How many attempts, a (task id, retry) each, are in which state; beat's and retries included.

    `sent` is always `done + running + lost + waiting`. Before the demo was settled, `lost` counts
    what is proved lost: started by a process that is gone, not ended, and no copy of it in the
    broker. After, it is everything that was sent and neither ended nor is left anywhere. `twice`
    were started twice or ended twice. `unconfirmed` are in no other number: their publisher is
    publishing them now, or was killed while it did.
    """

    sent: int
    done: int
    running: int
    lost: int
    twice: int
    waiting: int
    unconfirmed: int
    settled: bool
    missing: tuple[str, ...] = ()
    """Each lost attempt, and how far it had come."""

    def as_json(self) -> dict[str, int]:
        return {
            "sent": self.sent,
            "done": self.done,
            "running": self.running,
            "lost": self.lost,
            "twice": self.twice,
        }


@dataclass(frozen=True, slots=True)
class _Books:
    """One consistent reading of what was written down."""

    counts: dict[str, int]
    waiting: frozenset[str]
    runs: dict[str, Process]
    unconfirmed: int
    settled: bool

    def living(self) -> frozenset[str]:
        return frozenset(
            books.attempt_of_run(run) for run, process in self.runs.items() if process.alive
        )

    def interrupted(self) -> frozenset[str]:
        """Attempts of which no process is left."""
        return frozenset(map(books.attempt_of_run, self.runs)) - self.living()


@dataclass(frozen=True, slots=True)
class _Held:
    """The tasks the broker has: ready by queue, unacked by whoever reserved them."""

    ready: Counter[str]
    unacked: int
    attempts: frozenset[str]


async def ledger(demo: Demo) -> Ledger:
    """What is known now. Raise BrokerUnreachable if the demo's Redis does not answer."""
    async with _connected(demo) as (ledger_redis, broker_redis):
        return await _read(ledger_redis, broker_redis)


async def settle(
    demo: Demo, progress: Callable[[str], None], *, timeout: float = _SETTLE_WITHIN
) -> Ledger:
    """Stop the producer and beat, wait until nothing is left to do, and draw the balance.

    Nothing is left when waiting, reserved and running tasks were all none for five seconds.
    `progress` gets a sentence whenever there is something new to say. Producer and beat stay
    stopped. Raise OpsError, naming what remains, after `timeout` seconds; BrokerUnreachable if
    Redis is gone.
    """
    await _stop_publishing(demo)
    progress("The producer and beat are stopped, and stay so.")
    async with _connected(demo) as (ledger_redis, broker_redis):
        await _rest(demo, ledger_redis, broker_redis, progress, timeout)
        await ledger_redis.set(books.SETTLED, 1)
        return await _read(ledger_redis, broker_redis)


async def _read(ledger_redis: Redis, broker_redis: Redis) -> Ledger:
    entries = await _entries(ledger_redis)
    interrupted = entries.interrupted()
    missing = interrupted | entries.waiting if entries.settled else interrupted
    if missing:
        # The broker is read first: what is given back and run meanwhile shows in the books.
        held = await _held(broker_redis)
        missing = await _not_ended(ledger_redis, missing - held.attempts)
    running = len(await _not_ended(ledger_redis, entries.living()))
    sent, done = entries.counts.get("sent", 0), entries.counts.get("done", 0)
    lost = len(missing)
    return Ledger(
        sent=sent,
        done=done,
        running=running,
        lost=lost,
        twice=entries.counts.get("twice", 0),
        waiting=max(0, sent - done - running - lost),
        unconfirmed=entries.unconfirmed,
        settled=entries.settled,
        missing=tuple(
            f"{attempt} was {'begun' if attempt in interrupted else 'sent and never begun'}"
            for attempt in sorted(missing)
        ),
    )


async def _entries(ledger_redis: Redis) -> _Books:
    pipeline = ledger_redis.pipeline(transaction=True)
    pipeline.hgetall(books.COUNTS)
    pipeline.smembers(books.WAITING)
    pipeline.hgetall(books.RUNNING)
    pipeline.scard(books.ANNOUNCED)
    pipeline.exists(books.SETTLED)
    counts, waiting, runs, announced, settled = await pipeline.execute()
    return _Books(
        counts={name.decode(): int(count) for name, count in counts.items()},
        waiting=frozenset(attempt.decode() for attempt in waiting),
        runs={run.decode(): Process.parse(process.decode()) for run, process in runs.items()},
        unconfirmed=announced,
        settled=bool(settled),
    )


async def _not_ended(ledger_redis: Redis, attempts: Iterable[str]) -> frozenset[str]:
    asked = tuple(attempts)
    pipeline = ledger_redis.pipeline(transaction=False)
    for attempt in asked:
        pipeline.hexists(books.attempt_key(attempt), "ends")
    ended = await pipeline.execute()
    return frozenset(
        attempt for attempt, has_ended in zip(asked, ended, strict=True) if not has_ended
    )


async def _held(broker_redis: Redis) -> _Held:
    """Every task in any list of the broker, so that moved and parked ones are found as well."""
    ready: Counter[str] = Counter()
    found = set()
    async for key in broker_redis.scan_iter(count=1000, _type="list"):
        attempts = [_attempt(raw) for raw in await broker_redis.lrange(key, 0, -1)]
        names = [attempt for attempt in attempts if attempt is not None]
        if names:
            ready[key.decode(errors="replace").partition(_PRIORITY_SEPARATOR)[0]] += len(names)
            found.update(names)
    unacked = await broker_redis.hvals("unacked")
    found.update(name for name in map(_unacked_attempt, unacked) if name is not None)
    return _Held(ready, len(unacked), frozenset(found))


def _attempt(raw: bytes | str) -> str | None:
    """The attempt a message asks for; None for what is no task, such as a reply."""
    try:
        return _named(json.loads(raw))
    except ValueError:
        return None


def _unacked_attempt(raw: bytes | str) -> str | None:
    """As kombu keeps it: `[message, exchange, routing key]`."""
    try:
        return _named(json.loads(raw)[0])
    except (ValueError, LookupError, TypeError):
        return None


def _named(message: object) -> str | None:
    headers = message.get("headers") if isinstance(message, dict) else None
    if not isinstance(headers, dict) or "task" not in headers:
        return None
    return books.attempt_name(str(headers.get("id")), headers.get("retries") or 0)


async def _rest(
    demo: Demo,
    ledger_redis: Redis,
    broker_redis: Redis,
    progress: Callable[[str], None],
    timeout: float,
) -> None:
    """Return when nothing was left to do for a while."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    quiet_since: float | None = None
    said = ""
    while True:
        left = "; ".join(await _left(demo, ledger_redis, broker_redis))
        if left:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = loop.time()
        elif loop.time() - quiet_since >= _QUIET:
            return
        if left and loop.time() > deadline:
            says = f"{demo.name} did not come to rest within {timeout:.0f} s. Left: {left}."
            raise OpsError(says, fix=f"Look at its workers: celery-ops -c {demo.name} status")
        now_said = f"Left: {left}." if left else f"Nothing is left; watching for {_QUIET:.0f} s."
        if now_said != said:
            progress(now_said)
            said = now_said
        await asyncio.sleep(_POLL)


async def _left(demo: Demo, ledger_redis: Redis, broker_redis: Redis) -> list[str]:
    """What is not at rest, in words; empty if all is.

    The broker is read first, since tasks move from it to the workers.
    """
    held = await _held(broker_redis)
    running = len((await _entries(ledger_redis)).living())
    left = [f"{count} waiting in {queue}" for queue, count in sorted(held.ready.items())]
    if held.unacked:
        left.append(f"{held.unacked} reserved by workers (given back a minute after one is killed)")
    if running:
        left.append(f"{running} running")
    # A suspended worker may have read a message that shows nowhere else.
    frozen = suspended(demo.session, demo.directory)
    left.extend(f"process {process.pid} is suspended" for process in frozen)
    return left


async def _stop_publishing(demo: Demo) -> None:
    """Return when producer and beat have ended, the task in their hands published."""
    layout = Layout(demo.directory)
    supervisorctl = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "supervisor.supervisorctl"),
        *("--configuration", str(layout.supervisor_config), "stop", "producer", "beat"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await supervisorctl.communicate()
    if supervisorctl.returncode != 0:
        text = said.decode(errors="replace").strip()
        raise OpsError(f"The producer and beat of {demo.name} cannot be stopped: {text}")


@asynccontextmanager
async def _connected(demo: Demo) -> AsyncIterator[tuple[Redis, Redis]]:
    """The ledger's database and the broker's."""
    try:
        addresses = Addresses.read(Layout(demo.directory))
    except OSError as error:
        raise BrokerUnreachable(f"{demo.name} has ended.") from error
    async with _client(addresses.ledger) as ledger_redis, _client(addresses.broker) as broker_redis:
        try:
            yield ledger_redis, broker_redis
        except RedisError as error:
            raise BrokerUnreachable(f"The Redis of {demo.name} does not answer: {error}") from error


def _client(address: Secret) -> Redis:
    return Redis.from_url(
        address.reveal(), socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT
    )
