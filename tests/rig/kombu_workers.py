"""Real Celery workers on a broker that needs no server: files in a folder, or a database.

Their one task, `rig.hold`, does not end before `release` is called.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import textwrap
from typing import TYPE_CHECKING, Any

from celery import Celery

from tests.rig.workers import Worker, worker_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

POLLING = 0.1
"""Seconds: so often workers on files look for messages."""

_APPLICATION = textwrap.dedent(
    """
    import json, os, pathlib, time
    from celery import Celery

    app = Celery("rig")
    app.conf.update(json.loads(os.environ["RIG_SETTINGS"]))

    @app.task(name="rig.hold")
    def hold():
        while not pathlib.Path("released").exists():
            time.sleep(0.05)
    """
)


class KombuFleet:
    """Workers on one such broker. `options` are its transport options."""

    def __init__(self, folder: Path, url: str, options: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rigapp.py").write_text(_APPLICATION)
        self.folder = folder
        self.url = url
        self.options = dict(options)
        self._conf = {
            "broker_url": url,
            "broker_transport_options": self.options,
            "task_ignore_result": True,
            "worker_prefetch_multiplier": 1,
        }
        self._app = Celery("rig-client", set_as_current=False)
        self._app.conf.update(self._conf)
        self.workers: list[Worker] = []

    def environment(self) -> dict[str, str]:
        """What a worker of this fleet has to find in its environment."""
        return {"RIG_SETTINGS": json.dumps(self._conf)}

    def start(self, *names: str, queues: Sequence[str] = ("celery",)) -> list[Worker]:
        """Start a worker for each node name, all at once, and return when all are ready."""
        started = [self._start(name, queues) for name in names]
        for worker in started:
            worker.wait_until_ready()
        self.workers += started
        return started

    def send(self, queue: str, count: int = 1) -> list[str]:
        """Send so many tasks that hold; returns their ids."""
        return [str(self._app.send_task("rig.hold", queue=queue).id) for _ in range(count)]

    def release(self) -> None:
        (self.folder / "released").touch()

    def stop(self) -> None:
        """At once: nobody needs what they hold."""
        for worker in self.workers:
            worker.kill()
        self._app.close()

    def _start(self, name: str, queues: Sequence[str]) -> Worker:
        log = self.folder / f"{name}.log"
        chosen = ("--queues", ",".join(queues), "--pool", "threads", "--concurrency", "1")
        with log.open("wb") as out:
            process = subprocess.Popen(
                worker_command(name, *chosen),
                cwd=self.folder,
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        return Worker(name, process, log)


def on_files(folder: Path) -> KombuFleet:
    """A fleet, without workers yet, whose messages are files in `folder/messages`."""
    data, control = folder / "messages", folder / "control"
    for one in (data, control):
        one.mkdir(parents=True)
    options = {
        "data_folder_in": str(data),
        "data_folder_out": str(data),
        "control_folder": str(control),
        "polling_interval": POLLING,
    }
    return KombuFleet(folder, "filesystem://", options)


@contextlib.contextmanager
def channel(fleet: KombuFleet) -> Iterator[Any]:
    """One of kombu's channels, as any tool would use it."""
    kombu: Any = importlib.import_module("kombu")
    with kombu.Connection(fleet.url, transport_options=fleet.options) as connection:
        yield connection.channel()


def contents(*folders: Path) -> dict[Path, bytes]:
    """Every file in them with what is in it."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}
