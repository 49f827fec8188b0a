"""What kombu calls things in Redis: keys, members and channels, from the transport options.

Source: `kombu.transport.redis.Channel` (kombu 5.3 to 5.7). The options must be the fleet's own;
with others the same server shows an empty world (FACTS 1). Pure.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_STEPS = (0, 3, 6, 9)
DEFAULT_SEPARATOR = "\x06\x16"
REPLY_EXCHANGE = "celery-ops.reply"
"""The same for every client: a worker remembers each distinct exchange it replied to for ever."""
_REPLY_LIST_SUFFIX = ".reply.celery-ops.pidbox"
"""As kombu's own end, so that tools that leave reply lists out leave ours out too."""

_OURS = {"control_exchange", "event_exchange", "ssl"}
OF_SENTINELS = {"master_name", "sentinel_kwargs", "min_other_sentinels"}
_READ = {
    "global_keyprefix", "sep", "priority_steps", "fanout_prefix", "fanout_patterns",
    "unacked_key", "unacked_index_key",
}  # fmt: skip
_WITHOUT_EFFECT_HERE = {
    "visibility_timeout", "ack_emulation", "unacked_mutex_key", "unacked_mutex_expire",
    "unacked_restore_limit", "unacked_restore_interval", "unacked_restore_throttle",
    "socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options",
    "queue_order_strategy", "max_connections", "health_check_interval", "reauth_check_interval",
    "retry_on_timeout", "client_name", "sentinel_fanout_compat", "body_encoding",
    "deadletter_queue", "polling_interval", "brpop_timeout", "max_retries", "interval_start",
    "interval_step", "interval_max", "connect_retries_timeout", "errback", "confirm_publish",
    "batch_publish",
}  # fmt: skip
KNOWN_OPTIONS = frozenset(_OURS | OF_SENTINELS | _READ | _WITHOUT_EFFECT_HERE)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Names:
    """Every name that is used in Redis. `prefix` (global_keyprefix) is part of all keys and
    channels.
    """

    db: int
    prefix: str = ""
    separator: str = DEFAULT_SEPARATOR
    steps: tuple[int, ...] = DEFAULT_STEPS
    fanout_prefix: str = "/{db}."
    fanout_patterns: bool = True
    formats: tuple[bool, ...] = (True,)
    """Whether the number of the database takes the place of `{db}` in `fanout_prefix`: always, but
    with Sentinel before kombu 5.4. In a fleet of both, each worker listens to one of two channels.
    """
    control_exchange: str = "celery"
    event_exchange: str = "celeryev"
    unacked_name: str = "unacked"
    unacked_index_name: str = "unacked_index"
    lane: str = ""
    """Which lease is meant; empty: that of the context."""

    @property
    def unacked(self) -> str:
        return self.prefix + self.unacked_name

    @property
    def unacked_index(self) -> str:
        return self.prefix + self.unacked_index_name

    @property
    def lease(self) -> str:
        return f"{self.prefix}celery-ops:lease{self.lane and f':{self.lane}'}"

    @property
    def taken(self) -> str:
        return f"{self.prefix}celery-ops:taken"

    @property
    def runs(self) -> str:
        return f"{self.prefix}celery-ops:runs"

    @property
    def tickets(self) -> str:
        """How many messages have gone under each ticket."""
        return f"{self.prefix}celery-ops:tickets"

    @property
    def sent(self) -> str:
        """The names under which something was sent once, each with when that was."""
        return f"{self.prefix}celery-ops:sent"

    @property
    def pidbox(self) -> str:
        """The exchange that control messages go to."""
        return f"{self.control_exchange}.pidbox"

    @property
    def control_channels(self) -> tuple[str, ...]:
        """Every worker listens to one of them."""
        return self._channels(self.pidbox)

    @property
    def heartbeats(self) -> tuple[str, ...]:
        """The command that subscribes to what workers announce of themselves."""
        return self._subscribe("worker")

    @property
    def task_events(self) -> tuple[str, ...]:
        """The same for what becomes of tasks."""
        return self._subscribe("task")

    @property
    def binding_prefix(self) -> str:
        return f"{self.prefix}_kombu.binding."

    def binding(self, exchange: str) -> str:
        """The set of the queues that are bound to an exchange."""
        return self.binding_prefix + exchange

    def member(self, routing_key: str, queue: str) -> str:
        """One entry of such a set, for a direct exchange."""
        return self.separator.join((routing_key, "", queue))

    def bound(self, member: str) -> tuple[str, str] | None:
        """(routing key, queue) of such an entry; None if it is not one."""
        parts = member.split(self.separator)
        return (parts[0], parts[2]) if len(parts) == 3 else None

    def node(self, queue: str) -> str | None:
        """The node whose control queue that is."""
        suffix = f".{self.pidbox}"
        return queue.removesuffix(suffix) if queue.endswith(suffix) else None

    def reply_list(self, client: str) -> str:
        return client + _REPLY_LIST_SUFFIX

    def is_reply_list(self, queue: str) -> bool:
        """Whether it is a list of one of our clients."""
        return queue.endswith(_REPLY_LIST_SUFFIX)

    def key(self, queue: str, step: int) -> str:
        """The list of a queue's messages at one of its priority steps."""
        return f"{self.prefix}{queue}{self.suffix(step)}"

    def keys(self, queue: str) -> tuple[str, ...]:
        return tuple(self.key(queue, step) for step in self.steps)

    def step(self, priority: int) -> int:
        """Where a message of that priority lies."""
        return self.steps[bisect(self.steps, priority) - 1]

    def suffix(self, step: int) -> str:
        """A message of priority p lies at the largest step that is not above p; 0 has no suffix."""
        step = self.step(step)
        return f"{self.separator}{step}" if step else ""

    def queue_of(self, key: str) -> tuple[str, int] | None:
        """(queue, step) of a list's key; None if it is outside of our prefix."""
        if not key.startswith(self.prefix):
            return None
        name, separator, step = key[len(self.prefix) :].rpartition(self.separator)
        if separator and step.isascii() and step.isdigit():
            return name, int(step)
        return key[len(self.prefix) :], 0

    def is_plumbing(self, exchange_or_queue: str) -> bool:
        """Whether an exchange or list is of Celery's or our own machinery and holds no tasks."""
        return exchange_or_queue.endswith(".pidbox") or exchange_or_queue in {
            self.event_exchange,
            REPLY_EXCHANGE,
        }

    def _subscribe(self, group: str) -> tuple[str, ...]:
        channels = self._channels(self.event_exchange)
        if self.fanout_patterns:
            return ("PSUBSCRIBE", *(f"{escaped(channel)}/{group}.*" for channel in channels))
        return ("SUBSCRIBE", *channels)

    def _channels(self, exchange: str) -> tuple[str, ...]:
        # kombu formats {db} after the options were read, so a prefix of one's own may contain it
        # too.
        formatted = self.fanout_prefix.replace("{db}", str(self.db))
        prefixes = [formatted if formats else self.fanout_prefix for formats in self.formats]
        return tuple(self.prefix + one + exchange for one in dict.fromkeys(prefixes))


def from_options(db: int, options: Mapping[str, object], *, by_sentinels: bool = False) -> Names:
    """Names by Celery's `broker_transport_options` and `control_exchange`, `event_exchange`.

    `by_sentinels`: the transport is the one for Sentinel. Raise UsageError for what is not an
    option: a misspelt one would show an empty world.
    """
    _refuse_unknown(options)
    prefix = options.get("fanout_prefix", True)
    fanout_prefix = prefix if isinstance(prefix, str) else "/{db}." if prefix else ""
    return Names(
        db=db,
        prefix=_option(options, "global_keyprefix", str, ""),
        separator=_option(options, "sep", str, DEFAULT_SEPARATOR),
        steps=_steps(options.get("priority_steps")),
        fanout_prefix=fanout_prefix,
        fanout_patterns=bool(options.get("fanout_patterns", True)),
        formats=_formats(options) if by_sentinels else (True,),
        control_exchange=_option(options, "control_exchange", str, "celery"),
        event_exchange=_option(options, "event_exchange", str, "celeryev"),
        unacked_name=_option(options, "unacked_key", str, "unacked"),
        unacked_index_name=_option(options, "unacked_index_key", str, "unacked_index"),
    )


def _formats(options: Mapping[str, object]) -> tuple[bool, ...]:
    """With the option for a fleet of both, kombu's newer workers listen to both channels."""
    return (False,) if options.get("sentinel_fanout_compat") else (True, False)


def _refuse_unknown(options: Mapping[str, object]) -> None:
    for name in options:
        if name == "credential_provider":
            raise UsageError("The broker option credential_provider is not supported yet.")
        if name not in KNOWN_OPTIONS:
            near = difflib.get_close_matches(name, KNOWN_OPTIONS, n=1)
            raise UsageError(
                f"{name!r} is not a broker option.",
                fix=f"Did you mean {near[0]!r}?" if near else None,
            )


def _option(options: Mapping[str, object], name: str, kind: type[T], default: T) -> T:
    value = options.get(name, default)
    if not isinstance(value, kind):
        raise UsageError(f"The broker option {name} is not a {kind.__name__}.")
    return value


def _steps(value: object) -> tuple[int, ...]:
    if value is None:
        return DEFAULT_STEPS
    if not (isinstance(value, list | tuple) and value and all(type(step) is int for step in value)):
        raise UsageError("The broker option priority_steps is not a list of numbers.")
    return tuple(sorted(value))


def escaped(text: str) -> str:
    """Text as part of a glob-style pattern of Redis."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)
