"""Real Celery workers as subprocesses, and numbered tasks that are counted.

The application is a module that this rig writes. Its task `rig.work(number, seconds)` counts its
start and its end in a Redis database that is not the broker's, so that nothing done to the broker
can lose the count; `rig.hold(number)` does not end before it is released, `rig.stubborn` is not
ended by SIGTERM either, and `rig.again(number, times, seconds)` is tried that many times more, each
so many seconds later. `rig.fragile(number)` fails while there is a key `broken` beside the counts.
`rig.ping`, `rig.sick` and `rig.quiet`, whose result is not kept, are for probes. A worker that is
named in its environment (RIG_PROGRAM) has faults: files below `faults` that a test makes and
removes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from typing import TYPE_CHECKING, Any

from amqp.exceptions import NotFound, ResourceLocked
from celery import Celery
from redis import Redis

from tests.rig import end, wait_until
from tests.rig.amqp_nodes import connection
from tests.rig.whereabouts import Whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

_APPLICATION = textwrap.dedent(
    """
    import json, os, pathlib, signal, time
    from celery import Celery
    from celery.worker import control
    from redis import Redis

    def has_fault(name):
        return pathlib.Path("faults", os.environ.get("RIG_PROGRAM", "?") + "." + name).exists()

    if has_fault("dies"):
        raise SystemExit("no such luck")

    cancel = control.cancel_consumer

    @control.control_command(name="cancel_consumer", args=[("queue", str)])
    def cancel_consumer(state, queue, **kwargs):
        if has_fault("stubborn"):
            return {"ok": "no longer consuming from " + queue}
        return cancel(state, queue, **kwargs)

    if has_fault("upside-down") or has_fault("first-only"):
        from kombu.transport.redis import Channel
        begin, key_of = Channel._brpop_start, Channel._q_for_pri
        turn = 9 if has_fault("upside-down") else 0

        def begin_elsewhere(self, *arguments, **keys):
            self._q_for_pri = lambda queue, step: key_of(self, queue, turn and turn - step)
            try:
                return begin(self, *arguments, **keys)
            finally:
                del self._q_for_pri

        Channel._brpop_start = begin_elsewhere

    settings = json.loads(os.environ["RIG_SETTINGS"])
    app = Celery("rig", broker=settings["broker"], backend=settings["counts"])
    app.conf.task_ignore_result = True
    app.conf.update(settings["conf"])
    # A count that is given up because the machine is slow would look like a lost task.
    patient = {"socket_timeout": None, "socket_connect_timeout": None}
    counts = Redis.from_url(settings["counts"], protocol=2, **patient)

    @app.task(name="rig.work", bind=True)
    def work(self, number, seconds=0.0, more=None):
        counts.hincrby("start", number, 1)
        time.sleep(seconds)
        counts.hincrby("end", number, 1)

    @app.task(name="rig.work_late", bind=True, acks_late=True)
    def work_late(self, number, seconds=0.0):
        counts.hincrby("start", number, 1)
        time.sleep(seconds)
        counts.hincrby("end", number, 1)

    @app.task(name="rig.hold")
    def hold(number):
        counts.hincrby("start", number, 1)
        while not counts.sismember("released", number):
            time.sleep(0.05)
        counts.hincrby("end", number, 1)

    @app.task(name="rig.hold_late", acks_late=True)
    def hold_late(number):
        hold(number)

    @app.task(name="rig.again", bind=True, max_retries=None)
    def again(self, number, times, seconds):
        counts.hincrby("start", number, 1)
        if self.request.retries < times:
            raise self.retry(countdown=seconds)
        counts.hincrby("end", number, 1)

    @app.task(name="rig.stubborn")
    def stubborn(number):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        hold(number)

    @app.task(name="rig.ping", ignore_result=False)
    def ping():
        counts.hincrby("pings", "ended", 1)

    @app.task(name="rig.fragile", ignore_result=False)
    def fragile(number, seconds=0.0, more=None):
        counts.hincrby("start", number, 1)
        time.sleep(seconds)
        if counts.exists("broken"):
            raise ConnectionError("no database")
        counts.hset("given", number, repr(more))
        counts.hincrby("end", number, 1)

    @app.task(name="rig.quiet")
    def quiet():
        pass

    @app.task(name="rig.sick", ignore_result=False)
    def sick():
        raise ValueError("no database")

    @app.task(name="rig.limited", rate_limit="1/h")
    def limited(number):
        counts.hincrby("end", number, 1)
    """
)
_WITH_A_NUMBER = frozenset({"rig.limited", "rig.hold", "rig.hold_late", "rig.stubborn"})


def worker_command(name: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    """The argv of a worker; to be run in the fleet's directory with its environment."""
    celery = (python, "-m", "celery", "-A", "rigapp", "worker")
    return (*celery, "-n", name, "--loglevel", "INFO", *arguments)


def beat_command(name: str) -> tuple[str, ...]:
    """The argv of a scheduler that has nothing to send, likewise."""
    celery = (sys.executable, "-m", "celery", "-A", "rigapp", "beat")
    files = (f"--schedule=beat-{name}", f"--pidfile=beat-{name}.pid")
    return (*celery, *files, "--loglevel", "INFO")


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

    `broker` and `counts` are URLs; `counts` names another database of the same server, where tasks
    are counted. `python` is the one that its workers run on. Where a URL does not lead to the
    broker by itself, `server` makes a client of it, and tasks are counted somewhere else.
    """

    def __init__(
        self,
        directory: Path,
        broker: str,
        counts: str,
        conf: Mapping[str, object] | None = None,
        *,
        python: str = sys.executable,
        server: Callable[[], Redis] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "rigapp.py").write_text(_APPLICATION)
        (directory / "faults").mkdir(exist_ok=True)
        self._directory = directory
        self._python = python
        self._broker = broker
        self._settings = {"broker": broker, "counts": counts, "conf": dict(conf or {})}
        self._counts = Redis.from_url(counts, protocol=2)
        self._server = server or (lambda: Redis.from_url(broker, protocol=2))
        self._listened_to = server or (lambda: Redis.from_url(counts, protocol=2))
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
        listening = self._subscribers()
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
        # A worker says that it is ready just before it subscribes: for control, and for gossip.
        if not self._broker.startswith("redis"):
            for name in names:
                wait_until(partial(self._has_mailbox, name), what=f"the mailbox of {name}")
            return started
        each = 1 if "--without-gossip" in arguments else 2
        wait_until(
            lambda: self._subscribers() >= listening + each * len(started), what="subscriptions"
        )
        return started

    def send(self, number: int, seconds: float = 0.0, *, task: str = "rig.work", **how: Any) -> str:
        """Send a numbered task; `how` is what `apply_async` takes. Returns the task's id."""
        arguments = [number] if task in _WITH_A_NUMBER else [number, seconds]
        return str(self._app.send_task(task, args=arguments, **how).id)

    def send_with(self, args: Sequence[Any], *, task: str, **how: Any) -> str:
        """Send a task with just these arguments."""
        return str(self._app.send_task(task, args=args, **how).id)

    def add_consumer(self, node: str, queue: str, **how: Any) -> None:
        """Have a worker consume a queue that its application does not know."""
        self._app.control.add_consumer(queue, destination=[node], reply=True, timeout=5, **how)

    def send_what_json_cannot_tell(self, number: int, *, queue: str) -> None:
        """A task with a set among its arguments: its worker cannot reply what it has reserved.

        For workers that accept YAML.
        """
        self._app.send_task(
            "rig.work", args=[number], kwargs={"more": {1}}, queue=queue, serializer="yaml"
        )

    def release(self, *numbers: int) -> None:
        """Let tasks of `rig.hold` and `rig.hold_late` end."""
        self._counts.sadd("released", *numbers)

    def environment(self) -> dict[str, str]:
        """What a worker of this fleet has to find in its environment."""
        return {"RIG_SETTINGS": json.dumps(self._settings)}

    def break_all(self, *, broken: bool = True) -> None:
        """Have every `rig.fragile` fail from now on, or none."""
        if broken:
            self._counts.set("broken", 1)
        else:
            self._counts.delete("broken")

    def given(self) -> dict[int, str]:
        """What each `rig.fragile` that came to its end was given beside its number."""
        given: Any = self._counts.hgetall("given")
        return {int(number): text.decode() for number, text in given.items()}

    def fault(self, program: str, name: str) -> Path:
        """The file that gives a program a fault while it exists: `dies` (at its next start) or
        `stubborn` (answers `cancel_consumer` with ok, and goes on consuming).
        """
        return self._directory / "faults" / f"{program}.{name}"

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

    def whereabouts(self, queues: Iterable[str]) -> Whereabouts:
        """Where the messages of these queues are now."""
        with self._server() as broker:
            return Whereabouts(broker, queues)

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
                worker_command(name, *arguments, python=self._python),
                cwd=self._directory,
                env=os.environ | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        worker = Worker(name, process, log)
        self.workers.append(worker)
        return worker

    def _has_mailbox(self, name: str) -> bool:
        """Whether a worker on RabbitMQ listens for control messages."""
        with connection(self._broker) as made:
            try:
                made.channel().queue_declare(f"{name}.celery.pidbox", passive=True)
            except NotFound:
                return False
            except ResourceLocked:  # it is the worker's own
                return True
        return True

    def _subscribers(self) -> int:
        with self._listened_to() as server:
            clients: Any = server.client_list()
        return sum(client["psub"] != "0" for client in clients)

    def _count(self, which: str) -> dict[int, int]:
        counted: Any = self._counts.hgetall(which)
        return {int(number): int(count) for number, count in counted.items()}
