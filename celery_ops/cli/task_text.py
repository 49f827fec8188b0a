"""What is known of tasks as text and as JSON. Each value tells its age; unknown is never `gone`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli.fleet_json import moment
from celery_ops.cli.text import cut, safe_lines
from celery_ops.config.secret import masked
from celery_ops.model import TaskPlace
from celery_ops.tui.text import UNKNOWN, age_of, counted
from celery_ops.tui.text import moment as time_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from celery_ops.cli.fleet_json import Json
    from celery_ops.fleet.tracing import Trace
    from celery_ops.model import Reading, SeenTask, StoredResult

LAST_LINES = 5
"""Of a traceback, for people."""


def lines(trace: Trace, width: int) -> list[str]:
    """A block for each task, and what could not be found out."""
    blocks = [_block(trace, one) for one in trace.ids]
    if trace.notes:
        blocks.append(["What is not seen may be where it could not be looked:",
                       *(f"  {note}" for note in trace.notes)])  # fmt: skip
    shown = [line for block in blocks for line in ["", *block]][1:]
    return [cut(safe_lines(masked(line.replace("\n", " "))), max(width, 40)) for line in shown]


def as_json(trace: Trace) -> Json:
    """`celery-ops task show --json`. `age` is in seconds, that of the reading it stands in.

    `places` is null where nothing was seen and not all could be looked at. Of `revoked` a worker
    that did not say is null.
    """
    return {
        "at": moment(trace.at),
        "complete": not trace.notes,
        "tasks": [_task_json(trace, one) for one in trace.ids],
        "notes": [masked(note) for note in trace.notes],
    }


def _block(trace: Trace, id_: str) -> list[str]:
    seen, result = trace.seen.of(id_), trace.seen.results.get(id_)
    name = _name(seen, result)
    found = [f"{id_}  {name or 'task unknown'}"]
    arguments = next((one.arguments for one in seen if one.arguments), None)
    found += [f"  arguments {arguments}"] if arguments else []
    found += [f"  {_place(one, trace.at)}" for one in seen]
    if not seen:
        where = "nowhere that could be looked at" if trace.notes else "nowhere now"
        found.append(f"  seen {where}: ended, never sent, or on its way")
    found.append(f"  {_revoked(trace, id_)}")
    found += [f"  {line}" for line in _result(trace, result)]
    return found


def _place(one: SeenTask, now: datetime) -> str:
    told = f"({age_of(one.at, now)} ago)"
    due = "" if one.eta is None else f", due {time_of(one.eta, now)}"
    match one.place:
        case TaskPlace.WAITING:
            ahead = UNKNOWN if one.ahead is None else counted(one.ahead, "message")
            tries = f", after {counted(one.retries, 'retry', 'retries')}" if one.retries else ""
            says = f"waits in {one.queue}, {ahead} ahead of it{tries}{due}"
        case TaskPlace.HELD:
            says = (
                f"held and not acknowledged since {_since(one, now)}, of queue"
                f" {one.queue or UNKNOWN}; no worker shows it"
            )
        case TaskPlace.ACTIVE:
            says = f"runs in {one.worker} since {_since(one, now)}, of queue {one.queue or UNKNOWN}"
        case TaskPlace.SCHEDULED:
            says = f"waits for its time in {one.worker}{due}, of queue {one.queue or UNKNOWN}"
        case TaskPlace.RESERVED:
            says = f"reserved by {one.worker}{due}, of queue {one.queue or UNKNOWN}"
    return f"{says} {told}"


def _since(one: SeenTask, now: datetime) -> str:
    if one.since is None:
        return UNKNOWN
    return f"{time_of(one.since, now)} UTC, {age_of(one.since, now)} long"


def _revoked(trace: Trace, id_: str) -> str:
    told = trace.revoked.by_worker
    there = sorted(name for name, ids in told.items() if id_ in ids)
    silent = sorted(name for name in trace.workers if name not in told)
    says = f"revoked in {', '.join(there)}" if there else "revoked in no worker that says so"
    if there and len(there) < len(told):
        says += f", not in {', '.join(sorted(told.keys() - set(there)))}"
    if silent:
        says += f"; not known of {', '.join(silent)}"
    return f"{says} ({age_of(trace.revoked.at, trace.at)} ago)"


def _result(trace: Trace, result: Reading[StoredResult] | None) -> list[str]:
    if not trace.reads_results:
        return ["result not known: no result backend is configured here (results: …), or none that"
                " is read"]  # fmt: skip
    if result is None:
        return ["result: nothing is stored (not ended, its results are not kept, or expired)"]
    stored = result.value
    if stored.unreadable:
        return [f"result: something is stored, and not read: {stored.unreadable}"]
    ended = "" if stored.ended_at is None else f" at {time_of(stored.ended_at, trace.at)} UTC"
    by = "" if stored.worker is None else f" by {stored.worker}"
    error = f": {stored.error}" if stored.error else ""
    told = f"({age_of(result.at, trace.at)} ago)"
    found = [f"result: {stored.state}{ended}{by}{error} {told}"]
    tail = [line for line in stored.traceback.splitlines() if line.strip()][-LAST_LINES:]
    return found + [f"  | {line}" for line in tail]


def _name(seen: Iterable[SeenTask], result: Reading[StoredResult] | None) -> str | None:
    told = next((one.task for one in seen if one.task is not None), None)
    return told if told is not None or result is None else result.value.task


def _task_json(trace: Trace, id_: str) -> Json:
    seen, result = trace.seen.of(id_), trace.seen.results.get(id_)
    told = trace.revoked.by_worker
    return {
        "id": id_,
        "task": _name(seen, result),
        "places": None
        if not seen and trace.notes
        else [_place_json(one, trace.at) for one in seen],
        "revoked": {
            name: id_ in told[name] if name in told else None for name in sorted(trace.workers)
        },
        "result": None if result is None else _result_json(result, trace.at),
        "results_read": trace.reads_results,
    }


def _place_json(one: SeenTask, now: datetime) -> Json:
    return {
        "place": one.place.value,
        "worker": one.worker,
        "queue": one.queue,
        "since": moment(one.since),
        "eta": moment(one.eta),
        "ahead": one.ahead,
        "retries": one.retries,
        "origin": one.origin,
        "arguments": one.arguments,
        "age": _age(one.at, now),
    }


def _result_json(result: Reading[StoredResult], now: datetime) -> Json:
    stored = result.value
    return {
        "state": stored.state or None,
        "worker": stored.worker,
        "retries": stored.retries,
        "ended_at": moment(stored.ended_at),
        "error": masked(stored.error) or None,
        "traceback": masked(stored.traceback) or None,
        "unreadable": stored.unreadable or None,
        "age": _age(result.at, now),
    }


def _age(at: datetime, now: datetime) -> float:
    return round(max(0.0, (now - at).total_seconds()), 3)
