"""`control`: it is directed, its reply is on record, and it is never sent blindly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import Control
from celery_ops.runbook.events import Ending, Result
from tests.runbook.operation import Operation, Ran
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import Targets
    from celery_ops.ports import Fence, Order, Reply

RUNBOOK = """
name: limit
summary: Limit a task's rate.
risk: low
params:
  most: {{type: integer, default: 10}}
steps:
  - control: {method}
    on: "{on}"
    args:
      task_name: app.work
      rate_limit: "${{{{ params.most }}}}/m"
      n: ${{{{ params.most }}}}
      x: [1, true]
    timeout: 5s
"""
ROLL = """
name: limit
summary: Limit a task's rate.
risk: low
steps:
  - roll: "*"
    batch: 1
    keep_available: {keep}
    settle: 0s
    on_fail: stop
    steps:
      - control: {method}
        args: {{rate_limit: "${{{{ worker.name }}}}"}}
        takes: worker
    verify:
      that: [worker.online]
      hold: 0s
      timeout: 5s
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1")
    made.fleet.add_worker("w2@web1", queues=("default", "own"))
    return made


async def limited(operation: Operation, method: str = "rate_limit", on: str = "*") -> Ran:
    operation.write_runbook("limit", RUNBOOK.format(method=method, on=on))
    return await operation.run("limit")


async def test_it_goes_to_the_targets_by_name_and_their_replies_are_on_record(
    operation: Operation,
) -> None:
    ran = await limited(operation, on="w2@web1")
    assert ran.ending is Ending.DONE, ran.told()
    (sent,) = operation.broker.orders
    assert sent.to == ("w2@web1",)
    assert sent.order == Control(
        "rate_limit", {"task_name": "app.work", "rate_limit": "10/m", "n": 10, "x": [1, True]}
    )
    assert ran.results("w2@web1") == [
        ("1", Result.DONE, 'it replied: {"ok": "new rate limit set: 10/m"}')
    ]
    plan = await operation.plan("limit")
    assert [one.target for step in plan.steps for one in step.actions] == ["w2@web1"]
    assert any("control rate_limit" in one for one in plan.irreversible)


async def test_an_error_reply_fails_the_step(operation: Operation) -> None:
    ran = await limited(operation, method="no_such_command")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "it replied: KeyError('no_such_command')" in ran.end.says


async def test_no_reply_is_unknown_and_not_done(operation: Operation) -> None:
    operation.fleet.worker("w1@web1").faults.acknowledges_nothing = True
    ran = await limited(operation)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.results("w1@web1")[0][1] is Result.UNKNOWN
    assert ran.results("w2@web1")[0][1] is Result.DONE
    assert "w1@web1: control rate_limit: no reply" in ran.end.says


async def test_a_silent_worker_is_refused_when_it_is_planned(operation: Operation) -> None:
    operation.fleet.worker("w1@web1").faults.hangs = True
    await operation.clock.sleep(30)
    operation.write_runbook("limit", RUNBOOK.format(method="rate_limit", on="*"))
    plan = await operation.plan("limit")
    assert any("cannot be asked to rate_limit" in refusal for refusal in plan.refusals)


async def test_what_takes_a_worker_is_guarded(operation: Operation) -> None:
    operation.write_runbook("limit", ROLL.format(method="cancel_consumer", keep="100%"))
    plan = await operation.plan("limit")
    assert any("queue own would keep 0" in refusal for refusal in plan.refusals)
    operation.write_runbook("limit", ROLL.format(method="rate_limit", keep="0"))
    ran = await operation.run("limit")
    assert ran.ending is Ending.DONE, ran.told()
    assert [(one.to, one.order.arguments) for one in operation.broker.orders] == [
        (("w1@web1",), {"rate_limit": "w1@web1"}),
        (("w2@web1",), {"rate_limit": "w2@web1"}),
    ]


async def test_a_shutdown_is_sent_although_it_never_replies(operation: Operation) -> None:
    operation.write_runbook(
        "limit", ROLL.format(method="shutdown", keep="0").replace("worker.online", "worker.pid > 0")
    )
    ran = await operation.run("limit")
    assert "sent; it never replies" in ran.told()


class RefusesOrders(StandinBroker):
    """It is away whenever a control command is to be sent."""

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        del order, to, fence, timeout
        raise BrokerUnreachable("refused the connection")


async def test_a_shutdown_that_the_broker_did_not_take_is_not_done(tmp_path: Path) -> None:
    fleet = StandinFleet(VirtualClock())
    fleet.add_worker("w1@web1")
    operation = Operation(tmp_path, fleet, RefusesOrders(fleet))
    operation.write_runbook("limit", ROLL.format(method="shutdown", keep="0"))
    ran = await operation.run("limit")
    assert ran.ending is Ending.STOPPED, ran.told()
    says = "it is not known whether it was sent: refused the connection"
    assert ran.results("w1@web1") == [("1.1", Result.UNKNOWN, says)]
