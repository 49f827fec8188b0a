"""What every `Broker` has to do, real or stand-in.

A subclass gives three fixtures: `broker`; `rival`, another operator's client of the same broker (it
may be the same object where one is shared); and `nodes`, the names of at least two workers that
answer. Where a queue has to be declared before a task can be sent there, it gives `unconsumed` too.

`AskingContract` and `RefusingContract` are for brokers that can be watched and no more: the first
where workers can be asked, too.

`HoldingContract` is for brokers that keep what a dead worker held: `abandon` leaves a message in a
queue's name as a killed worker does and tells its task's id.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable, LeaseHeld, LeaseLost, PreconditionFailed
from celery_ops.model import (
    ConsumedQueue,
    HeldMessage,
    Holder,
    Incarnation,
    RunRecord,
    ServiceRef,
    TakenRecord,
    Targets,
    TaskMessage,
)
from celery_ops.ports import CancelConsumer, Control, Fence, GivenBack, Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.ports import Broker

ANN = Holder("ann@bastion", "r-1", "rolling-restart", datetime(2026, 11, 20, 3, 0, tzinfo=UTC))
BOB = Holder("bob@laptop", "r-2", "drain-worker", datetime(2026, 11, 20, 3, 5, tzinfo=UTC))
TAKEN = TakenRecord(
    kind="queues",
    worker="w1@lab",
    incarnation=Incarnation("w1@lab", 4711, datetime(2026, 11, 20, 2, 0, tzinfo=UTC)),
    queues=(ConsumedQueue("mail", '{"name": "mail", "queue_arguments": {"x-max-priority": 9}}'),),
    service=None,
    run="r-1",
    operator="ann@bastion",
    at=datetime(2026, 11, 20, 3, 0, 1, 250_000, tzinfo=UTC),
)
STOPPED = replace(
    TAKEN,
    kind="service",
    incarnation=None,
    queues=(),
    service=ServiceRef("web1", "systemd", "celery-worker@1.service", worker="w1@lab"),
)
HOSTILE = replace(
    TAKEN,
    worker='[bold red]x[/]\x1b[31m"\\\n{{}}\ud800\x00é漢' + "x" * 10_000,
    queues=(ConsumedQueue("\x06\x16'); DROP", "[]"), ConsumedQueue("", "")),
    operator="../../etc/passwd",
)
NOW = datetime(2026, 11, 20, 3, 9, tzinfo=UTC)
RUN = RunRecord("r-1", "rolling-restart", "ann@bastion", (("batch", "25%"),), ANN.since)
NOBODY = Fence("0" * 32)
PING = TaskMessage("id-0", "app.ping", "unconsumed", NOW + timedelta(days=3650), "celery-ops")


async def held(broker: Broker, *ids: str) -> tuple[HeldMessage, ...]:
    """These tasks' messages as the broker tells of them now, in the order of `ids`."""
    found = {one.task_id: one for one in (await broker.queues(["left"])).unacked or ()}
    return tuple(
        HeldMessage(one.tag, one.task_id, one.task, one.queue, one.since)
        for one in (found[id_] for id_ in ids)
    )


async def sizes(broker: Broker, queue: str) -> tuple[int, int | None]:
    """Ready and held messages of a queue."""
    reading = await broker.queues([queue])
    (found,) = (one for one in reading.queues if one.name == queue)
    return found.ready, found.unacked


async def waiting(broker: Broker, queue: str) -> int:
    """Ready messages of a queue of which nobody holds any, as far as the broker tells."""
    ready, held = await sizes(broker, queue)
    assert held in {0, None}
    return ready


class AskingContract:
    """Tests that hold wherever workers can be asked."""

    async def test_everybody_answers_a_question(self, broker: Broker, nodes: list[str]) -> None:
        asked = await broker.ask([Question.PING, Question.STATS], to=None, timeout=10.0)
        for question in (Question.PING, Question.STATS):
            assert sorted(reply.node for reply in asked.replies[question]) == sorted(nodes)
        assert asked.complete
        assert asked.asked_at <= asked.ended_at

    async def test_only_those_who_are_named_answer(self, broker: Broker, nodes: list[str]) -> None:
        asked = await broker.ask([Question.ACTIVE], to=Targets((nodes[0],)), timeout=10.0)
        assert [reply.node for reply in asked.replies[Question.ACTIVE]] == [nodes[0]]
        assert asked.complete

    async def test_a_name_that_nobody_has_does_not_answer(
        self, broker: Broker, nodes: list[str]
    ) -> None:
        asked = await broker.ask([Question.PING], to=Targets(("nobody@lab",)), timeout=0.2)
        assert asked.replies[Question.PING] == ()
        assert not asked.complete
        assert "nobody@lab" not in nodes

    async def test_nodes_are_known_by_name(self, broker: Broker, nodes: list[str]) -> None:
        bound = await broker.nodes()
        assert bound is None or set(nodes) <= bound

    async def test_a_queue_that_is_asked_for_has_a_size(
        self, broker: Broker, nodes: list[str]
    ) -> None:
        reading = await broker.queues(["empty-queue"])
        sizes = {queue.name: queue.ready for queue in reading.queues}
        assert sizes["empty-queue"] == 0
        assert nodes


class RefusingContract:
    """Tests that hold where neither a lease nor a record can be kept: nothing is ever changed."""

    async def test_it_says_why_no_run_can_change_anything(self, broker: Broker) -> None:
        assert "only watch" in broker.refuses_runs
        assert broker.store is None

    async def test_nobody_gets_the_lease(self, broker: Broker) -> None:
        for takes_over in (False, True):
            with pytest.raises(PreconditionFailed) as refused:
                await broker.lease.acquire(ANN, takes_over=takes_over)
            assert broker.refuses_runs in refused.value.says
            assert "--emergency" in str(refused.value.fix)
        with pytest.raises(LeaseLost):
            await broker.lease.renew(NOBODY)
        await broker.lease.release(NOBODY)
        assert await broker.holder() is None
        assert not await broker.break_lease(ANN, RUN)

    async def test_nothing_is_done_without_it(self, broker: Broker) -> None:
        to = Targets(("w1@lab",))
        for effect in (
            broker.order(CancelConsumer("celery"), to=to, fence=NOBODY, timeout=1.0),
            broker.send(PING, fence=NOBODY),
            broker.take(TAKEN, fence=NOBODY),
            broker.clear_taken(TAKEN, fence=NOBODY),
            broker.restore((), fence=NOBODY),
        ):
            with pytest.raises(LeaseLost):
                await effect
        assert await broker.taken() == ()
        assert await broker.ahead_of(PING) is None

    async def test_no_run_is_noted(self, broker: Broker) -> None:
        with pytest.raises(PreconditionFailed):
            await broker.note_run(RUN)
        assert await broker.noted_runs() == ()

    async def test_nobody_listens(self, broker: Broker) -> None:
        with pytest.raises(BrokerUnreachable):
            await anext(aiter(broker.heartbeats()))
        with pytest.raises(PreconditionFailed):
            broker.follow(PING.id)


class BrokerContract(AskingContract):
    """Tests that hold for every broker on which runs can change something."""

    @pytest.fixture
    def unconsumed(self) -> str:
        """The name of an empty queue that nobody consumes."""
        return PING.queue

    async def test_runs_are_not_refused(self, broker: Broker) -> None:
        assert broker.refuses_runs == ""

    async def test_an_order_reaches_whom_it_names(self, broker: Broker, nodes: list[str]) -> None:
        fence = await broker.lease.acquire(ANN)
        replies = await broker.order(
            CancelConsumer("no-such-queue"), to=Targets((nodes[0],)), fence=fence, timeout=10.0
        )
        assert [reply.node for reply in replies] == [nodes[0]]
        assert replies[0].error is None

    async def test_an_order_that_a_worker_does_not_know_is_an_error(
        self, broker: Broker, nodes: list[str]
    ) -> None:
        fence = await broker.lease.acquire(ANN)
        replies = await broker.order(
            Control("no_such_command"), to=Targets((nodes[0],)), fence=fence, timeout=10.0
        )
        assert [reply.error for reply in replies] == ["KeyError('no_such_command')"]

    async def test_an_order_without_the_lease_is_not_sent(
        self, broker: Broker, nodes: list[str]
    ) -> None:
        with pytest.raises(LeaseLost):
            await broker.order(
                CancelConsumer("celery"), to=Targets((nodes[0],)), fence=NOBODY, timeout=1.0
            )
        asked = await broker.ask([Question.ACTIVE_QUEUES], to=Targets((nodes[0],)), timeout=10.0)
        assert asked.replies[Question.ACTIVE_QUEUES][0].value != []

    async def test_the_lease_is_held_by_one(self, broker: Broker, rival: Broker) -> None:
        await broker.lease.acquire(ANN)
        with pytest.raises(LeaseHeld) as refused:
            await rival.lease.acquire(BOB)
        for told in ("ann@bastion", "r-1", "rolling-restart", "03:00:00"):
            assert told in refused.value.says
        assert await rival.holder() == ANN

    async def test_of_many_who_want_the_lease_one_gets_it(
        self, broker: Broker, rival: Broker
    ) -> None:
        wanted = [one.lease.acquire(BOB) for one in (broker, rival) * 5]
        got = await asyncio.gather(*wanted, return_exceptions=True)
        assert sum(isinstance(one, Fence) for one in got) == 1
        assert sum(isinstance(one, LeaseHeld) for one in got) == 9

    async def test_a_lease_that_was_given_up_is_free(self, broker: Broker, rival: Broker) -> None:
        fence = await broker.lease.acquire(ANN)
        await broker.lease.release(fence)
        assert await rival.holder() is None
        await rival.lease.acquire(BOB)
        with pytest.raises(LeaseLost):
            await broker.lease.renew(fence)

    async def test_giving_up_a_lease_that_was_lost_harms_nobody(
        self, broker: Broker, rival: Broker
    ) -> None:
        await rival.lease.acquire(BOB)
        await broker.lease.release(NOBODY)
        assert await broker.holder() == BOB

    async def test_a_lease_can_be_renewed(self, broker: Broker) -> None:
        assert broker.lease.ttl > 0
        fence = await broker.lease.acquire(ANN)
        await broker.lease.renew(fence)
        assert await broker.holder() == ANN

    async def test_a_renewal_tells_where_the_run_is(self, broker: Broker, rival: Broker) -> None:
        fence = await broker.lease.acquire(ANN)
        there = replace(ANN, step="2.1: drain w1@lab")
        await broker.lease.renew(fence, there)
        assert await rival.holder() == there
        with pytest.raises(LeaseHeld, match=r"2\.1: drain w1@lab"):
            await rival.lease.acquire(BOB)
        await broker.lease.renew(fence)
        assert await rival.holder() == there

    async def test_a_broken_lease_is_nobodys_and_it_is_told_who_broke_it(
        self, broker: Broker, rival: Broker
    ) -> None:
        fence = await broker.lease.acquire(ANN)
        await broker.lease.renew(fence, replace(ANN, step="1"))
        broken = replace(RUN, broken_by="bob@laptop")
        assert await rival.break_lease(ANN, broken)
        assert await broker.noted_runs() == (broken,)
        assert await broker.holder() is None
        with pytest.raises(LeaseLost):
            await broker.take(TAKEN, fence=fence)
        assert await broker.taken() == ()

    async def test_only_the_lease_that_was_looked_at_is_broken(
        self, broker: Broker, rival: Broker
    ) -> None:
        broken = replace(RUN, broken_by="bob@laptop")
        assert not await rival.break_lease(ANN, broken)
        await broker.lease.acquire(ANN)
        for other in (
            replace(ANN, run="r-9"),
            replace(ANN, operator="ann@elsewhere"),
            replace(ANN, since=NOW),
        ):
            assert not await rival.break_lease(other, broken)
        assert await broker.holder() == ANN
        assert await broker.noted_runs() == ()

    @pytest.mark.parametrize("record", [TAKEN, STOPPED, HOSTILE], ids=["queues", "service", "odd"])
    async def test_what_is_taken_is_seen_by_everybody_until_it_is_cleared(
        self, broker: Broker, rival: Broker, record: TakenRecord
    ) -> None:
        fence = await broker.lease.acquire(ANN)
        assert await rival.taken() == ()
        await broker.take(record, fence=fence)
        assert await rival.taken() == (record,)
        await broker.clear_taken(record, fence=fence)
        assert await rival.taken() == ()

    async def test_runs_are_noted_for_everybody_newest_first(
        self, broker: Broker, rival: Broker
    ) -> None:
        ended = replace(RUN, ended_at=NOW, state="failed", says="w1: did not come back")
        for record in (RUN, replace(RUN, run="r-9"), ended):
            await broker.note_run(record)
        assert await rival.noted_runs() == (replace(RUN, run="r-9"), ended)

    async def test_what_another_run_has_taken_stays(self, broker: Broker) -> None:
        fence = await broker.lease.acquire(ANN)
        later = replace(TAKEN, run="r-9")
        await broker.take(later, fence=fence)
        await broker.clear_taken(TAKEN, fence=fence)
        assert await broker.taken() == (later,)

    async def test_the_lease_of_the_same_run_is_taken_over_by_its_next_executor(
        self, broker: Broker, rival: Broker
    ) -> None:
        dead = await rival.lease.acquire(ANN)
        for other in (replace(ANN, run="r-9"), replace(ANN, operator="ann@elsewhere")):
            with pytest.raises(LeaseHeld):
                await broker.lease.acquire(other, takes_over=True)
        fence = await broker.lease.acquire(ANN, takes_over=True)
        await broker.lease.renew(fence)
        with pytest.raises(LeaseLost):
            await rival.lease.renew(dead)

    async def test_one_record_a_kind_and_worker_is_kept(self, broker: Broker) -> None:
        fence = await broker.lease.acquire(ANN)
        later = replace(TAKEN, run="r-9")
        for record in (TAKEN, STOPPED, later):
            await broker.take(record, fence=fence)
        assert set(await broker.taken()) == {later, STOPPED}

    async def test_nothing_is_taken_or_cleared_without_the_lease(self, broker: Broker) -> None:
        fence = await broker.lease.acquire(ANN)
        await broker.take(TAKEN, fence=fence)
        with pytest.raises(LeaseLost):
            await broker.take(STOPPED, fence=NOBODY)
        with pytest.raises(LeaseLost):
            await broker.clear_taken(TAKEN, fence=NOBODY)
        assert await broker.taken() == (TAKEN,)

    @pytest.mark.usefixtures("unconsumed")
    async def test_a_task_that_is_sent_waits_behind_all_others(
        self, broker: Broker, rival: Broker
    ) -> None:
        fence = await broker.lease.acquire(ANN)
        first, second = (replace(PING, id=id_) for id_ in ("id-1", "id-2"))
        for message in (first, second):
            await broker.send(message, fence=fence)
        assert await waiting(broker, PING.queue) == 2
        ahead = [await rival.ahead_of(one) for one in (first, second)]
        assert ahead in ([0, 1], [None, None]), "told, or said to be unknown"
        assert await broker.ahead_of(replace(PING, id="id-3")) is None

    @pytest.mark.usefixtures("unconsumed")
    async def test_one_that_is_sent_first_goes_before_what_waits_where_that_is_possible(
        self, broker: Broker
    ) -> None:
        fence = await broker.lease.acquire(ANN)
        first, second = (replace(PING, id=id_, first=True) for id_ in ("id-1", "id-2"))
        for message in (replace(PING, id="id-0"), first, second):
            await broker.send(message, fence=fence)
        ahead = [await broker.ahead_of(one) for one in (second, first)]
        assert ahead == ([0, 1] if broker.serves_first else [None, None])

    @pytest.mark.usefixtures("unconsumed")
    async def test_no_task_is_sent_without_the_lease(self, broker: Broker) -> None:
        with pytest.raises(LeaseLost):
            await broker.send(PING, fence=NOBODY)
        assert await waiting(broker, PING.queue) == 0
        assert await broker.ahead_of(PING) is None

    @pytest.mark.usefixtures("unconsumed")
    async def test_of_a_task_that_nobody_runs_nothing_is_heard(self, broker: Broker) -> None:
        fence = await broker.lease.acquire(ANN)
        async with broker.follow(PING.id) as followed:
            await broker.send(PING, fence=fence)
            assert await followed.news(0.1) == ()
            assert await followed.news(0.0) == ()


class HoldingContract(BrokerContract):
    """Tests for brokers where a message stays with a dead worker until somebody gives it back."""

    async def test_held_messages_go_back_to_the_queue_they_came_from(
        self, broker: Broker, abandon: Callable[[str], str]
    ) -> None:
        messages = await held(broker, abandon("left"), abandon("left"))
        assert await sizes(broker, "left") == (0, 2)
        fence = await broker.lease.acquire(ANN)
        assert await broker.restore(messages, fence=fence) == (GivenBack.DONE, GivenBack.DONE)
        assert await sizes(broker, "left") == (2, 0)

    async def test_what_was_given_back_is_not_given_back_again(
        self, broker: Broker, rival: Broker, abandon: Callable[[str], str]
    ) -> None:
        messages = await held(broker, abandon("left"))
        fence = await broker.lease.acquire(ANN)
        await broker.restore(messages, fence=fence)
        assert await rival.restore(messages, fence=fence) == (GivenBack.GONE,)
        assert await broker.restore(messages * 2, fence=fence) == (GivenBack.GONE, GivenBack.GONE)
        assert await sizes(broker, "left") == (1, 0)

    async def test_a_message_that_was_delivered_again_meanwhile_stays_with_whom_it_is(
        self, broker: Broker, abandon: Callable[[str], str]
    ) -> None:
        (message,) = await held(broker, abandon("left"))
        earlier = replace(message, since=message.since - timedelta(microseconds=1))
        fence = await broker.lease.acquire(ANN)
        assert await broker.restore([earlier], fence=fence) == (GivenBack.GONE,)
        assert await sizes(broker, "left") == (0, 1)

    async def test_nothing_is_given_back_without_the_lease(
        self, broker: Broker, abandon: Callable[[str], str]
    ) -> None:
        messages = await held(broker, abandon("left"))
        with pytest.raises(LeaseLost):
            await broker.restore(messages, fence=NOBODY)
        assert await sizes(broker, "left") == (0, 1)
