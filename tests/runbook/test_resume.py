"""Runs that are killed at every line of their journal, and gone on with: they end as the others.

On the stand-in fleet, under a virtual clock. `after`: right after a line was written, so before the
effect it speaks of; `before`: right before it is written, so after the effect of the one before.

Effects take place between an intent and its result only: between other lines nothing is done, and a
death after one is the death before the next. So runs die after each line that begins something and
before each that ends something; with `--every-death` after and before every line:

    python -m pytest -n 2 --every-death tests/runbook/test_resume.py tests/runbook/test_abort.py
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.config.contexts import Probe
from celery_ops.ports import Command, Completed
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.journal import Journal, has_ended
from tests.runbook.operation import Operation, Ran
from tests.standin.broker import StandinResults
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from celery_ops.ports import Clock
    from celery_ops.runbook.journal import Event


class Killed(BaseException):
    """kill -9: nobody catches it."""


class MortalJournal(Journal):
    """Its process dies at the line of that number."""

    def __init__(self, path: Path, clock: Clock, line: int, when: str) -> None:
        super().__init__(path, clock)
        self._line = line
        self._when = when
        self.dead = asyncio.Event()

    def append(self, event: EventKind, **said: Any) -> Event:
        self._perhaps_die("before")
        written = super().append(event, **said)
        self._perhaps_die("after")
        return written

    def _perhaps_die(self, when: str) -> None:
        at = self._seq + (when == "before")
        if self.dead.is_set() or (when == self._when and at == self._line):
            self.dead.set()
            raise Killed


async def killed(operation: Operation, path: Path, line: int, when: str) -> bool:
    """Execute a run until it dies there; False: it ended before."""
    return await died(operation, path, lambda path, clock: MortalJournal(path, clock, line, when))


async def died(
    operation: Operation,
    path: Path,
    opened: Callable[[Path, Clock], MortalJournal],
    *,
    undo: bool = False,
) -> bool:
    """Execute a run until the journal that was opened lets it die; False: it ended before."""
    asyncio.get_running_loop().set_exception_handler(_leave_the_killed)
    executor, held = operation.begin(path, opened, undo=undo)
    before = asyncio.all_tasks()
    running = asyncio.ensure_future(executor.execute())
    dying = asyncio.ensure_future(held.dead.wait())
    await asyncio.wait([running, dying], return_when=asyncio.FIRST_COMPLETED)
    started = [one for one in asyncio.all_tasks() - before if not operation.clock.drives(one)]
    for task in started:
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)
    with suppress(Killed, asyncio.CancelledError, Exception):
        running.result()
    held.close()
    return held.dead.is_set()


def _leave_the_killed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A task that died is asked by nobody what it died of, and that is not to be complained of."""
    if not isinstance(context.get("exception"), Killed):
        loop.default_exception_handler(context)


@dataclass(frozen=True)
class Came:
    """What a run left: what must be the same however often its executor died."""

    state: RunState | None
    ending: str | None
    incarnations: dict[str, int]
    """Not of those that die at their start: from what is down it cannot be seen whether it was
    tried, so that it may be tried once more.
    """
    taken: tuple[str, ...]
    consuming: dict[str, tuple[str, ...]]
    processes: tuple[int | None, ...]
    lost: int
    twice: int


async def came_of(operation: Operation, ran: Ran) -> Came:
    fleet = operation.fleet
    await operation.clock.sleep(5)
    fleet.settle()
    for one in operation.beside:
        one.cancel()  # or its clock would go on beside that of the next fleet
    await asyncio.gather(*operation.beside, return_exceptions=True)
    return Came(
        state=ran.end.state,
        ending=ran.end.ending,
        incarnations={
            one.name: one.service.starts
            for one in fleet.workers
            if one.service and not one.faults.dies_at_start and one.name not in fleet.looped
        }
        | {str(ref): one.starts for ref, one in fleet.services.items() if ref.beat},
        taken=tuple(sorted(one.key for one in await operation.broker.taken())),
        consuming={one.name: tuple(sorted(one.consuming)) for one in fleet.workers},
        processes=tuple(one.processes for one in fleet.workers),
        lost=len(fleet.lost),
        twice=len(fleet.ledger.twice),
    )


WITH_OTHER_STEPS = """
name: others
summary: Steps of every kind.
risk: medium
steps:
  - check: fleet.workers == 3
  - roll: "*"
    batch: 2
    canary: 1
    keep_available: 1
    settle: 1s
    steps:
      - check: worker.supervised
      - drain: worker
        timeout: 1m
      - wait: it is empty
        until: worker.active == 0
        timeout: 1m
      - stop: worker
        timeout: 1m
      - start: worker
        timeout: 1m
        when: fleet.workers == 3
      - restart: worker
        timeout: 1m
        when: fleet.workers == 4
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 1m
  - wait: until all are there
    until: fleet.online == 3
    timeout: 1m
finally:
  - check: fleet.left_drained == 0
"""


def three_workers(operation: Operation) -> None:
    fleet = operation.fleet
    for number in (1, 2, 3):
        fleet.add_worker(f"w{number}@web1", queues=("default", "mail"))
    for number in range(24):
        fleet.send("default" if number % 2 else "mail", 2.0)


def deploys_at_the_third_attempt(operation: Operation) -> None:
    three_workers(operation)
    times = 0

    def deploy(command: Command) -> Completed:
        nonlocal times
        if command.argv[1:] == ("--back",):
            return Completed(0, b"", b"", 0.1)
        times += 1
        assert times <= 3, "it was done, and is done again"
        return Completed(int(times < 3), b"", b"busy", 0.0)

    operation.hosts.programs["deploy"] = deploy


def one_dies_at_its_start(operation: Operation) -> None:
    three_workers(operation)
    operation.fleet.workers[1].faults.dies_at_start = True


def one_never_drains(operation: Operation) -> None:
    operation.fleet.add_worker("w0@web1", queues=("default", "mail"))
    operation.fleet.send("default", 7200.0)
    three_workers(operation)


def one_is_free_later(operation: Operation) -> None:
    operation.fleet.add_worker("w0@web1", queues=("default", "mail"))
    operation.fleet.send("default", 32.0)
    three_workers(operation)


def one_falls_silent(operation: Operation) -> None:
    """Soon after the plan was made, and until the end."""
    one_never_drains(operation)

    async def fall_silent() -> None:
        await operation.clock.sleep(1)
        operation.fleet.worker("w0@web1").faults.hangs = True

    operation.beside.append(asyncio.ensure_future(fall_silent()))


def one_is_killed_at_its_stop(operation: Operation) -> None:
    three_workers(operation)
    operation.fleet.workers[1].faults.killed_at_stop = True


@dataclass(frozen=True)
class Case:
    """A fleet, and what is run on it."""

    prepare: Callable[[Operation], None]
    runbook: str
    params: dict[str, str]
    asks: bool = False
    """Some deaths cannot be settled by observing: then it is asked, and nobody is there."""
    first: str = ""
    """A runbook for the same workers that is run before."""


PATIENT = """
name: patient
summary: What is busy comes later, what is silent stays out.
risk: medium
steps:
  - roll: "*"
    batch: 2
    canary: 0
    keep_available: 1
    settle: 1s
    offline: skip
    steps:
      - drain: worker
        timeout: 15s
        on_timeout: defer
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 1m
"""
ONCE = """
name: once
summary: A command once a host.
risk: medium
steps:
  - roll: "*"
    batch: 1
    canary: 0
    keep_available: 1
    max_failed: 3
    settle: 1s
    steps:
      - run: [deploy]
        once_per: host
        undo: [deploy, --back]
        retries: 2
      - control: rate_limit
        args: {rate_limit: 1/m}
      - check: worker.online
        retries: 1
    verify:
      that: [worker.online]
      hold: 0s
      timeout: 1m
"""
SCALED = """
name: scaled
summary: Pools of another size.
risk: medium
steps:
  - scale: "*"
    by: 1
    timeout: 30s
  - scale: w1@web1
    to: 1
    timeout: 1m
"""


def three_workers_and_beat(operation: Operation) -> None:
    three_workers(operation)
    operation.fleet.add_beat()


AROUND = """
name: around
summary: Something without a scheduler.
risk: medium
steps:
  - stop: beat
  - check: fleet.workers == 3
  - start: beat
  - restart: beat
"""
PROBED = """
name: probed
summary: Queues are proved, alone and in a roll.
risk: low
steps:
  - probe: [default, mail]
  - roll: w1@web1, w2@web1
    batch: 1
    canary: 0
    keep_available: 1
    settle: 0s
    steps:
      - restart: worker
      - probe: configured
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 1m
"""


def three_workers_and_results(operation: Operation) -> None:
    three_workers(operation)
    operation.fleet.tasks["app.ping"] = (0.2, "")
    operation.results = StandinResults(operation.fleet)
    operation.probe = Probe("app.ping", ("default", "mail"), 60.0)
    for worker in operation.fleet.workers:
        worker.registered = ("app.work", "app.ping")


KEPT = """
name: kept
summary: A queue is paused while something is done without it.
risk: medium
steps:
  - pause: mail
  - restart: w3@web1
    timeout: 1m
  - resume: queue
    queue: mail
  - drain: queue
    queue: mail
    timeout: 5m
"""


def three_workers_and_one_that_joins(operation: Operation) -> None:
    """It is there soon after the beginning, and consumes what is paused."""
    three_workers(operation)

    async def join() -> None:
        await operation.clock.sleep(3)
        operation.fleet.add_worker("w4@web1", queues=("mail",))

    operation.beside.append(asyncio.ensure_future(join()))


def a_bad_release(operation: Operation) -> None:
    """One worker dies at each start, one never ends what it runs, one is well; with beat."""
    fleet = operation.fleet
    for number in (1, 2, 3):
        worker = fleet.add_worker(f"w{number}@web{number}", host=f"web{number}")
        assert worker.service is not None
        worker.service.stop_grace = 20.0
    fleet.send("default", 7200.0, task="app.stuck")
    operation.hosts.layout = StandinReleases(fleet, ("web1", "web2", "web3"), "v1", "v2")
    fleet.add_beat()
    fleet.worker("w3@web3").faults.crash_loops = True
    fleet.kill(fleet.worker("w3@web3"))

    async def load() -> None:
        while True:
            await operation.clock.sleep(1)
            fleet.send("default", 0.2)

    operation.beside.append(asyncio.ensure_future(load()))


BACK = {"release": "v1", "drain_timeout": "5s", "watch": "3s", "batch": "2", "allow_gap": "default"}


WRITTEN = {
    "others": WITH_OTHER_STEPS,
    "patient": PATIENT,
    "once": ONCE,
    "around": AROUND,
    "scaled": SCALED,
    "probed": PROBED,
    "kept": KEPT,
}
W1 = {"workers": "w1@web1"}
MAIL = {"queue": "mail"}
CASES = {
    "pause-queue": Case(three_workers, "pause-queue", MAIL),
    "resume-queue": Case(three_workers, "resume-queue", MAIL, first="pause-queue"),
    "drain-queue": Case(three_workers_and_beat, "drain-queue", {**MAIL, "stop_beat": "yes"}),
    "kept-paused": Case(three_workers, "kept", {"allow_gap": "mail"}),
    "joins-a-pause": Case(three_workers_and_one_that_joins, "kept", {"allow_gap": "mail"}),
    "rolling-restart": Case(
        three_workers, "rolling-restart", {"hold": "2s", "batch": "2", "keep_available": "1"}
    ),
    "drain": Case(three_workers, "drain-worker", W1),
    "resume": Case(three_workers, "resume-worker", W1, first="drain-worker"),
    "stop": Case(three_workers, "stop-worker", W1),
    "start": Case(three_workers, "start-worker", W1, first="stop-worker"),
    "every-step": Case(three_workers, "others", {}),
    "does-not-come-back": Case(one_dies_at_its_start, "rolling-restart", {"hold": "2s"}),
    "does-not-drain": Case(
        one_never_drains, "rolling-restart", {"hold": "2s", "drain_timeout": "20s"}
    ),
    "rollback": Case(a_bad_release, "rollback", BACK),
    "rollback-rolling": Case(a_bad_release, "rollback", {**BACK, "strategy": "rolling"}),
    "put-off": Case(one_is_free_later, "patient", {}),
    "put-off-for-good": Case(one_never_drains, "patient", {}),
    "once-a-host": Case(deploys_at_the_third_attempt, "once", {}, asks=True),
    "scale": Case(three_workers, "scaled", {}),
    "beat": Case(three_workers_and_beat, "around", {}),
    "stop-beat": Case(three_workers_and_beat, "stop-beat", {}),
    "probe": Case(three_workers_and_results, "probed", {}),
    "left-out": Case(one_falls_silent, "patient", {}),
    "killed-at-its-stop": Case(one_is_killed_at_its_stop, "rolling-restart", {"hold": "2s"}),
}


async def begin(directory: Path, case: Case) -> tuple[Operation, Path]:
    """The fleet, and a run on it that is planned."""
    operation = Operation(directory)
    case.prepare(operation)
    if case.runbook in WRITTEN:
        operation.write_runbook(case.runbook, WRITTEN[case.runbook])
    if case.first:
        await operation.run(case.first, **(MAIL if "queue" in case.first else W1))
    return operation, operation.write_down(await operation.plan(case.runbook, **case.params))


def lines_of(events: Sequence[Event], when: str, *, every: bool) -> list[int]:
    """The lines of a journal after which something begins, or before which something ends; or
    `every` one.
    """
    begun = {(one.step, one.target) for one in events if one.event is EventKind.INTENT}
    return [
        event.seq
        for before, event in zip([None, *events], events, strict=False)
        if every
        or event.event is EventKind.ENDED
        or (ends(event, begun) if when == "before" else begins(event, before))
    ]


def ends(event: Event, begun: set[tuple[str | None, str | None]]) -> bool:
    """A result without an intent tells only what was seen."""
    if event.event is EventKind.RESULT:
        return (event.step, event.target) in begun
    return event.event in {EventKind.LEASED, EventKind.ANSWERED}


def begins(event: Event, before: Event | None) -> bool:
    """Lines of progress in a row are one wait, which begins with the first."""
    if event.event is EventKind.PROGRESS:
        return before is None or before.event is not EventKind.PROGRESS
    return event.event is not EventKind.RESULT


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_run_that_dies_anywhere_ends_as_if_it_had_not(
    tmp_path: Path, case: Case, when: str, pytestconfig: pytest.Config
) -> None:
    undisturbed, path = await begin(tmp_path / "undisturbed", case)
    ran = await undisturbed.take_up(path)
    expected = await came_of(undisturbed, ran)
    _, *events = ran.events
    every = bool(pytestconfig.getoption("every_death"))
    for line in lines_of(events, when, every=every):
        operation, path = await begin(tmp_path / f"dies-{line}", case)
        assert await killed(operation, path, line, when), f"did not get to line {line}"
        if has_ended(list(journal.read(path))):
            assert line == events[-1].seq
            break
        resumed = await operation.take_up(path)
        if case.asks and resumed.ending is Ending.UNCONFIRMED:
            continue
        came = await came_of(operation, resumed)
        assert came == expected, f"died {when} line {line}: {came}\n{resumed.told()}"


async def test_what_was_seen_to_have_happened_is_not_sent_again(tmp_path: Path) -> None:
    intent = 2
    while await _dies_with(tmp_path, intent) is not EventKind.INTENT:
        intent += 1
    operation, path = await begin(tmp_path / "dies", CASES["drain"])
    assert await killed(operation, path, intent + 1, "before")
    sent = len(operation.broker.orders)
    ran = await operation.take_up(path)
    assert ran.end.state is RunState.SUCCEEDED, ran.told()
    assert sent == len(operation.broker.orders) > 0


async def _dies_with(directory: Path, line: int) -> EventKind:
    operation, path = await begin(directory / f"probe-{line}", CASES["drain"])
    await killed(operation, path, line, "after")
    return list(journal.read(path))[-1].event
