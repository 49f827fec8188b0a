"""The verbs that act on workers: each sends its actions, waits until they are seen, and can be
undone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.runbook import actions, judges
from celery_ops.runbook.journal import EventKind, Outcome, Result
from celery_ops.runbook.judges import Judgement, Seen
from celery_ops.runbook.schema import OnTimeout, WorkerVerb

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from celery_ops.errors import OpsError
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Clock, Hosts
    from celery_ops.runbook.actions import HostAction
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.journal import Journal
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.watch import Watch

GIVE_BACK_TIMEOUT = 60.0
EXPECT_DRAINED = "consumes nothing, holds nothing, and stays so"


@dataclass(slots=True, eq=False)
class Target:
    """A worker that a run acts upon, and what the run owes it at this moment.

    `planned` is refreshed when its batch begins; its queues stay those of the plan.
    """

    planned: PlannedWorker
    queues_taken: bool = False
    down: bool = False
    done: bool = False
    renewed: bool = False
    """A new incarnation answers; whether all is well with it was not verified yet."""
    failed: str = ""
    given_up: bool = False
    """It was just tried to put it right, in vain: another try would only take longer to say so."""

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def owed(self) -> bool:
        return self.queues_taken or self.down


@dataclass(frozen=True, slots=True)
class Order:
    """One worker step with its values resolved; `timeout` in seconds."""

    step: str
    verb: WorkerVerb
    timeout: float
    on_timeout: OnTimeout = OnTimeout.FAIL


class WorkerVerbs:
    """Performs worker verbs on the targets of a batch, all at once."""

    def __init__(
        self, *, effects: Effects, watch: Watch, hosts: Hosts, journal: Journal, clock: Clock
    ) -> None:
        self._effects = effects
        self._watch = watch
        self._hosts = hosts
        self._journal = journal
        self._clock = clock

    async def perform(self, order: Order, targets: Sequence[Target]) -> None:
        """Do it to every target; those on which it failed say why in `failed`.

        Raise Aborted where the operator may end the run, LeaseLost when nothing more may be done.
        """
        match order.verb:
            case WorkerVerb.DRAIN:
                await self._drain(order, targets)
            case WorkerVerb.RESUME:
                await self._together(self._resume, order, targets)
            case WorkerVerb.STOP:
                await self._together(self._stop, order, targets)
            case WorkerVerb.START:
                await self._together(self._bring_up, order, targets)
            case WorkerVerb.RESTART:
                await self._together(self._restart, order, targets)

    async def put_right(self, step: str, target: Target) -> None:
        """Undo what a target is owed: start it, give its queues back. It owes nothing once that is
        proved.
        """
        kept = target.failed
        target.failed = ""
        if target.down:
            await self._start_again(Order(step, WorkerVerb.START, GIVE_BACK_TIMEOUT), target)
        if target.queues_taken and not target.failed:
            await self._resume(Order(step, WorkerVerb.RESUME, GIVE_BACK_TIMEOUT), target)
        target.given_up = target.owed
        target.failed = kept or target.failed

    async def _start_again(self, order: Order, target: Target) -> None:
        """Start what was to be stopped. A host that was silent all the while is told once more, and
        not waited for once more.
        """
        since = self._clock.now()
        stop = await self._until(
            judges.stopped(target.planned, since),
            order,
            target,
            service=_service(target),
            safe=False,
        )
        if stop.runs_on:
            await self._effects.give_back("service", target.planned)
            target.down = False
            return
        await self._start(order, target, anew=False, patient=not stop.silent)

    async def _together(
        self,
        perform: Callable[[Order, Target], Coroutine[Any, Any, None]],
        order: Order,
        targets: Sequence[Target],
    ) -> None:
        await all_of([perform(order, target) for target in targets])

    async def _drain(self, order: Order, targets: Sequence[Target]) -> None:
        since = self._clock.now()
        for target in targets:
            planned = target.planned
            await self._effects.take("queues", planned)
            target.queues_taken = True
            names = ", ".join(queue.name for queue in planned.queues or ())
            self._effects.intend(
                order.step,
                target.name,
                f"cancel_consumer {names}",
                expect=EXPECT_DRAINED,
                undo=actions.undo_of(order.verb, planned, self._hosts),
            )
        sent = [action for target in targets for action in actions.cancel(target.planned)]
        refused = await self._effects.control(sent)

        async def finish(target: Target) -> None:
            seen = await self._until(
                judges.drained(target.planned, since), order, target, ask=True, safe=True
            )
            self._settle_drain(order, target, seen, refused.get(target.name))

        await all_of([finish(target) for target in targets])

    def _settle_drain(
        self, order: Order, target: Target, seen: Judgement, refused: str | None
    ) -> None:
        if seen.seen is Seen.DONE:
            self._effects.conclude(order.step, target.name, Result.DONE, f"drained: {seen.says}")
            return
        says = f"not drained: {seen.says}"
        if refused:
            says += f" (it replied: {refused})"
        if order.on_timeout is OnTimeout.PROCEED and seen.too_late:
            self._effects.conclude(order.step, target.name, Result.DONE, f"going on; {says}")
            return
        target.failed = says
        self._effects.conclude(order.step, target.name, Result.FAILED, says)

    async def _resume(self, order: Order, target: Target) -> None:
        since = self._clock.now()
        planned = target.planned
        names = ", ".join(queue.name for queue in planned.queues or ())
        self._effects.intend(
            order.step,
            target.name,
            f"add_consumer {names}",
            expect=f"consumes {names}",
            undo=actions.undo_of(WorkerVerb.RESUME, planned, self._hosts),
        )
        refused = await self._effects.control(actions.give_back(planned))
        seen = await self._until(
            judges.resumed(planned, since), order, target, ask=True, safe=False
        )
        if seen.seen is Seen.DONE or seen.new_life:
            await self._effects.give_back("queues", planned)
            target.queues_taken = False
            self._effects.conclude(order.step, target.name, Result.DONE, seen.says)
            return
        reply = refused.get(target.name)
        target.failed = f"queues not given back: {seen.says}" + (f" ({reply})" if reply else "")
        self._effects.conclude(order.step, target.name, Result.FAILED, target.failed)

    async def _stop(self, order: Order, target: Target) -> None:
        await self._bring_down(order, target)

    async def _bring_down(self, order: Order, target: Target) -> bool:
        """Stop it; True once it is seen to be down, cleanly or not (then `failed` says so)."""
        service = _service(target)
        await self._effects.take("service", target.planned)
        target.down = True
        since = self._clock.now()
        action = actions.stop(service, target.planned.identity, self._hosts)
        undo = str(actions.start(service, self._hosts))
        if not await self._on_host(order, target, action, "its supervisor says stopped", undo):
            target.down = False
            await self._effects.give_back("service", target.planned)
            return False
        seen = await self._until(
            judges.stopped(target.planned, since), order, target, service=service, safe=False
        )
        if seen.seen is not Seen.DONE:
            target.failed = f"did not stop: {seen.says}"
        elif seen.unclean:
            target.failed = (
                f"was killed at its stop, running tasks may be lost: {seen.says}; what it had not "
                "begun lies unacknowledged: celery-ops runbook restore-orphans"
            )
        self._conclude(order, target, f"stopped: {seen.says}")
        if seen.runs_on:
            target.down = False
            await self._effects.give_back("service", target.planned)
        if seen.seen is not Seen.DONE:
            return False
        target.queues_taken = False
        await self._effects.give_back("queues", target.planned)
        return True

    async def _bring_up(self, order: Order, target: Target) -> None:
        """What runs already is started: a stop may never have reached it."""
        await self._start(order, target, anew=False)

    async def _start(
        self, order: Order, target: Target, *, anew: bool, patient: bool = True
    ) -> None:
        """`anew`: it was seen to be down. `patient`: a host that cannot be reached is watched, for
        it may have got the command.
        """
        service = _service(target)
        since = self._clock.now()
        action = actions.start(service, self._hosts)
        undo = str(actions.stop(service, None, self._hosts))
        expect = "a new incarnation answers"
        if not await self._on_host(order, target, action, expect, undo, patient=patient):
            return
        seen = await self._until(
            judges.started(target.planned, since, anew=anew),
            order,
            target,
            ask=True,
            service=service,
            safe=False,
        )
        if seen.seen is not Seen.DONE:
            target.failed = f"did not come back: {seen.says}"
        says = f"runs on: {seen.says}" if seen.runs_on else f"started: {seen.says}"
        self._conclude(order, target, says)
        if target.failed:
            return
        target.down = False
        await self._effects.give_back("service", target.planned)
        if not seen.runs_on:
            target.renewed = True
            target.queues_taken = False
            await self._effects.give_back("queues", target.planned)

    async def _restart(self, order: Order, target: Target) -> None:
        """Stop, proof of the stop, start: whatever happened at the stop, it is started again."""
        if not await self._bring_down(order, target):
            return
        at_stop, target.failed = target.failed, ""
        await self._start(order, target, anew=True)
        if at_stop:
            target.failed = "; ".join(says for says in (at_stop, target.failed) if says)

    async def _on_host(
        self,
        order: Order,
        target: Target,
        action: HostAction,
        expect: str,
        undo: str,
        *,
        patient: bool = True,
    ) -> bool:
        """Send a command to a supervisor; whether it is worth watching what comes of it.

        One whose fate is unknown is settled by observing, unless nobody is `patient` any more.
        """
        self._effects.intend(order.step, target.name, str(action), expect=expect, undo=undo)
        try:
            await self._effects.on_host(action)
        except CommandFailed as error:
            target.failed = _told(error)
            self._effects.conclude(order.step, target.name, Result.FAILED, target.failed)
            return False
        except HostUnreachable as error:
            target.failed = "" if patient else error.says
            self._effects.conclude(order.step, target.name, Result.UNKNOWN, error.says)
            return patient
        return True

    def _conclude(self, order: Order, target: Target, says: str) -> None:
        result = Result.FAILED if target.failed else Result.DONE
        self._effects.conclude(order.step, target.name, result, target.failed or says)

    async def _until(
        self,
        judge: judges.Judge,
        order: Order,
        target: Target,
        *,
        ask: bool = False,
        service: ServiceRef | None = None,
        safe: bool,
    ) -> Judgement:
        def progress(says: str) -> None:
            self._journal.append(
                EventKind.PROGRESS,
                step=order.step,
                target=target.name,
                outcome=Outcome(Result.UNKNOWN, says),
            )

        return await self._watch.until(
            judge,
            worker=target.name if ask else None,
            service=service,
            timeout=order.timeout,
            safe=safe,
            progress=progress,
        )


async def all_of(performed: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Let all end, then raise the first error: no target is left in the middle by another's."""
    for result in await asyncio.gather(*performed, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _told(error: OpsError) -> str:
    """What happened and the way out: a journal has one text for both."""
    return " ".join(part for part in (error.says, error.fix) if part)


def _service(target: Target) -> ServiceRef:
    if target.planned.service is None:
        raise CommandFailed(f"{target.name} has no supervisor that is known here")
    return target.planned.service
