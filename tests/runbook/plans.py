"""Plans for tests that need one and do not care which."""

from __future__ import annotations

from datetime import UTC, datetime

from celery_ops.model import ConsumedQueue, Incarnation, ServiceRef, WorkerState
from celery_ops.runbook.plan import Plan, PlannedBatch, PlannedStep, PlannedWorker, Where

AT = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
SERVICE = ServiceRef("web1", "supervisord", "worker1", worker="worker1@web1")


def a_plan(run: str = "20261120-030000-abcd") -> Plan:
    """A rolling restart of one worker."""
    worker = PlannedWorker(
        name="worker1@web1",
        state=WorkerState.ONLINE,
        incarnation=Incarnation("worker1@web1", 4711, AT),
        queues=(ConsumedQueue("mail", '{"name": "mail"}'),),
        service=SERVICE,
        identity="1:4711",
        active=2,
        reserved=0,
        scheduled=1,
        longest=3.5,
        stop_grace=600.0,
    )
    where = Where(
        context="production",
        broker="redis://:***@broker:6379/0",
        identity="redis broker:6379/0",
        protected=True,
        scope=("*",),
        services=(SERVICE,),
    )
    return Plan(
        run=run,
        runbook="rolling-restart",
        file="runbooks/rolling-restart.yaml",
        source="name: rolling-restart\n",
        risk="medium",
        summary="Restart workers a few at a time.",
        params={"batch": "25%"},
        allow_gap=(),
        where=where,
        operator="ann@desk",
        at=AT,
        targets=(worker,),
        healthy={"mail": 2},
        steps=(
            PlannedStep("2", "roll", ("worker1@web1",), (PlannedBatch(1, ("worker1@web1",), ()),)),
        ),
        confirmations=(),
    )
