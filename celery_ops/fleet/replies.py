"""Raw control replies turned into the model's types.

Pure, and tolerant across Celery 5.2 to 5.7. A reply is hostile input: a part of the wrong type
becomes None, and where a missing part would look like "nothing there" the whole answer does.
"""

from __future__ import annotations

import json
import re
import reprlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from celery_ops.model import (
    INCARNATION_TOLERANCE,
    ConsumedQueue,
    RegisteredTask,
    Task,
    WorkerStats,
)

if TYPE_CHECKING:
    from celery_ops.ports import Reply

ARGUMENTS_LENGTH = 200
_LARGEST = 2**63
_LONGEST_UPTIME = 3.2e9
_POOL = re.compile(r"celery\.concurrency\.(\w+):\w+")
_POOL_NAMES = {"thread": "threads"}
_OPTION = re.compile(r"(\w+)=(\S+)")


def stats(reply: Reply, *, before: WorkerStats | None = None) -> WorkerStats | None:
    """A `stats` reply; None without a usable pid.

    The start is the reply's time minus `uptime`, which is rounded to seconds. `before` is the
    earlier reading of this node: the same life keeps the start that was computed first, so it does
    not jitter.
    """
    value = reply.value
    if not isinstance(value, dict):
        return None
    pid = _count(value.get("pid"))
    if pid is None:
        return None
    pool = _mapping(value.get("pool"))
    return WorkerStats(
        pid=pid,
        started_at=_started_at(reply.at, value.get("uptime"), pid, before),
        pool=_pool_name(pool.get("implementation")),
        concurrency=_count(pool.get("max-concurrency")),
        prefetch=_count(value.get("prefetch_count")),
        processed=_processed(value.get("total")),
        pool_pids=_pids(pool.get("processes")),
        autoscale=_autoscale(value.get("autoscaler")),
        visibility_timeout=_visibility_timeout(value.get("broker")),
        priority_options=_priority_options(value.get("broker")),
    )


def tasks(reply: Reply) -> tuple[Task, ...] | None:
    """The tasks of an `active` or `reserved` reply."""
    if not isinstance(reply.value, list):
        return None
    found = [_task(entry, None) for entry in reply.value]
    return _all_or_unknown(found)


def scheduled(reply: Reply) -> tuple[Task, ...] | None:
    """The tasks a worker holds until their ETA."""
    if not isinstance(reply.value, list):
        return None
    found = [
        _task(entry.get("request"), _moment(entry.get("eta"))) if isinstance(entry, dict) else None
        for entry in reply.value
    ]
    return _all_or_unknown(found)


def consumed(reply: Reply) -> tuple[ConsumedQueue, ...] | None:
    """What a worker consumes, each with the declaration it has to be given back with."""
    if not isinstance(reply.value, list):
        return None
    queues = []
    for entry in reply.value:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            return None
        try:
            declaration = json.dumps(entry, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return None
        queues.append(ConsumedQueue(name, declaration))
    return tuple(queues)


def registered(reply: Reply) -> tuple[RegisteredTask, ...] | None:
    """The tasks a worker can run, from entries like `app.add [rate_limit=10/m acks_late=True]`."""
    if not isinstance(reply.value, list):
        return None
    found = []
    for entry in reply.value:
        if not isinstance(entry, str):
            return None
        name, _, rest = entry.partition(" [")
        options = dict(_OPTION.findall(rest.removesuffix("]")))
        found.append(
            RegisteredTask(
                name,
                options.get("rate_limit"),
                acks_late=_flag(options.get("acks_late")),
                batched="flush_every" in options,
                ignores_result=_flag(options.get("ignore_result")),
            )
        )
    return tuple(found)


def is_pong(reply: Reply) -> bool:
    """Whether a reply to `ping` is one."""
    return isinstance(reply.value, dict) and reply.value.get("ok") == "pong"


def _all_or_unknown(found: list[Task | None]) -> tuple[Task, ...] | None:
    """A list with one entry that cannot be read is not a shorter list: it is unknown."""
    readable = tuple(task for task in found if task is not None)
    return readable if len(readable) == len(found) else None


def _task(entry: object, eta: datetime | None) -> Task | None:
    if not isinstance(entry, dict):
        return None
    identity = entry.get("id")
    name = entry.get("name") or entry.get("type")
    if not isinstance(identity, str) or not isinstance(name, str):
        return None
    acknowledged = entry.get("acknowledged")
    return Task(
        id=identity,
        name=name,
        args=_arguments(entry.get("args"), entry.get("kwargs")),
        queue=_queue(entry.get("delivery_info")),
        started_at=_epoch(entry.get("time_start")),
        eta=eta,
        acknowledged=acknowledged if isinstance(acknowledged, bool) else None,
    )


class _Shortened(reprlib.Repr):
    """Bounded in every direction: arguments may be megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 20
        self.maxstring = self.maxother = ARGUMENTS_LENGTH
        self.maxlong = 40
        self.maxlevel = 4


_shortened = _Shortened()


def _arguments(args: object, kwargs: object) -> str:
    """`(1, 8, key='a')`, cut to ARGUMENTS_LENGTH.

    Text is taken as the worker's own representation.
    """
    if isinstance(args, str) or isinstance(kwargs, str):
        named = kwargs if isinstance(kwargs, str) and kwargs != "{}" else ""
        text = " ".join(part for part in (_text(args), named) if part)
    else:
        items = args[:20] if isinstance(args, list | tuple) else []
        shown = [_shortened.repr(item) for item in items]
        if isinstance(args, list | tuple) and len(args) > len(items):
            shown.append("…")
        for index, (key, value) in enumerate(_mapping(kwargs).items()):
            if index == 20:
                shown.append("…")
                break
            shown.append(f"{str(key)[:ARGUMENTS_LENGTH]}={_shortened.repr(value)}")
        text = f"({', '.join(shown)})"
    return text if len(text) <= ARGUMENTS_LENGTH else text[: ARGUMENTS_LENGTH - 1] + "…"


def _flag(text: str | None) -> bool | None:
    return {"True": True, "False": False}.get(text or "")


def _text(value: object) -> str:
    return value if isinstance(value, str) else _shortened.repr(value)


def _queue(delivery_info: object) -> str | None:
    """The default exchange routes by queue name; of any other the reply does not tell the queue."""
    info = _mapping(delivery_info)
    key = info.get("routing_key")
    return key if info.get("exchange") == "" and isinstance(key, str) else None


def _started_at(
    at: datetime, uptime: object, pid: int, before: WorkerStats | None
) -> datetime | None:
    if isinstance(uptime, bool) or not isinstance(uptime, int | float):
        return None
    if not 0 <= uptime < _LONGEST_UPTIME:
        return None
    start = at - timedelta(seconds=uptime)
    earlier = before.started_at if before is not None and before.pid == pid else None
    if earlier is not None and abs(start - earlier) <= INCARNATION_TOLERANCE:
        return earlier
    return start


def _pool_name(implementation: object) -> str | None:
    if not isinstance(implementation, str):
        return None
    match = _POOL.fullmatch(implementation)
    if match is None:
        return implementation[:ARGUMENTS_LENGTH]
    return _POOL_NAMES.get(match[1], match[1])


def _processed(total: object) -> int | None:
    if not isinstance(total, dict):
        return None
    counts = [_count(value) for value in total.values()]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _pids(processes: object) -> tuple[int, ...]:
    if not isinstance(processes, list):
        return ()
    return tuple(pid for pid in (_count(entry) for entry in processes) if pid is not None)


def _autoscale(autoscaler: object) -> tuple[int, int] | None:
    limits = _mapping(autoscaler)
    least, most = _count(limits.get("min")), _count(limits.get("max"))
    return None if least is None or most is None else (least, most)


def _visibility_timeout(broker: object) -> float | None:
    options = _mapping(_mapping(broker).get("transport_options"))
    seconds = options.get("visibility_timeout")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return float(seconds) if 0 <= seconds < _LARGEST else None


def _priority_options(broker: object) -> dict[str, object]:
    options = _mapping(_mapping(broker).get("transport_options"))
    found: dict[str, object] = {}
    steps, separator = options.get("priority_steps"), options.get("sep")
    if isinstance(steps, list):
        found["priority_steps"] = tuple(steps)
    if isinstance(separator, str):
        found["sep"] = separator
    return found


def _mapping(value: object) -> dict[object, object]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST else None


def _epoch(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _moment(value: object) -> datetime | None:
    """An ISO 8601 moment. One without a zone says nothing: whose zone would it be?"""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
