"""The books of a demo: every attempt of every task, written down where it happens.

An attempt is one (task id, retry). Whoever publishes one announces it before and confirms it after;
whoever runs it writes down its start and its end. Each entry is one script, so a process that is
killed leaves the books either before or after an entry, never in between:

* announced, never confirmed or started: its publisher was killed; whether it was sent is not known,
  and it counts as nothing;
* sent: confirmed, or started (which proves it), whichever comes first;
* done: ended once, by returning or by raising, a retry included;
* twice: started twice or ended twice.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from redis import Redis

from celery_ops.demo.processes import identify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.config.secret import Secret

COUNTS = "counts"
ANNOUNCED = "announced"
WAITING = "waiting"
RUNNING = "running"
SETTLED = "settled"
NUMBER = "number"

# Seconds an attempt that ended is remembered, to recognise a second run of it: far longer than the
# broker can hold a message back, and short enough for a demo that is left on over a weekend.
_ARGUMENTS = "local key, attempt, remembered = 'attempt:' .. ARGV[1], ARGV[1], 21600\n"

_CONFIRM = (
    _ARGUMENTS
    + """
redis.call('DEL', 'settled')
redis.call('SREM', 'announced', attempt)
if redis.call('HSETNX', key, 'sent', 1) == 1 then
    redis.call('HINCRBY', 'counts', 'sent', 1)
    redis.call('SADD', 'waiting', attempt)
end
"""
)

_START = (
    _ARGUMENTS
    + """
redis.call('SREM', 'announced', attempt)
redis.call('SREM', 'waiting', attempt)
if redis.call('HSETNX', key, 'sent', 1) == 1 then
    redis.call('HINCRBY', 'counts', 'sent', 1)
end
local starts = redis.call('HINCRBY', key, 'starts', 1)
if starts > 1 and redis.call('HSETNX', key, 'twice', 1) == 1 then
    redis.call('HINCRBY', 'counts', 'twice', 1)
end
redis.call('HSET', 'running', attempt .. '#' .. starts, ARGV[2])
return starts
"""
)

_END = (
    _ARGUMENTS
    + """
redis.call('HDEL', 'running', attempt .. '#' .. ARGV[2])
local ends = redis.call('HINCRBY', key, 'ends', 1)
if ends == 1 then
    redis.call('HINCRBY', 'counts', 'done', 1)
elseif redis.call('HSETNX', key, 'twice', 1) == 1 then
    redis.call('HINCRBY', 'counts', 'twice', 1)
end
redis.call('EXPIRE', key, remembered)
"""
)


def attempt_name(task_id: str, retries: int) -> str:
    """`retries` counts from 0, as celery does."""
    return f"{task_id}/{retries}"


def attempt_key(attempt: str) -> str:
    """Where what is known of one attempt is kept: a hash of `sent`, `starts`, `ends`, `twice`."""
    return f"attempt:{attempt}"


def attempt_of_run(run: str) -> str:
    """The attempt of a field of RUNNING, which is `attempt#start`; its value is a Process."""
    return run.rpartition("#")[0]


class Attempts:
    """Writes the books. May be shared by threads, and is inherited safely by a forked child."""

    def __init__(self, ledger: Secret) -> None:
        # Without the timeouts that redis-py has by default: an entry that is given up because the
        # machine is slow would count a task as lost.
        self._redis = Redis.from_url(
            ledger.reveal(), socket_timeout=None, socket_connect_timeout=None, decode_responses=True
        )
        self._confirm = self._redis.register_script(_CONFIRM)
        self._start = self._redis.register_script(_START)
        self._end = self._redis.register_script(_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def announce(self, attempt: str) -> None:
        """Before it is published."""
        self._redis.sadd(ANNOUNCED, attempt)

    def confirm(self, attempt: str) -> None:
        """After the broker has taken it."""
        self._confirm(args=[attempt])

    @contextmanager
    def run(self, attempt: str) -> Iterator[None]:
        """Around the work. An exception ends an attempt; what ends the process does not."""
        start = int(self._start(args=[attempt, str(identify(os.getpid()))]))
        try:
            yield
        except Exception:
            self._end(args=[attempt, start])
            raise
        self._end(args=[attempt, start])

    def next_number(self) -> int:
        return int(self._redis.incr(NUMBER))

    def waiting(self) -> int:
        """How many were sent and not started yet, wherever they are."""
        return int(self._redis.scard(WAITING))
