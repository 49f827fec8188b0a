"""Plans what was asked for: reads the fleet as it is, and the queues and tasks that it is about."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import PreconditionFailed
from celery_ops.fleet import schedules
from celery_ops.fleet.tracing import Tracer
from celery_ops.model import Schedule, Targets
from celery_ops.ports import Question
from celery_ops.runbook import (
    holding_plans,
    planner,
    running_ahead,
    sighting,
    switching,
    unknown_tasks,
)
from celery_ops.runbook.hazards import asks
from celery_ops.runbook.loader import loads
from celery_ops.runbook.params import ALLOW_GAP, BUSY_WAIT, parse_params
from celery_ops.runbook.planner import Request
from celery_ops.runbook.schema import BeatStep, CheckStep, RestoreStep, Roll, WorkerStep
from celery_ops.runbook.scouting import Scout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from celery_ops.fleet.survey import Surveyor
    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Clock, Hosts, Results
    from celery_ops.runbook.library import Library
    from celery_ops.runbook.plan import Plan, Where
    from celery_ops.runbook.schema import Runbook

SURVEY_TIMEOUT = 3.0
STALE_SECONDS = 60.0
"""A plan that has waited for longer than that looks at the fleet once more."""
BY_SUPERVISORS = (
    "What needs no broker can be done by the supervisors alone: celery-ops worker"
    " stop|start|restart NAME --emergency"
)
_EVERYTHING = tuple(question for question in Question if question.is_of_the_fleet)


class Planner:
    """Reads the fleet as it is now and plans a runbook on it."""

    def __init__(
        self,
        *,
        surveyor: Surveyor,
        hosts: Hosts,
        library: Library,
        where: Where,
        clock: Clock,
        operator: str,
        backups: Path,
        results: Results | None = None,
    ) -> None:
        """`backups` is the directory of backups that are given no name."""
        self._surveyor = surveyor
        self._tracer = Tracer(surveyor.broker, clock, results=results)
        self._endings = sighting.EndingsLook(surveyor.broker, self._tracer, results, clock, where)
        self._hosts = hosts
        self._library = library
        self._where = where
        self._clock = clock
        self._operator = operator
        self._backups = backups

    async def plan(self, name: str, given: Mapping[str, str], *, run: str) -> Plan:
        """Raise UsageError or InvalidDocument for a wrong request, BrokerUnreachable without a
        broker, PreconditionFailed for one on which nothing can be run.
        """
        runbook = self._library.get(name)
        if refuses := self._surveyor.broker.refuses_runs:
            raise PreconditionFailed(f"{name} cannot be run: {refuses}.", fix=BY_SUPERVISORS)
        params = parse_params(runbook, given)
        gaps = tuple(re.findall(r"[^,\s]+", str(params.get(ALLOW_GAP.name, ""))))
        snapshot = await self._survey(runbook)
        given = switching.with_names(runbook, given, snapshot)
        params = parse_params(runbook, given)
        bare = Request(runbook, dict(given), params, gaps, self._where, self._operator, run)
        snapshot = await self._meet(bare, snapshot)
        now = self._clock.now()
        scout = Scout(
            self._surveyor.broker,
            snapshot,
            run=run,
            context=self._where.context,
            backups=self._backups,
        )
        request = Request(
            runbook, dict(given), params, gaps, self._where, self._operator, run,
            scouted={
                **await scout.look(runbook, params, now),
                **await holding_plans.look(runbook, params, snapshot, self._surveyor.broker),
                **await unknown_tasks.look(
                    runbook, params, snapshot, self._surveyor.broker, self._hosts, run
                ),
            },
            traced=await sighting.look(self._tracer, runbook, params, snapshot),
            ended=await self._endings.look(runbook, params, snapshot),
            schedule=await self._schedule(runbook, snapshot),
        )  # fmt: skip
        plan = planner.build(request, snapshot, self._hosts, now)
        return replace(plan, hazards=(*plan.hazards, *await self._ahead(runbook, plan, snapshot)))

    async def _ahead(self, runbook: Runbook, plan: Plan, snapshot: FleetSnapshot) -> list[str]:
        """What is ahead of workers that are switched to a release."""
        if not running_ahead.is_asked(runbook, plan):
            return []
        store = self._surveyor.broker.store
        waiting = await running_ahead.producers(plan, snapshot, store)
        return [*waiting, *running_ahead.schedulers(plan, snapshot)]

    async def _schedule(self, runbook: Runbook, snapshot: FleetSnapshot) -> Schedule:
        if not any(isinstance(step, BeatStep) for step in runbook.steps):
            return Schedule()
        return await schedules.read(self._surveyor.broker, snapshot)

    async def _meet(self, request: Request, snapshot: FleetSnapshot) -> FleetSnapshot:
        """Wait for the word of selected solo pools that run a task: what they consume, nobody else
        knows.
        """
        mute = {
            one.name
            for one in snapshot.workers
            if one.busy_solo and one.mine and (one.queues is None or one.incarnation is None)
        }
        if not mute or not _asks_workers(request.runbook):
            return snapshot
        mute &= planner.selected(request, snapshot, self._hosts, self._clock.now())
        if not mute:
            return snapshot
        began = self._clock.monotonic()
        wait = request.params.get(BUSY_WAIT.name)
        met = await self._surveyor.refresh(
            questions=_EVERYTHING,
            to=Targets(tuple(sorted(mute))),
            timeout=wait if isinstance(wait, float) else SURVEY_TIMEOUT,
            patience=SURVEY_TIMEOUT,
        )
        is_stale = self._clock.monotonic() - began > STALE_SECONDS
        return await self._survey(request.runbook) if is_stale else met

    async def _survey(self, runbook: Runbook) -> FleetSnapshot:
        """One round; a second one where what is planned rests on two."""
        surely = any(isinstance(step, RestoreStep) for step in runbook.steps)
        survey = self._surveyor.refresh_surely if surely else self._surveyor.refresh
        snapshot = await survey(questions=_EVERYTHING, timeout=SURVEY_TIMEOUT)
        if _is_about_beat(runbook):
            await self._surveyor.find_processes()
            snapshot = await self._surveyor.refresh(questions=(), services=())
        return snapshot

    async def selected(self, plan: Plan) -> frozenset[str]:
        """The workers that a plan's selectors mean now; nobody where they match nothing."""
        runbook = loads(plan.source, plan.file)
        params = parse_params(runbook, plan.params)
        snapshot = await self._survey(runbook)
        request = Request(
            runbook, plan.params, params, plan.allow_gap, self._where, self._operator, plan.run
        )
        return planner.selected(request, snapshot, self._hosts, self._clock.now())


def _asks_workers(runbook: Runbook) -> bool:
    """Some step is one that a worker itself must answer for."""
    for step in runbook.steps:
        inner = step.steps if isinstance(step, Roll) else (step,)
        if any(isinstance(one, WorkerStep) and asks(one) for one in inner):
            return True
    return False


def _is_about_beat(runbook: Runbook) -> bool:
    checks = (step for step in runbook.preflight if isinstance(step, CheckStep))
    return any(isinstance(step, BeatStep) for step in runbook.steps) or any(
        "fleet.senders" in check.that.names for check in checks
    )
