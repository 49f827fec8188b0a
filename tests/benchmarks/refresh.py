"""How long one refresh of a known fleet of 50 takes: `python -m tests.benchmarks.refresh`.

50 simulated nodes answer stats, active, reserved, scheduled and active_queues from a process of
their own, as large as real workers would; queue sizes are read in the same refresh. To reach: 50 ms
at the median. `--nodes 1000` is the whole picture of a large fleet. Stock `celery inspect`, for
comparison, takes a second for each of the five methods, since it waits for its timeout.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.broker import connect
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from celery_ops.ports import Question
from tests.rig.nodes import Node, SimulatedNodes
from tests.rig.redis import RedisServer

if TYPE_CHECKING:
    from celery_ops.ports import Broker

QUESTIONS = (
    Question.STATS,
    Question.ACTIVE,
    Question.RESERVED,
    Question.SCHEDULED,
    Question.ACTIVE_QUEUES,
)
QUEUES = ("celery", "mail", "reports")


async def refresh(broker: Broker, names: frozenset[str]) -> float:
    """Milliseconds of one refresh; raise if it is not complete."""
    began = time.perf_counter()
    asked, queues = await asyncio.gather(
        broker.ask(QUESTIONS, to=None, timeout=10.0, known=names), broker.queues(QUEUES)
    )
    took = (time.perf_counter() - began) * 1000
    answered = {len(replies) for replies in asked.replies.values()}
    if not asked.complete or answered != {len(names)} or len(queues.queues) != len(QUEUES):
        raise RuntimeError(f"incomplete: {answered} of {len(names)} answered")
    return took


async def measure(url: str, names: frozenset[str], rounds: int) -> list[float]:
    broker = await connect(Secret(url), {}, clock=SystemClock())
    try:
        await refresh(broker, names)  # connects
        return [await refresh(broker, names) for _ in range(rounds)]
    finally:
        await broker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=50)
    chosen = parser.parse_args()
    nodes = [Node(f"worker{number}@sim", queues=QUEUES) for number in range(chosen.nodes)]
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        try:
            simulated = SimulatedNodes(server.url(), nodes)
            try:
                names = frozenset(node.name for node in nodes)
                took = asyncio.run(measure(server.url(), names, chosen.rounds))
            finally:
                simulated.stop()
        finally:
            server.stop()
    print(
        f"refresh of {chosen.nodes} nodes: median {statistics.median(took):.1f} ms,"
        f" best {min(took):.1f}, worst {max(took):.1f} ({chosen.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
