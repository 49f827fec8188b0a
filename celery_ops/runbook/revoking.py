"""The verbs `revoke: tasks` and `terminate: tasks`: tells every worker, and hears from each that it
knows.

A reply to `revoke` is an acknowledgement and no more; each worker's own list of what is revoked is
the proof. A revoke may be repeated: revoked twice is revoked once. So what an executor that died
may have sent is sent again when the run is resumed, and nobody has to say whether it was.

To terminate comes second, when no worker can begin these tasks any more. It is directed at whoever
runs one of them now, and names its id: said twice, it finds nothing the second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.fleet.tracing import ask_revoked, in_workers
from celery_ops.model import Targets, TaskPlace
from celery_ops.ports import Control, Question
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.probes import listed
from celery_ops.runbook.revocation import addressed, cannot_terminate, runs_all_the_same

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Reply
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.task_steps import RevokeStep

IDS_AT_A_TIME = 250
"""Newer workers ask their result backend about each of them before they do anything else."""
BETWEEN_LOOKS = 0.5
TOLD_AGAIN_AFTER = 10.0
"""Seconds: a worker that is busy hears all that it was told once it is free."""
REPLY_TIMEOUT = 2.0


class Revoking:
    """One revoke step of a run."""

    def __init__(self, stage: Stage, step: RevokeStep) -> None:
        self._stage = stage
        self._step = step
        self._ids = tuple(one.id for one in stage.plan.tasks if one.step == step.id)
        self._until = stage.clock.monotonic() + stage.value(step.timeout)
        self._done: set[str] = set()
        self._failed: dict[str, str] = {}

    async def go(self) -> str:
        """Do it and say what came of it. Raise StepFailed where a worker did not tell it knows."""
        snapshot = await self._everywhere()
        self._raise_failed()
        says = f"{counted(len(self._ids), 'task')} revoked in {counted(len(self._done), 'worker')}"
        parts = [says]
        if self._step.terminates:
            says = await self._terminate(snapshot)
            self._raise_failed()
            parts.append(says)
        parts += self._what_runs_on(await self._stage.look())
        return "; ".join(parts)

    # --- every worker ---

    async def _everywhere(self) -> FleetSnapshot:
        """Tell all that answer, and whoever has come meanwhile; the fleet as it was seen last."""
        told: set[str] = set()
        while True:
            snapshot = await self._stage.look()
            names = [one.name for one in addressed(snapshot) if one.name not in told]
            if not told and not names:
                raise PreconditionFailed("there is no worker that answers, so nobody can be told")
            if not names:
                self._say_who_is_missing(told)
                return snapshot
            if told:
                self._stage.say(None, f"new since: {', '.join(names)}", self._step.id)
            told.update(names)
            await self._tell([name for name in names if self._is_to_be_told(name)])

    def _is_to_be_told(self, name: str) -> bool:
        """Whether a worker is still to be told; puts the intent on disk, unless it is there."""
        stage, step = self._stage, self._step
        past = stage.recall.next(step.id, name)
        if past is not None and past.outcome is not None:
            self._count(name, past.outcome.result, past.outcome.says)
            return False
        if past is not None:
            stage.say(name, "told again: revoked twice is revoked once", step.id)
            return True
        target = stage.targets.get(name)
        stage.effects.intend(
            step.id, name, f"control revoke of {counted(len(self._ids), 'task')} to {name}",
            expect="it says itself that they are revoked in it", undo=None, verb="revoke",
            worker=None if target is None else target.planned,
        )  # fmt: skip
        return True

    async def _tell(self, names: Sequence[str]) -> None:
        """Until each says that it knows them all, or the time is over."""
        stage = self._stage
        missing = set(names)
        told_at: float | None = None
        while missing:
            now = stage.clock.monotonic()
            if told_at is None or now - told_at >= TOLD_AGAIN_AFTER:
                await self._send(sorted(missing), self._ids, {})
                told_at = now
            knowing = await self._knowing(sorted(missing))
            for name in sorted(missing & knowing):
                self._conclude(name, Result.DONE, "it says that they are revoked in it")
            missing -= knowing
            if not missing:
                return
            if stage.clock.monotonic() >= self._until:
                break
            await stage.brake.sleep(BETWEEN_LOOKS)
        limit = as_duration(stage.value(self._step.timeout))
        for name in sorted(missing):
            says = f"it did not say within {limit} that they are revoked in it: it may begin them"
            self._conclude(name, Result.FAILED, says)

    async def _send(
        self, names: Sequence[str], ids: Sequence[str], more: Mapping[str, object]
    ) -> None:
        for start in range(0, len(ids), IDS_AT_A_TIME):
            self._stage.brake.check(safe=True)
            some = list(ids[start : start + IDS_AT_A_TIME])
            order = Control("revoke", {"task_id": some, **more})
            replies = await self._stage.effects.replies(order, names)
            for name, reply in replies.items():
                if reply.error is not None:
                    self._stage.say(name, f"it replied: {reply.error[:400]}", self._step.id)
            if self._stage.effects.away:
                self._stage.say(None, self._stage.effects.away, self._step.id)

    async def _knowing(self, names: Sequence[str]) -> set[str]:
        """Those that say themselves that all of them are revoked."""
        stage = self._stage
        try:
            said = await ask_revoked(stage.surveyor.broker, names, stage.clock, REPLY_TIMEOUT)
        except BrokerUnreachable as error:
            stage.say(None, error.says, self._step.id)
            return set()
        wanted = frozenset(self._ids)
        return {name for name, ids in said.by_worker.items() if wanted <= ids}

    def _say_who_is_missing(self, told: Collection[str]) -> None:
        gone = sorted(name for name in self._stage.targets if name not in told)
        if gone:
            says = f"not told, since they do not answer any more: {', '.join(gone)}"
            self._stage.say(None, says, self._step.id)

    # --- those that run one ---

    async def _terminate(self, snapshot: FleetSnapshot) -> str:
        """End what runs, and say how many tasks that were."""
        stage, step = self._stage, self._step
        running = await self._running(sorted(self._done))
        ended, before = 0, []
        for name in sorted(self._done):
            tasks = running.get(name, {})
            past = stage.recall.next(step.id, name)
            before += [name] if past is not None else []
            if past is not None and past.outcome is not None:
                self._count(name, past.outcome.result, past.outcome.says)
                continue
            if not tasks and past is None:
                continue
            why = cannot_terminate(snapshot.worker(name)) if tasks else None
            if why is not None:
                self._conclude(name, Result.FAILED, f"{listed(tasks)} runs on: {why}")
                continue
            if past is None:
                signal = stage.value(step.signal)
                target = stage.targets.get(name)
                stage.effects.intend(
                    step.id, name, f"control revoke, terminate with SIG{signal}: {listed(tasks)}",
                    expect="it runs none of them, and the processes that did are gone",
                    undo=None, verb="terminate", worker=None if target is None else target.planned,
                )  # fmt: skip
            await self._end(name, tasks)
            ended += len(tasks)
        says = f"{ended or 'none'} of them ended in the midst of it"
        if not before:
            return says
        return f"{says}, beside those that were in {', '.join(before)} before this was resumed"

    async def _end(self, name: str, tasks: Mapping[str, int | None]) -> None:
        """Until it runs none of them, and none of the processes that did is in its pool."""
        stage = self._stage
        signal = f"SIG{stage.value(self._step.signal)}"
        pids = {pid for pid in tasks.values() if pid is not None}
        still: set[str] = set(tasks)
        while still:
            await self._send([name], sorted(still), {"terminate": True, "signal": signal})
            still &= set((await self._running([name])).get(name, still))
            if still and stage.clock.monotonic() >= self._until:
                self._conclude(name, Result.FAILED, f"it still runs {listed(sorted(still))}")
                return
            if still:
                await stage.brake.sleep(BETWEEN_LOOKS)
        while left := pids & await self._pool_pids(name, pids):
            if stage.clock.monotonic() >= self._until:
                processes = ", ".join(str(pid) for pid in sorted(left))
                self._conclude(
                    name, Result.FAILED,
                    f"process {processes} outlives {signal}, and the worker has forgotten what it"
                    f" runs: kill -9 {processes} on its host",
                )  # fmt: skip
                return
            await stage.brake.sleep(BETWEEN_LOOKS)
        says = "it runs none of them, and the processes that did are gone"
        self._conclude(name, Result.DONE, says)

    async def _running(self, names: Sequence[str]) -> dict[str, dict[str, int | None]]:
        """Which of the tasks each worker runs, and in which process; who is silent is missing."""
        wanted = frozenset(self._ids)
        found: dict[str, dict[str, int | None]] = {}
        for reply in await self._ask(Question.ACTIVE, names):
            if isinstance(reply.value, list):
                found[reply.node] = {
                    str(task["id"]): _pid(task.get("worker_pid"))
                    for task in reply.value
                    if isinstance(task, dict) and task.get("id") in wanted
                }
        return found

    async def _pool_pids(self, name: str, otherwise: set[int]) -> set[int]:
        """The processes of its pool now; `otherwise` while it does not say."""
        for reply in await self._ask(Question.STATS, [name]):
            pool = reply.value.get("pool") if isinstance(reply.value, dict) else None
            pids = pool.get("processes") if isinstance(pool, dict) else None
            if isinstance(pids, list):
                return {pid for pid in pids if _pid(pid) is not None}
        return otherwise

    async def _ask(self, question: Question, names: Sequence[str]) -> tuple[Reply, ...]:
        if not names:
            return ()
        try:
            round_ = await self._stage.surveyor.broker.ask(
                (question,), to=Targets(tuple(names)), timeout=REPLY_TIMEOUT, known=names
            )
        except BrokerUnreachable as error:
            self._stage.say(None, error.says, self._step.id)
            return ()
        return round_.replies[question]

    # --- what came of it ---

    def _what_runs_on(self, snapshot: FleetSnapshot) -> list[str]:
        """What a revoke does not keep from running, as far as workers tell."""
        wanted = frozenset(self._ids)
        on = [one for one in in_workers(snapshot) if one.id in wanted
              and (one.place is TaskPlace.ACTIVE or runs_all_the_same(one, snapshot))]  # fmt: skip
        if not on:
            return []
        where = listed(f"{one.id} in {one.worker}" for one in on)
        return [f"{counted(len(on), 'task')} had begun or {'was' if len(on) == 1 else 'were'}"
                f" handed to a pool before, and run to the end: {where}"]  # fmt: skip

    def _conclude(self, name: str, result: Result, says: str) -> None:
        self._stage.effects.conclude(self._step.id, name, result, says)
        self._count(name, result, says)

    def _count(self, name: str, result: Result, says: str) -> None:
        if result is Result.DONE:
            self._done.add(name)
        else:
            self._failed[name] = says
        target = self._stage.targets.get(name)
        if target is not None:
            target.done, target.failed = result is Result.DONE, self._failed.get(name, "")

    def _raise_failed(self) -> None:
        if self._failed:
            raise StepFailed(_joined(self._failed.items()))


def _joined(failed: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {says}" for name, says in failed)


def _pid(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
