"""Journals of this version, kept to be read by every later one: `python -m tests.runbook.golden`.

Each is what the engine itself wrote on the stand-in fleet. They are made once for a version of the
format and never again: that a newer one still reads them is the point. `old` is of the format
before intents told their verb and the worker as it was met.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from celery_ops.runbook.events import EventKind
from celery_ops.runbook.inbox import Message, Word, following, send
from celery_ops.runbook.journal import read
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed
from tests.standin.fleet import Message as Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_ops.runbook.journal import Event

DIRECTORY = Path(__file__).parent / "golden"
ASKING = """
name: asking
summary: A restart that asks before, and when it fails.
risk: medium
steps:
  - confirm: "Restart them?"
  - roll: "*"
    batch: 1
    keep_available: 0
    on_fail: ask
    steps:
      - drain: worker
        timeout: 5s
      - run: ["switch", "worker"]
        takes: worker
        undo: ["switch", "back"]
        timeout: 5s
      - restart: worker
        timeout: 30s
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 30s
"""
FAST = {"hold": "1s"}
W1 = {"workers": "w1@web1"}


@dataclass(frozen=True)
class Golden:
    """How one came about: the fleet's fault, the runbook, and what was said to the run and when."""

    runbook: str
    params: dict[str, str]
    prepare: Callable[[Operation], None] = lambda _: None
    abort_at: int = 0
    dies_before: str = ""
    """The verb whose intent was written last."""
    resumes: bool = False
    undo: bool = False
    answers: tuple[str, ...] = ()


def does_not_consume_again(operation: Operation) -> None:
    faults = operation.fleet.workers[0].faults
    faults.ignores_add = faults.ignores_cancel = True


def dies_at_start(operation: Operation) -> None:
    operation.fleet.workers[0].faults.dies_at_start = True


def orphans(operation: Operation) -> None:
    message = Task("left-0", "app.work", "mail", 1.0, delivered=operation.clock.now())
    operation.fleet.stuck.append((message, 0.0))
    operation.clock.suspend(20)


CASES = {
    "rolling-restart": Golden("rolling-restart", FAST),
    "drain": Golden("drain-worker", W1),
    "needs-human": Golden("rolling-restart", FAST, dies_at_start),
    "aborted": Golden("rolling-restart", FAST, abort_at=9),
    "interrupted": Golden("rolling-restart", FAST, dies_before="start"),
    "resumed": Golden("rolling-restart", FAST, dies_before="start", resumes=True),
    "undone": Golden("stop-worker", W1, undo=True),
    "restore-orphans": Golden("restore-orphans", {}, orphans),
    "asked": Golden("asking", {}, does_not_consume_again, answers=("yes", "undo")),
}


async def made(directory: Path, case: Golden) -> tuple[Operation, Path]:
    """The journal, and the fleet as the run left it."""
    operation, path = await begun(directory, case)
    line = 1
    while case.dies_before:
        line += 1
        operation, path = await begun(directory / str(line), case)
        if not await killed(operation, path, line, "after"):
            raise RuntimeError(f"it never came to {case.dies_before}")
        if list(read(path))[-1].verb == case.dies_before:
            break
    if case.dies_before and not case.resumes:
        return operation, path
    with _heard(operation, path, case) as then:
        await operation.take_up(path, then=then)
        if case.undo:
            await operation.take_up(path, undo=True)
    return operation, path


async def begun(directory: Path, case: Golden) -> tuple[Operation, Path]:
    """The fleet, and a run on it that is planned."""
    operation = Operation(directory)
    for number in (1, 2):
        operation.fleet.add_worker(f"w{number}@web1", queues=("mail",))
    case.prepare(operation)
    operation.write_runbook("asking", ASKING)
    plan = await operation.plan(case.runbook, **case.params)
    return operation, operation.write_down(plan, agreed=not case.answers)


@contextmanager
def _heard(operation: Operation, path: Path, case: Golden) -> Iterator[Callable[[Event], None]]:
    """Says to the run what the case wants said."""
    inbox = path.with_suffix(".inbox")
    answers = list(case.answers)

    def then(event: Event) -> None:
        if answers and event.event is EventKind.ASKED:
            send(inbox, Message(Word.ANSWER, operation.operator, event.step, answers.pop(0)))
        if event.seq == case.abort_at:
            send(inbox, Message(Word.ABORT, operation.operator))

    with following(inbox) if answers else nullcontext():
        yield then


def as_before(journal: str) -> str:
    """The same journal in the older format."""
    lines = []
    for line in journal.splitlines():
        event = json.loads(line)
        for key in ("verb", "worker", "clock", "version"):
            event.pop(key, None)
        for target in event.get("plan", {}).get("targets", ()):
            target.pop("debtors", None)
            target["owed_by"] = None
        lines.append(json.dumps(event))
    return "\n".join(lines) + "\n"


def main() -> None:
    wanted = sys.argv[1:] or list(CASES)
    DIRECTORY.mkdir(exist_ok=True)
    for name in wanted:
        with TemporaryDirectory() as directory:
            _, path = asyncio.run(made(Path(directory), CASES[name]))
            # Where this was made is nobody's business.
            written = re.sub(r'("file":")[^"]*(/runbooks/)', r"\1\2", path.read_text())
            written = written.replace('"file":"/runbooks/', '"file":"runbooks/')
        (DIRECTORY / f"{name}.jsonl").write_text(written)
        if name == "interrupted":
            (DIRECTORY / "old.jsonl").write_text(as_before(written))


if __name__ == "__main__":
    main()
