"""Tasks that have failed are sent again on the stand-in fleet: planned, refused, resumed, counted."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import UsageError
from celery_ops.runbook.events import Ending
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed
from tests.standin.broker import StandinResults

if TYPE_CHECKING:
    from pathlib import Path

RETRY = "retry-tasks"
FAILS = "app.fails"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return with_results(tmp_path)


def with_results(directory: Path) -> Operation:
    """Two workers, and a result backend that is extended."""
    made = Operation(directory)
    made.fleet.add_worker("a@web1", concurrency=1)
    made.fleet.add_worker("b@web1", queues=("mail",), concurrency=1)
    made.results = StandinResults(made.fleet, extended=True)
    return made


async def failed(
    operation: Operation, count: int = 1, queue: str = "default", error: str = "Timeout()"
) -> list[str]:
    """Tasks that fail there, one after the other; their next run succeeds."""
    ids = []
    for _ in range(count):
        message = operation.fleet.send(queue, 0.1, task=FAILS)
        message.fails = error
        ids.append(message.id)
        await operation.clock.sleep(1.0)
    operation.fleet.settle()
    assert all(operation.fleet.results[one].error == error for one in ids)
    return ids


async def refused(operation: Operation, **given: str) -> str:
    """Nothing is sent, and why."""
    plan = await operation.plan(RETRY, **given)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert ran.effects == []
    return "; ".join(plan.refusals)


async def settled(operation: Operation) -> None:
    await operation.clock.sleep(60.0)
    operation.fleet.settle()


async def test_what_has_failed_is_sent_again_once_and_told_before(operation: Operation) -> None:
    first, second = await failed(operation), await failed(operation, 2, "mail")
    plan = await operation.plan(RETRY, ids=",".join([*first, *second]))
    assert plan.refusals == ()
    assert [(one.id, one.queue) for one in plan.tasks] == [
        (first[0], "default"), (second[0], "mail"), (second[1], "mail")
    ]  # fmt: skip
    assert plan.confirmations[0].question.startswith("Send 3 tasks again?")
    does = {action.target: action.does for step in plan.steps for action in step.actions}
    assert does["mail"].startswith(f"send 2 tasks (2 {FAILS}): {', '.join(second)}, behind those")
    assert any("each is sent alone" in says for says in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "1 task sent to default; 2 tasks sent to mail"
    await settled(operation)
    assert {operation.fleet.ledger.started[one] for one in (*first, *second)} == {2}
    assert {operation.fleet.results[one].error for one in (*first, *second)} == {""}


async def test_what_it_is_called_with_is_in_no_plan_and_no_journal(operation: Operation) -> None:
    (id_,) = await failed(operation)
    path = operation.write_down(await operation.plan(RETRY, ids=id_))
    await operation.take_up(path)
    assert '"kwargs"' not in path.read_text()
    assert '"k"' not in path.read_text()


async def test_it_is_not_sent_twice_before_it_has_ended_again(operation: Operation) -> None:
    (id_,) = await failed(operation)
    worker = operation.fleet.worker("a@web1")
    worker.consuming.clear()
    assert (await operation.run(RETRY, ids=id_)).ending is Ending.DONE
    assert "waiting in default): it would run twice" in await refused(operation, ids=id_)
    operation.fleet.queues["default"].clear()
    says = await refused(operation, ids=id_)
    assert f"{id_}: it was sent again before and has not ended since" in says
    again = await operation.plan(RETRY, ids=id_, again="lost")
    assert any("may run twice" in one for one in again.hazards)
    assert (await operation.execute(again)).ending is Ending.DONE
    assert len(operation.fleet.queues["default"]) == 1
