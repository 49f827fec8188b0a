"""Real Celery workers as subprocesses, and numbered tasks that are counted.

The application is a module that this rig writes. Its task `rig.work(number, seconds)` counts its
start and its end in a Redis database that is not the broker's, so that nothing done to the broker
can lose the count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from celery import Celery
from redis import Redis

from tests.rig import end, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_APPLICATION = textwrap.dedent(
    """
    import json, os, time
    from celery import Celery
    from redis import Redis

    settings = json.loads(os.environ["RIG_SETTINGS"])
    app = Celery("rig", broker=settings["broker"])
    app.conf.update(settings["conf"])
    counts = Redis.from_url(settings["counts"], protocol=2)

    @app.task(name="rig.work", bind=True)
    def work(self, number, seconds=0.0):
        counts.hincrby("start", number, 1)
        time.sleep(seconds)
        counts.hincrby("end", number, 1)

    @app.task(name="rig.work_late", bind=True, acks_late=True)
    def work_late(self, number, seconds=0.0):
        counts.hincrby("start", number, 1)
        time.sleep(seconds)
        counts.hincrby("end", number, 1)

    @app.task(name="rig.limited", rate_limit="1/h")
    def limited(number):
        counts.hincrby("end", number, 1)
    """
)


class Worker:
    """One `celery worker` process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, what=f"worker {self.name}")

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, without a word to anybody; the pool's children end by themselves."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        end(self.process, patience=30.0)

    def _is_ready(self) -> bool:
        text = self.log.read_text(errors="replace")
        if self.process.poll() is not None:
            raise RuntimeError(f"worker {self.name} ended:\n{text[-2000:]}")
        return " ready." in text


class Fleet:
    """Workers on one broker. `conf` are settings of Celery's, for all of them.

    `broker` and `counts` are URLs; `counts` names the database where tasks are counted.
    """

    def __init__(
        self,
        directory: Path,
        broker: str,
        counts: str,
        conf: Mapping[str, object] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "rigapp.py").write_text(_APPLICATION)
        self._directory = directory
        self._settings = {"broker": broker, "counts": counts, "conf": dict(conf or {})}
        self._counts = Redis.from_url(counts, protocol=2)
        self._app = Celery("rig-client", broker=broker, set_as_current=False)
        self._app.conf.update(self._settings["conf"])
        self.workers: list[Worker] = []

    def start(
        self,
        *names: str,
        queues: Sequence[str] = ("celery",),
        pool: str = "threads",
        concurrency: int = 1,
        arguments: Sequence[str] = (),
    ) -> list[Worker]:
        """Start a worker for each node name, all at once, and return when all are ready."""
        started = [
            self._start(
                name,
                [
                    *("--queues", ",".join(queues), "--pool", pool),
                    *("--concurrency", str(concurrency), *arguments),
                ],
            )
            for name in names
        ]
        for worker in started:
            worker.wait_until_ready()
        return started

    def send(self, number: int, seconds: float = 0.0, *, task: str = "rig.work", **how: Any) -> str:
        """Send a numbered task; `how` is what `apply_async` takes. Returns the task's id."""
        arguments = [number] if task == "rig.limited" else [number, seconds]
        return str(self._app.send_task(task, args=arguments, **how).id)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `celery -b BROKER …`, as an operator without the application would."""
        return subprocess.run(
            [sys.executable, "-m", "celery", "-b", str(self._settings["broker"]), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def starts(self) -> dict[int, int]:
        return self._count("start")

    def ends(self) -> dict[int, int]:
        return self._count("end")

    def stop(self) -> None:
        """Stop all workers: those that were frozen or killed too."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.stop()
        self._counts.close()
        self._app.close()

    def _start(self, name: str, arguments: Sequence[str]) -> Worker:
        log = self._directory / f"{len(self.workers)}-{name.replace('/', '_')}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "rigapp", "worker"),
                    *("-n", name, "--loglevel", "INFO", *arguments),
                ],
                cwd=self._directory,
                env=os.environ | {"RIG_SETTINGS": json.dumps(self._settings)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        worker = Worker(name, process, log)
        self.workers.append(worker)
        return worker

    def _count(self, which: str) -> dict[int, int]:
        counted: Any = self._counts.hgetall(which)
        return {int(number): int(count) for number, count in counted.items()}
