"""`celery-ops status` beside `celery status`: `python -m tests.benchmarks.status`.

Both from a cold start, on the same three real workers, in turns, with the wall time of the whole
process. `celery status` waits its timeout of a second out. To reach: 0.35 of its time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet

WORKERS = 3
TO_REACH = 0.35


def wall_time(*module_and_arguments: str) -> float:
    """Seconds of one cold start; raise if it failed or missed a worker."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CELERY", "BROKER_URL"))
    }
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *module_and_arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    took = time.perf_counter() - began
    missing = [n for n in range(WORKERS) if f"worker{n}@bench" not in done.stdout]
    if missing:
        raise RuntimeError(f"{module_and_arguments[0]} did not see all workers:\n{done.stdout}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory) / "redis")
        fleet = Fleet(Path(directory) / "fleet", server.url(0), server.url(1))
        try:
            fleet.start(*(f"worker{number}@bench" for number in range(WORKERS)))
            for _ in range(rounds):
                ours.append(wall_time("celery_ops", "-b", server.url(), "status"))
                theirs.append(wall_time("celery", "-b", server.url(), "status"))
        finally:
            fleet.stop()
            server.stop()
    ratio = median(ours) / median(theirs)
    sys.stdout.write(
        f"celery-ops status  {median(ours):.3f} s  (best {min(ours):.3f}, worst {max(ours):.3f})\n"
        f"celery status      {median(theirs):.3f} s"
        f"  (best {min(theirs):.3f}, worst {max(theirs):.3f})\n"
        f"ratio of medians   {ratio:.3f}  (to reach: {TO_REACH}; {rounds} rounds each, in turns)\n"
    )


if __name__ == "__main__":
    main()
