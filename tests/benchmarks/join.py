"""How long 1,000 workers with ten queues each take to be learned, joined and examined.

Run it with `python -m tests.benchmarks.join`.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from celery_ops.doctor import examine
from celery_ops.fleet.known import Asking
from celery_ops.fleet.memory import Memory
from celery_ops.fleet.states import join
from celery_ops.fleet.verdicts import Known
from celery_ops.model import Reading, Service, ServiceRef, ServiceState, ServiceStatus
from celery_ops.ports import Question, QueueReading, QueuesReading, Reply, Round
from tests.standin.fleet import declaration

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 1000
QUEUES = 10
TASKS = 4
RUNS = 15
AT = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
NAMES = tuple(f"queue{number}" for number in range(QUEUES))


def answer(question: Question, number: int) -> object:
    """What worker `number` says: four tasks run, four wait."""
    task = {
        "id": f"{number}-{question}",
        "name": "app.work",
        "args": "(1, 2)",
        "kwargs": "{}",
        "time_start": AT.timestamp(),
        "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": NAMES[0], "priority": 0},
    }
    match question:
        case Question.STATS:
            return {
                "pid": 1000 + number,
                "uptime": 100,
                "total": {"app.work": 5},
                "pool": {
                    "implementation": "celery.concurrency.prefork:TaskPool",
                    "max-concurrency": TASKS,
                },
            }
        case Question.ACTIVE | Question.RESERVED:
            return [task] * TASKS
        case Question.ACTIVE_QUEUES:
            return [declaration(name) for name in NAMES]
        case Question.SCHEDULED:
            return []
    return {"ok": "pong"}


def full_round(at: datetime) -> Round:
    questions = [one for one in Question if one.is_of_the_fleet and one is not Question.REGISTERED]
    replies: dict[Question, tuple[Reply, ...]] = {
        question: tuple(
            Reply(f"worker{number}@web{number % 50}", at, answer(question, number))
            for number in range(WORKERS)
        )
        for question in questions
    }
    return Round(at, at, replies, WORKERS, complete=True)


def services() -> dict[ServiceRef, Service]:
    found = {}
    for number in range(WORKERS):
        host = f"web{number % 50}"
        ref = ServiceRef(host, "systemd", f"worker{number}", worker=f"worker{number}@{host}")
        status = ServiceStatus(ServiceState.RUNNING, 1000 + number, "x", AT, None, "running")
        found[ref] = Service(ref, Reading(status, AT))
    return found


def milliseconds(work: Callable[[], object]) -> float:
    """Median of some runs."""
    taken = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begun))
    return median(taken)


def main() -> None:
    running = services()
    memory = Memory(("*",), [ref.worker for ref in running if ref.worker is not None])
    round_ = full_round(AT)
    sizes = QueuesReading(AT, tuple(QueueReading(name, 5, 5) for name in NAMES))
    asking = Asking(frozenset(round_.replies), 0.0, 0.1)
    first = time.perf_counter()
    memory.learn(round_, None, asking)
    first = 1000 * (time.perf_counter() - first)
    again = full_round(AT + timedelta(seconds=1))
    learn = milliseconds(lambda: memory.learn(again, None, asking))
    note = milliseconds(lambda: memory.note_queues(sizes, 1.0))
    known = Known("bench", "redis://b", AT, 1.0, memory.nodes, running, queues=sizes)
    joined = milliseconds(lambda: join(known))
    snapshot = join(known)
    examined = milliseconds(lambda: examine(snapshot))
    sys.stdout.write(
        f"{WORKERS} workers x {QUEUES} queues, {2 * TASKS} tasks each (median of {RUNS} runs)\n"
        f"  learn the first round  {first:7.1f} ms\n"
        f"  learn another round    {learn:7.1f} ms\n"
        f"  note queue sizes       {note:7.1f} ms\n"
        f"  join a snapshot        {joined:7.1f} ms   (to reach: 50 ms)\n"
        f"  examine it             {examined:7.1f} ms\n"
    )


if __name__ == "__main__":
    main()
