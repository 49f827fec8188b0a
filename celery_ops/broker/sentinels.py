"""What sentinels say of a master, and which of them is believed. Pure: `master` asks them.

Sentinels that were cut off, or were away during a fail-over, name the old master until they have
heard of it. The configuration epoch tells: it grows with every fail-over, and no two of them have
the same. A sentinel whose epoch is lower than another's is never followed, whatever it says.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.broker.address import place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Place = tuple[str, int]
"""Host and port."""

_FLAGS = {
    "failover_in_progress": ", a fail-over is under way",
    "o_down": ", down as enough of them agree",
    "s_down": ", seemingly down",
}
"""What is said of a master; the first that is so says it all."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one sentinel said: where the master is, or why it could not say (`failed`, `fix`).

    `others` is how many other sentinels it knows, `flags` what it thinks of the master.
    """

    sentinel: str
    master: Place | None = None
    epoch: int = -1
    others: int = 0
    flags: frozenset[str] = frozenset()
    failed: str = ""
    fix: str | None = None


def read(sentinel: str, master: Sequence[bytes], state: Sequence[bytes] | None) -> Told:
    """The replies to SENTINEL GET-MASTER-ADDR-BY-NAME and to SENTINEL MASTER.

    The first is ahead of the second: it names the new master as soon as one has been promoted.
    Without the second, which a user of a sentinel may not be allowed, epoch and flags are unknown.
    """
    host, port = (part.decode(errors="replace") for part in master)
    fields = dict(zip(*[(part.decode(errors="replace") for part in state or ())] * 2, strict=False))
    return Told(
        sentinel,
        (host, int(port)),
        epoch=int(fields.get("config-epoch", -1)),
        others=int(fields.get("num-other-sentinels", 0)),
        flags=frozenset(fields.get("flags", "").split(",")) & _FLAGS.keys(),
    )


def agreed(told: Sequence[Told], of: int) -> bool:
    """Whether more than half of `of` sentinels say the same: the others need not be waited for."""
    votes = _votes(told)
    return bool(votes) and max(map(len, votes.values())) * 2 > of


def elected(told: Sequence[Told]) -> Place | None:
    """Where the master is; None if nobody knows, or if it is not clear whom to believe."""
    votes = _votes(told)
    if not votes:
        return None
    latest = max(epoch for epoch, _ in votes)
    counts = {where: len(by) for (epoch, where), by in votes.items() if epoch == latest}
    most = max(counts.values())
    found = [where for where, count in counts.items() if count == most]
    return found[0] if len(found) == 1 else None


def says(master: str, told: Sequence[Told]) -> str:
    """All that was said, for people: who is of one mind is named together.

    Nobody is named where all are: more than half are waited for, and which ones changes each time.
    """
    by: dict[str, list[str]] = defaultdict(list)
    for one in told:
        if one.master is None:
            continue
        thinks = next((text for flag, text in _FLAGS.items() if flag in one.flags), "")
        by[f"master is {place(*one.master)}{thinks}"].append(one.sentinel)
    parts = sorted(f"{what} ({', '.join(sorted(who))})" for what, who in by.items())
    if len(by) == 1:
        parts = list(by)
    said = f"The sentinels of {master} say: {'; '.join(parts)}." if parts else ""
    return " ".join([said, *sorted(one.failed for one in told if one.failed)]).strip()


def _votes(told: Sequence[Told]) -> Mapping[tuple[int, Place], list[Told]]:
    votes: dict[tuple[int, Place], list[Told]] = defaultdict(list)
    for one in told:
        if one.master is not None:
            votes[one.epoch, one.master].append(one)
    return votes
