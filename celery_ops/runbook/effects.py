"""Carries out actions: intent on disk, then the effect under the lease, then what was acknowledged.

The only module that changes a fleet. Acknowledged is not done; `judges` decide that.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import (
    BrokerUnreachable,
    CommandFailed,
    HostUnreachable,
    LeaseBroken,
    LeaseHeld,
    LeaseLost,
    PreconditionFailed,
    UsageError,
)
from celery_ops.model import HELD, PAUSED, TakenRecord, Targets
from celery_ops.ports import MessageDivider
from celery_ops.runbook.actions import ControlAction, HostAction
from celery_ops.runbook.events import EventKind, Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from celery_ops.model import (
        ConsumedQueue,
        HeldMessage,
        StoredMessage,
        TaskMessage,
        Worker,
    )
    from celery_ops.ports import (
        Broker,
        Clock,
        Command,
        Divided,
        Division,
        Fence,
        FirstInLine,
        GivenBack,
        Hosts,
        MessageStore,
        Order,
        Reply,
        Transfer,
        Transferred,
    )
    from celery_ops.runbook.journal import Journal
    from celery_ops.runbook.lease_keeper import LeaseKeeper
    from celery_ops.runbook.plan import Plan, PlannedWorker

ACKNOWLEDGE_TIMEOUT = 1.0
HOST_TIMEOUT = 15.0
REGAIN_SECONDS = 30.0
_MOST_OF_A_REPLY = 400
"""Characters."""


class Effects:
    """One run's hands. `made` counts the effects that were sent: zero means nothing was changed.

    `away` is why the broker could not be told the last control message; empty: it could.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        broker: Broker,
        hosts: Hosts,
        keeper: LeaseKeeper,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._broker = broker
        self._hosts = hosts
        self._keeper = keeper
        self._journal = journal
        self._clock = clock
        self._recorded: dict[str, TakenRecord] = {}
        self._recording = asyncio.Lock()
        self.made = 0
        self.away = ""

    @property
    def may_go_on(self) -> bool:
        """False once somebody else was seen to have taken the lease."""
        return not self._keeper.taken_by

    @property
    def store(self) -> MessageStore:
        """The messages of this broker. Raise PreconditionFailed where they cannot be moved."""
        store = self._broker.store
        if store is None:
            raise PreconditionFailed("the messages of this kind of broker cannot be moved here")
        return store

    def intend(
        self,
        step: str,
        target: str | None,
        intent: str,
        *,
        expect: str,
        undo: str | None,
        verb: str,
        worker: PlannedWorker | None = None,
    ) -> datetime:
        """Put an intent on disk before its effect, and tell its moment; `worker` is the target as
        it is now.
        """
        event = self._journal.append(
            EventKind.INTENT,
            step=step,
            target=target,
            intent=intent,
            expect=expect,
            undo=undo,
            verb=verb,
            worker=worker,
        )
        return event.at

    def conclude(
        self, step: str, target: str | None, result: Result, says: str, count: int | None = None
    ) -> None:
        """Put a result on disk; `count` is how many messages it is about."""
        self._journal.append(
            EventKind.RESULT, step=step, target=target, outcome=Outcome(result, says), count=count
        )

    async def control(self, sent: Sequence[ControlAction]) -> dict[str, str]:
        """Send control messages, one for all workers that get the same. Errors replied, by worker.

        A message whose fate is unknown (the broker went away) is not repeated: its effect will be
        seen, or will not.
        """
        by_order: dict[str, tuple[Order, list[str]]] = {}
        for action in sent:
            key = f"{action.order.method} {action.order.arguments}"
            by_order.setdefault(key, (action.order, []))[1].append(action.worker)
        errors: dict[str, str] = {}
        for order, names in by_order.values():

            async def send(fence: Fence, order: Order = order, names: list[str] = names) -> None:
                replies = await self._broker.order(
                    order, to=Targets(tuple(names)), fence=fence, timeout=ACKNOWLEDGE_TIMEOUT
                )
                errors.update((reply.node, reply.error) for reply in replies if reply.error)

            self.made += 1
            try:
                await self._fenced(send)
                self.away = ""
            except BrokerUnreachable as error:
                self.away = error.says
                errors.update(dict.fromkeys(names, f"unknown whether it was sent: {error.says}"))
        return errors

    async def replies(self, order: Order, names: Sequence[str]) -> dict[str, Reply]:
        """Send one control command to several workers: what each replied, who did at all.

        Of those who are missing it is not known whether they were reached.
        """
        replied: dict[str, Reply] = {}

        async def send(fence: Fence) -> None:
            replied.update(
                (reply.node, reply)
                for reply in await self._broker.order(
                    order, to=Targets(tuple(names)), fence=fence, timeout=ACKNOWLEDGE_TIMEOUT
                )
            )

        self.made += 1
        self.away = ""
        try:
            await self._fenced(send)
        except BrokerUnreachable as error:
            self.away = error.says
        return replied

    async def send(self, message: TaskMessage) -> None:
        """Send a task. Raise BrokerUnreachable: then it may be in its queue all the same."""
        self.made += 1
        await self._fenced(lambda fence: self._broker.send(message, fence=fence))

    async def command(self, sent: ControlAction, timeout: float) -> Outcome:
        """Send a control command of the runbook's to one worker: what it replied, and no more."""
        to = Targets((sent.worker,))
        replies: list[Reply] = []

        async def send(fence: Fence) -> None:
            replies.extend(
                await self._broker.order(sent.order, to=to, fence=fence, timeout=timeout)
            )

        self.made += 1
        self.away = ""
        try:
            await self._fenced(send)
        except BrokerUnreachable as error:
            self.away = error.says
            return Outcome(Result.UNKNOWN, f"it is not known whether it was sent: {error.says}")
        if not replies:
            return Outcome(Result.UNKNOWN, "no reply: it is not known whether it was done")
        reply = replies[0]
        if reply.error is not None:
            return Outcome(Result.FAILED, f"it replied: {reply.error[:_MOST_OF_A_REPLY]}")
        if reply.unreadable is not None:
            return Outcome(Result.UNKNOWN, f"it replied in {reply.unreadable}, which is not read")
        said = json.dumps(reply.value, default=str)[:_MOST_OF_A_REPLY]
        return Outcome(Result.DONE, f"it replied: {said}")

    async def on_host(self, action: HostAction) -> None:
        """Have a supervisor start or stop a service. Raise CommandFailed or HostUnreachable."""
        await self._fenced(self._still_ours)
        self.made += 1
        try:
            shell = self._hosts.shell(action.service.host)
        except UsageError as error:
            raise CommandFailed(error.says, fix=error.fix) from error
        completed = await shell.run(action.command, timeout=HOST_TIMEOUT)
        self._hosts.supervisor(action.service.supervisor).read_effect(action.service, completed)

    async def activate(self, host: str, release: str, expect: str | None, timeout: float) -> None:
        """Have a host switch its release. Raise CommandFailed or HostUnreachable."""
        layout = self._hosts.release_layout(host)
        if layout is None:
            raise CommandFailed("How releases are kept is not configured.")
        await self._fenced(self._still_ours)
        self.made += 1
        try:
            command = layout.activate(release, expect=expect)
            shell = self._hosts.shell(host)
        except UsageError as error:
            raise CommandFailed(error.says, fix=error.fix) from error
        layout.read_activated(release, await shell.run(command, timeout=timeout))

    async def run(self, host: str, command: Command, timeout: float) -> Outcome:
        """Run a command of the runbook's; done if it ended with 0, and the last of what it said: of
        one that failed, how it ended comes first, in a line of its own.

        Unknown where its host went away: whether it was begun, and how it ended.
        """
        await self._fenced(self._still_ours)
        self.made += 1
        try:
            completed = await self._hosts.shell(host).run(command, timeout=timeout)
        except HostUnreachable as error:
            return Outcome(Result.UNKNOWN, error.says)
        except (CommandFailed, UsageError) as error:
            return Outcome(Result.FAILED, error.says)
        said = (completed.err if completed.code else completed.out).decode(errors="replace")
        last = "\n".join(said.strip().splitlines()[-5:])
        if completed.code:
            return Outcome(Result.FAILED, f"ended with {completed.code}\n{last}".strip())
        return Outcome(Result.DONE, last or "ended with 0")

    async def restore(self, messages: Sequence[HeldMessage]) -> tuple[GivenBack, ...]:
        """Give held messages back to their queues; what came of each."""
        outcomes: list[GivenBack] = []

        async def give_back(fence: Fence) -> None:
            outcomes.extend(await self._broker.restore(messages, fence=fence))

        self.made += 1
        await self._fenced(give_back)
        return tuple(outcomes)

    async def transfer(
        self,
        transfer: Transfer,
        first: Callable[[], Awaitable[None]],
        then: Callable[[Transferred], Awaitable[None]],
    ) -> None:
        """Move messages; `then` is told after each portion, and may end it by raising. `first` is
        called before the first portion: again where the lease was lost and all begins anew.
        """

        async def send(fence: Fence) -> None:
            await first()
            async with aclosing(self.store.transfer(transfer, fence=fence)) as portions:
                async for portion in portions:
                    await then(portion)

        self.made += 1
        await self._fenced(send)

    async def put(
        self,
        messages: Sequence[StoredMessage],
        *,
        queue: str,
        ticket: str,
        done: int,
        address: str | None,
    ) -> bool:
        """Add messages to a queue; False: others than `done` were put under that ticket before."""
        was_put: list[bool] = []

        async def send(fence: Fence) -> None:
            was_put.append(
                await self.store.put(
                    messages, queue=queue, ticket=ticket, done=done, fence=fence, address=address
                )
            )

        self.made += 1
        await self._fenced(send)
        return was_put[-1]

    async def send_once(
        self, messages: Mapping[str, StoredMessage], *, queue: str
    ) -> frozenset[str]:
        """Send those under whose names nothing was sent before; the names of these."""
        sent: list[frozenset[str]] = []

        async def send(fence: Fence) -> None:
            sent.append(await self.store.send_once(messages, queue=queue, fence=fence))

        self.made += 1
        await self._fenced(send)
        return sent[-1]

    def first_in_line(self) -> FirstInLine:
        """What takes messages before workers can."""
        return self._divider.first_in_line()

    async def divide(self, division: Division) -> Divided:
        """Carry on a portion of what waits in a queue; how many went which way."""
        store = self._divider
        went: list[Divided] = []

        async def send(fence: Fence) -> None:
            went.append(await store.divide(division, fence=fence))

        await self._fenced(send)
        return went[-1]

    @property
    def _divider(self) -> MessageDivider:
        store = self.store
        if not isinstance(store, MessageDivider):
            raise PreconditionFailed("this kind of broker cannot carry messages on one by one")
        return store

    async def drop(self, queue: str, count: int) -> int:
        """Destroy a queue of parked messages if there are just so many; how many there were."""
        dropped: list[int] = []

        async def send(fence: Fence) -> None:
            dropped.append(await self.store.drop(queue, count=count, fence=fence))

        self.made += 1
        await self._fenced(send)
        return dropped[-1]

    async def forget(self, ticket: str) -> None:
        """Nothing more will be moved under it, and nobody will ask how much was."""
        await self._fenced(lambda fence: self.store.forget(ticket, fence=fence))

    async def take(self, kind: str, target: PlannedWorker, *, at_boot: str = "") -> None:
        """Record what is about to be taken, where every operator can see it; `at_boot` is what a
        service loses beside its life.
        """
        record = self.record(kind, target)
        await self.take_down(replace(record, at_boot=at_boot or record.at_boot))

    def unset_at_boot(self, target: PlannedWorker) -> str:
        """How a service is to be set to start at boot when it is started again; empty: as it is."""
        own = self._recorded.get(self.record("service", target).key)
        return target.unset_at_boot if own is None else own.at_boot

    async def take_down(self, record: TakenRecord) -> None:
        """Record that, in place of what was recorded under its key."""
        self.made += 1
        async with self._recording:
            await self._fenced(lambda fence: self._broker.take(record, fence=fence))
            self._recorded[record.key] = record

    async def note_as_meant(self, left: Iterable[TakenRecord]) -> None:
        """So that nobody takes it for what a dead run owes. Without the broker, or the lease, it
        stays as it was: it is a note.
        """
        with suppress(BrokerUnreachable, LeaseLost, LeaseHeld, LeaseBroken):
            for record in left:
                await self.take_down(replace(record, meant=True))

    async def give_back(self, kind: str, target: PlannedWorker) -> None:
        """Remove the record, our own or that of the earlier run that is owed by: the return was
        proved.
        """
        own = self.record(kind, target)
        for record in (own, *(replace(own, run=run) for run in target.debtors)):
            await self.clear(record)

    async def clear(self, record: TakenRecord) -> None:
        """Remove a record: its return was proved, or nothing is owed any more."""
        async with self._recording:
            await self._fenced(lambda fence: self._broker.clear_taken(record, fence=fence))
            self._recorded.pop(record.key, None)

    def recall(self, found: Iterable[TakenRecord]) -> None:
        """These records of this run's were found when it was taken up again."""
        self._recorded.update((record.key, record) for record in found)

    async def remind(self) -> tuple[TakenRecord, ...]:
        """Record once more what the broker has forgotten, and tell what that was.

        A replica that is promoted may not have had the last of what was written, and a server
        that keeps nothing on disk forgets all of it. Raise LeaseLost, and write nothing, without
        the lease; RecordUnreadable.
        """
        if not self._recorded:
            return ()
        async with self._recording:
            known = {record.key for record in await self._broker.taken()}
            forgotten = [one for key, one in self._recorded.items() if key not in known]
            for record in forgotten:
                await self._broker.take(record, fence=self._keeper.fence)
        return tuple(forgotten)

    def record(self, kind: str, target: PlannedWorker) -> TakenRecord:
        """What taking this from the target would be recorded as."""
        return TakenRecord(
            kind=kind,
            worker=target.name,
            incarnation=target.incarnation,
            queues=target.queues or (),
            service=target.service,
            run=self._plan.run,
            operator=self._plan.operator,
            at=self._clock.now(),
            at_boot=target.unset_at_boot if kind == "service" else "",
        )

    def paused(self, worker: Worker, queue: ConsumedQueue) -> TakenRecord:
        """What taking a queue from a worker, since it is paused, is recorded as."""
        return TakenRecord(
            kind=PAUSED,
            worker=worker.name,
            incarnation=worker.incarnation,
            queues=(queue,),
            service=None,
            run=self._plan.run,
            operator=self._plan.operator,
            at=self._clock.now(),
        )

    def held(self, worker: Worker, queue: ConsumedQueue, tasks: tuple[str, ...]) -> TakenRecord:
        """What taking a queue from a worker, since tasks are held, is recorded as."""
        return replace(self.paused(worker, queue), kind=HELD, tasks=tasks)

    async def _still_ours(self, fence: Fence) -> None:
        """The fence was valid a moment ago: enough for effects that are conditional by
        themselves.
        """

    async def _fenced(self, effect: Callable[[Fence], Awaitable[None]]) -> None:
        """Under the lease. A lease lost to nobody is taken again once; nothing was sent without
        it. One that somebody broke is not.
        """
        try:
            await effect(self._keeper.fence)
        except LeaseBroken:
            raise
        except LeaseLost as lost:
            await self._keeper.regain(lost, REGAIN_SECONDS)
            await effect(self._keeper.fence)
