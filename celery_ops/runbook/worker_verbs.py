"""The verbs that act on workers: each sends its actions, waits until they are seen, and can be
undone.

A run that is taken up again performs them once more: what its journal says was concluded is not
done again, and of what was begun without a result one look at the fleet tells whether it happened.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.runbook import actions, judges
from celery_ops.runbook.attempts import backoff, failed_attempt
from celery_ops.runbook.cutting_off import patient_with, told_loss, unclean
from celery_ops.runbook.events import EventKind, Outcome, Result
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.judges import Judgement, Seen
from celery_ops.runbook.orders import Order, Target
from celery_ops.runbook.schema import OnTimeout, WorkerVerb
from celery_ops.runbook.worker_draining import WorkerDraining

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from celery_ops.errors import OpsError
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Clock, Hosts
    from celery_ops.runbook.actions import HostAction
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.journal import Journal
    from celery_ops.runbook.lasting import Lasting
    from celery_ops.runbook.recall import Act, Recall
    from celery_ops.runbook.watch import Watch

GIVE_BACK_TIMEOUT = 60.0
RUNS_ON = "runs on"
"""How it is told that a worker had never stopped."""


@dataclass(frozen=True, slots=True)
class _Sending:
    """What is written of a command to a supervisor before it is sent."""

    verb: WorkerVerb
    expect: str
    undo: str
    patient: bool = True


class WorkerVerbs:
    """Performs worker verbs on the targets of a batch, all at once."""

    def __init__(
        self,
        *,
        effects: Effects,
        watch: Watch,
        hosts: Hosts,
        journal: Journal,
        clock: Clock,
        recall: Recall,
        lasting: Lasting,
        by_supervisor: bool = False,
    ) -> None:
        """`by_supervisor`: there is no broker, so its supervisor's word that a worker runs is
        enough.
        """
        self._effects = effects
        self._watch = watch
        self._hosts = hosts
        self._journal = journal
        self._clock = clock
        self._recall = recall
        self._lasting = lasting
        self._started = judges.keeps_running if by_supervisor else judges.started
        self._draining = WorkerDraining(
            effects=effects, watch=watch, hosts=hosts, clock=clock, recall=recall, until=self._until
        )

    async def perform(self, order: Order, targets: Sequence[Target]) -> None:
        """Do it to every target; those on which it failed say why in `failed`.

        Raise Aborted where the operator may end the run, LeaseLost when nothing more may be done.
        """
        match order.verb:
            case WorkerVerb.DRAIN:
                await self._draining.perform(order, targets)
            case WorkerVerb.RESUME:
                await self._together(self._resume, order, targets)
            case WorkerVerb.STOP:
                await self._together(self._bring_down, order, targets)
            case WorkerVerb.START:
                await self._together(self._bring_up, order, targets)
            case WorkerVerb.RESTART:
                await self._together(self._restart, order, targets)

    async def put_right(self, step: str, target: Target) -> None:
        """Undo what a target is owed: start it, give its queues back. It owes nothing once that is
        proved.
        """
        kept, was_owed = target.failed, target.owed
        target.failed = target.away = ""
        self._recall.forget_failed(step, target.name)
        if target.down:
            await self._start_again(Order(step, WorkerVerb.START, GIVE_BACK_TIMEOUT), target)
        if target.queues_taken and not target.failed:
            await self._resume(Order(step, WorkerVerb.RESUME, GIVE_BACK_TIMEOUT), target)
        target.given_up = target.owed and not target.away
        target.returned = was_owed and not target.owed
        target.done = target.done and not target.returned
        target.failed = kept or target.failed

    async def stays_drained(self, step: str, target: Target, *, begun: bool = False) -> bool:
        """Wait, as long as for its drain, until the proof of it holds at this moment: to be asked
        right before a worker is taken down. False if it does not; why not, `failed` says.

        `begun`: that was tried before, so it may be down already.
        """
        drained = target.drained
        if drained is None:
            return True
        order = replace(drained.order, step=step)
        judge = judges.StaysDrained(
            target.planned, drained.incarnation, self._clock.now(), timeout=order.timeout
        )
        service = target.service if begun else None
        seen = await self._until(judge, order, target, ask=True, service=service, safe=True)
        if seen.seen is Seen.DONE or (seen.too_late and order.on_timeout is OnTimeout.PROCEED):
            return True
        target.failed = f"was not stopped, not drained any more: {seen.says}"
        self._conclude(order, target, "")
        return False

    async def _start_again(self, order: Order, target: Target) -> None:
        """Start what was to be stopped. A host that was silent all the while is told once more, and
        not waited for once more.
        """
        since = self._clock.now()
        stop = await self._until(
            judges.stopped(target.planned, since),
            order,
            target,
            service=target.service,
            safe=False,
        )
        if stop.runs_on and await self._is_set(target, self._effects.unset_at_boot(target.planned)):
            await self._effects.give_back("service", target.planned)
            target.down = False
            return
        await self._start(order, target, anew=False, patient=not stop.silent)

    async def _together(
        self,
        perform: Callable[[Order, Target], Coroutine[Any, Any, object]],
        order: Order,
        targets: Sequence[Target],
    ) -> None:
        await all_of([perform(order, target) for target in targets])

    async def _resume(self, order: Order, target: Target) -> None:
        act = self._recall.next(order.step, target.name)
        if act is not None and act.outcome is not None:
            target.retell(act.outcome)
            return
        since = self._clock.now()
        planned = target.planned
        target.drained = None
        names = ", ".join(queue.name for queue in planned.queues or ())
        if act is None:
            self._effects.intend(
                order.step,
                target.name,
                f"add_consumer {names}",
                expect=f"consumes {names}",
                undo=actions.undo_of(WorkerVerb.RESUME, planned, self._hosts),
                verb=WorkerVerb.RESUME,
                worker=planned,
            )
        refused: dict[str, str] = {}
        if act is None or not await self._seen(judges.resumed(planned, since), target):
            refused = await self._effects.control(actions.give_back(planned))
        seen = await self._until(
            judges.resumed(planned, since), order, target, ask=True, safe=False
        )
        if seen.seen is Seen.DONE or seen.new_life:
            await self._effects.give_back("queues", planned)
            target.queues_taken = False
            lasts = "" if seen.new_life else await self._lasting.warning(target.name)
            self._effects.conclude(order.step, target.name, Result.DONE, seen.says + lasts)
            return
        reply = refused.get(target.name)
        target.away = self._effects.away if refused else ""
        target.failed = f"queues not given back: {seen.says}" + (f" ({reply})" if reply else "")
        self._effects.conclude(order.step, target.name, Result.FAILED, target.failed)

    async def _bring_down(self, order: Order, target: Target) -> bool:
        """Stop it; True once it is seen to be down, cleanly or not (then `failed` says so)."""
        act = self._recall.next(order.step, target.name)
        if act is None or act.outcome is None:
            if not await self.stays_drained(order.step, target, begun=act is not None):
                return False
            if not target.down:
                await self._effects.take(
                    "service", target.planned,
                    at_boot=actions.unset_by(target.planned, for_good=order.for_good),
                )  # fmt: skip
                target.down = True
            if not await self._send_stop(order, target, act):
                return False
        elif act.outcome.result is Result.DONE:
            target.lost = told_loss(act.outcome)
        elif act.outcome.result is Result.FAILED:
            target.failed = act.outcome.says
            judge = judges.stopped(target.planned, self._clock.now())
            if not target.down or not await self._seen(judge, target, target.service):
                return False
        target.queues_taken = False
        target.drained = None
        await self._effects.give_back("queues", target.planned)
        return True

    async def _send_stop(self, order: Order, target: Target, act: Act | None) -> bool:
        service, since = target.service, self._clock.now()
        at_boot = actions.unset_by(target.planned, for_good=order.for_good)
        expect_life = None if target.unasked else target.planned.identity
        action = actions.stop(service, expect_life, self._hosts, at_boot=at_boot)
        undo = str(actions.start(service, self._hosts, at_boot=at_boot))
        judge = (judges.stays_down if at_boot else judges.stopped)(target.planned, since)
        if act is None or not await self._seen(judge, target, service):
            expect = "its supervisor says stopped"
            how = _Sending(WorkerVerb.STOP, expect, undo)
            if not await self._on_host(order, target, action, act, how):
                if await self._is_set(target, at_boot):
                    target.down = False
                    await self._effects.give_back("service", target.planned)
                return False
        order = patient_with(order, target)
        seen = await self._until(judge, order, target, service=service, safe=False)
        is_down = seen.seen is Seen.DONE or (act is not None and seen.new_life)
        if not is_down:
            target.failed = f"did not stop: {seen.says}"
        says = f"stopped: {seen.says}"
        if is_down and seen.unclean:
            says = unclean(target, seen)
        self._conclude(order, target, says)
        if seen.runs_on and await self._is_set(target, at_boot):
            target.down = False
            await self._effects.give_back("service", target.planned)
        return is_down

    async def _bring_up(self, order: Order, target: Target) -> None:
        """What runs already is started: a stop may never have reached it."""
        await self._start(order, target, anew=False)

    async def _start(
        self,
        order: Order,
        target: Target,
        *,
        anew: bool,
        stopped_cleanly: bool = False,
        patient: bool = True,
    ) -> None:
        """Start it, as often as the step may be tried.

        `anew`: it was seen to be down, and `stopped_cleanly`: not as failed. `patient`: a host
        that cannot be reached is watched, for it may have got the command.
        """
        says = await self._start_once(
            order, target, anew=anew, stopped_cleanly=stopped_cleanly, patient=patient
        )
        for attempt in range(1, order.retries + 1):
            if not target.failed:
                break
            failed, target.failed = target.failed, ""
            if self._recall.peek(order.step, target.name) is None:
                pause = backoff(order.pause, attempt)
                self._progress(order, target, failed_attempt(attempt, order.retries, failed, pause))
                await self._watch.pause(pause)
            says = await self._start_once(
                order, target, anew=anew, stopped_cleanly=False, patient=patient
            )
        if target.failed:
            return
        target.down = False
        await self._effects.give_back("service", target.planned)
        if not says.startswith(RUNS_ON):
            target.renewed = True
            target.queues_taken = False
            await self._effects.give_back("queues", target.planned)

    async def _start_once(
        self, order: Order, target: Target, *, anew: bool, stopped_cleanly: bool, patient: bool
    ) -> str:
        """What was concluded; a failure is the target's."""
        act = self._recall.next(order.step, target.name)
        if act is not None and act.outcome is not None:
            target.retell(act.outcome)
            return act.outcome.says
        judge = judges.was_started(
            target.planned, self._clock.now(), stopped_cleanly=stopped_cleanly
        )
        begun = act is not None and await self._seen(judge, target, target.service)
        if not begun and not await self._send_start(order, target, act, patient=patient):
            return ""
        return await self._until_started(order, target, anew=anew)

    async def _send_start(
        self, order: Order, target: Target, act: Act | None, *, patient: bool
    ) -> bool:
        service = target.service
        at_boot = self._effects.unset_at_boot(target.planned)
        action = actions.start(service, self._hosts, at_boot=at_boot)
        undo = str(actions.stop(service, None, self._hosts))
        how = _Sending(WorkerVerb.START, "a new incarnation answers", undo, patient)
        return await self._on_host(order, target, action, act, how)

    async def _until_started(self, order: Order, target: Target, *, anew: bool) -> str:
        """Until it is seen, or not; what was concluded."""
        service, since = target.service, self._clock.now()
        judged = judges.keeps_running if service.beat else self._started
        judge = judged(target.planned, since, anew=anew)
        runs = judges.runs(target.planned, since, anew=anew)
        seen = await self._until(
            judge, order, target, ask=not service.beat, service=service, safe=False, first=runs
        )
        at_boot = self._effects.unset_at_boot(target.planned)
        if seen.seen is not Seen.DONE:
            target.failed = f"did not come back: {seen.says}"
        elif not await self._is_set(target, at_boot):
            target.failed = f"it runs, and it is not seen to be {at_boot} again, as it was"
        says = f"{RUNS_ON}: {seen.says}" if seen.runs_on else f"started: {seen.says}"
        self._conclude(order, target, says)
        return says

    async def _restart(self, order: Order, target: Target) -> None:
        """Stop, proof of the stop, start: whatever happened at the stop, it is started again."""
        if not await self._bring_down(order, target):
            return
        at_stop, target.failed = target.failed, ""
        await self._start(order, target, anew=True, stopped_cleanly=not at_stop)
        if at_stop:
            target.failed = "; ".join(says for says in (at_stop, target.failed) if says)

    async def _on_host(
        self, order: Order, target: Target, action: HostAction, act: Act | None, how: _Sending
    ) -> bool:
        """Send a command to a supervisor; whether it is worth watching what comes of it.

        One whose fate is unknown is settled by observing, unless nobody is patient any more. An
        `act` was intended already.
        """
        if act is None:
            self._effects.intend(
                order.step,
                target.name,
                str(action),
                expect=how.expect,
                undo=how.undo,
                verb=how.verb,
                worker=target.planned,
            )
        try:
            await self._effects.on_host(action)
        except CommandFailed as error:
            target.failed = _told(error)
            self._effects.conclude(order.step, target.name, Result.FAILED, target.failed)
            return False
        except HostUnreachable as error:
            target.away = target.unseen = error.says
            target.failed = "" if how.patient else error.says
            self._effects.conclude(order.step, target.name, Result.UNKNOWN, error.says)
            return how.patient
        return True

    async def _seen(
        self, judge: judges.Judge, target: Target, service: ServiceRef | None = None
    ) -> bool:
        """One look: whether what was begun before is seen to have happened.

        False where it is not known, too: every effect can be sent a second time without harm (a
        consumer that is cancelled is cancelled, a stop names its incarnation).
        """
        snapshot = await self._watch.look(target.name, service)
        return snapshot is not None and judge(snapshot).seen is Seen.DONE

    async def _is_set(self, target: Target, at_boot: str) -> bool:
        """One look: whether it will be started at boot by that word for it; empty: nothing asked
        for that.
        """
        judge = judges.is_set_at_boot(target.planned, self._clock.now(), at_boot)
        return not at_boot or await self._seen(judge, target, target.service)

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
        first: judges.Judge | None = None,
    ) -> Judgement:
        seen = await self._watch.until(
            judge,
            worker=target.name if ask else None,
            service=service,
            timeout=order.timeout,
            safe=safe,
            progress=lambda says: self._progress(order, target, says),
            first=first,
        )
        if service is not None:
            target.unseen = seen.says if seen.silent else ""
        return seen

    def _progress(self, order: Order, target: Target, says: str) -> None:
        outcome = Outcome(Result.UNKNOWN, says)
        self._journal.append(
            EventKind.PROGRESS, step=order.step, target=target.name, outcome=outcome
        )


def _told(error: OpsError) -> str:
    """What happened and the way out: a journal has one text for both."""
    return " ".join(part for part in (error.says, error.fix) if part)
