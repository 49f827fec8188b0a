"""Which queue a held message came from, by kombu's bindings. Pure.

Source: `kombu.transport.virtual.exchange`. The type of an exchange is written nowhere in
Redis, so a binding's key counts both as it stands (direct) and as a pattern (topic).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def routed(
    exchange: str, routing_key: str, bindings: Mapping[str, Sequence[tuple[str, str]]]
) -> set[str]:
    """The queues that a message may have come from, by where it was sent; one, unless several are
    bound to its key.

    Of several each got a copy of its own: which of them this one is cannot be told.
    """
    if not exchange:
        return {routing_key} if routing_key else set()
    return {
        queue
        for key, queue in bindings.get(exchange, ())
        if key == routing_key or _topic_matches(key, routing_key)
    }


def _topic_matches(pattern: str, routing_key: str) -> bool:
    """`*` stands for one word, `#` for any number of them. By hand: a binding is hostile input."""
    reached = {0}
    words = routing_key.split(".")
    for word in pattern.split("."):
        if word == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and word in ("*", words[at])}
        if not reached:
            return False
    return len(words) in reached
