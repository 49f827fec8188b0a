"""The simulated fleet itself: what it simulates, it must simulate right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from celery_ops.errors import BrokerFull, CommandFailed, HostUnreachable, LeaseHeld, LeaseLost
from celery_ops.fleet import replies
from celery_ops.model import Holder, ServiceState, Targets
from celery_ops.ports import AddConsumer, CancelConsumer, Control, Fence, Question
from tests.standin.broker import StandinBroker
from tests.standin.clock import TimeIsUp, VirtualClock
from tests.standin.fleet import Faults, Phase, SimulatedWorker, StandinFleet
from tests.standin.hosts import StandinHosts


@dataclass
class World:
    clock: VirtualClock = field(default_factory=VirtualClock)
    fleet: StandinFleet = field(init=False)
    broker: StandinBroker = field(init=False)
    hosts: StandinHosts = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = StandinFleet(self.clock)
        self.broker = StandinBroker(self.fleet)
        self.hosts = StandinHosts(self.fleet)

    async def fence(self) -> Fence:
        return await self.broker.lease.acquire(self.holder())

    def holder(self, run: str = "r1") -> Holder:
        return Holder("me@here", run, "drain-worker", self.clock.now())

    async def supervise(
        self, worker: SimulatedWorker, verb: str, expect: str | None = None
    ) -> None:
        assert worker.service is not None
        ref = worker.service.ref
        supervisor = self.hosts.supervisor(ref.supervisor)
        command = supervisor.start(ref) if verb == "start" else supervisor.stop(ref, expect=expect)
        completed = await self.hosts.shell(ref.host).run(command, timeout=5.0)
        supervisor.read_effect(ref, completed)


@pytest.fixture
def world() -> World:
    return World()


async def test_time_passes_only_while_everybody_sleeps(world: World) -> None:
    order = []

    async def sleeper(seconds: float) -> None:
        await world.clock.sleep(seconds)
        order.append((seconds, world.clock.elapsed))

    await asyncio.gather(sleeper(3600.0), sleeper(1.0), sleeper(60.0))
    assert order == [(1.0, 1.0), (60.0, 60.0), (3600.0, 3600.0)]


async def test_a_task_that_is_still_busy_holds_time_back(world: World) -> None:
    async def busy() -> float:
        for _ in range(500):
            await asyncio.sleep(0)
        return world.clock.elapsed

    asleep = asyncio.create_task(world.clock.sleep(1.0))
    assert await busy() == 0.0
    await asleep


async def test_waiting_for_what_never_happens_ends() -> None:
    clock = VirtualClock(limit=100.0)
    await clock.sleep(90.0)
    with pytest.raises(TimeIsUp):
        await clock.sleep(30.0)


async def test_every_message_is_run_exactly_once(world: World) -> None:
    world.fleet.add_worker("a@h", concurrency=2)
    world.fleet.add_worker("b@h", concurrency=1)
    for _ in range(30):
        world.fleet.send("default", 0.7)
    await world.clock.sleep(60.0)
    world.fleet.settle()
    assert sum(world.fleet.ledger.ended.values()) == 30
    assert not world.fleet.ledger.twice
    assert not world.fleet.lost


async def test_a_cancelled_consumer_works_off_what_it_prefetched(world: World) -> None:
    worker = world.fleet.add_worker("a@h", concurrency=1)
    for _ in range(10):
        world.fleet.send("default", 1.0)
    fence = await world.fence()
    to = Targets(("a@h",))
    await world.broker.order(CancelConsumer("default"), to=to, fence=fence, timeout=1.0)
    await world.clock.sleep(30.0)
    world.fleet.settle()
    assert worker.processed == 4
    assert len(world.fleet.queues["default"]) == 6


async def test_an_added_consumer_takes_messages_again(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    fence, to = await world.fence(), Targets(("a@h",))
    before = (await world.broker.ask([Question.ACTIVE_QUEUES], to=to, timeout=1.0)).replies
    await world.broker.order(CancelConsumer("default"), to=to, fence=fence, timeout=1.0)
    assert not worker.consuming
    consumed = replies.consumed(before[Question.ACTIVE_QUEUES][0])
    assert consumed is not None
    await world.broker.order(AddConsumer(consumed[0]), to=to, fence=fence, timeout=1.0)
    assert list(worker.consuming) == ["default"]


async def test_a_warm_stop_ends_running_tasks_and_gives_the_rest_back(world: World) -> None:
    worker = world.fleet.add_worker("a@h", concurrency=2)
    for _ in range(6):
        world.fleet.send("default", 5.0)
    world.fleet.send("default", eta=3600.0)
    await world.supervise(worker, "stop")
    assert worker.phase is Phase.STOPPING
    assert "a@h" not in world.fleet.bound
    assert len(world.fleet.queues["default"]) == 5
    await world.clock.sleep(6.0)
    world.fleet.settle()
    assert worker.service is not None
    assert worker.service.state is ServiceState.STOPPED
    assert worker.service.clean_exit is True
    assert len(world.fleet.ledger.ended) == 2
    assert not world.fleet.lost


async def test_a_start_is_a_new_incarnation_after_a_while(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    before = worker.pid
    await world.supervise(worker, "stop")
    await world.clock.sleep(2.0)
    await world.supervise(worker, "start")
    assert world.fleet.consumers("default") == 0
    await world.clock.sleep(3.0)
    assert world.fleet.consumers("default") == 1
    assert worker.pid not in (None, before)


async def test_a_stop_planned_against_another_life_does_nothing(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    with pytest.raises(CommandFailed, match="another life"):
        await world.supervise(worker, "stop", expect="an earlier one")
    assert worker.phase is Phase.UP


async def test_a_kill_loses_what_ran_and_leaves_the_rest_stuck(world: World) -> None:
    worker = world.fleet.add_worker("a@h", concurrency=1, host=None)
    for _ in range(3):
        world.fleet.send("default", 60.0)
    world.fleet.kill(worker)
    assert len(world.fleet.lost) == 3
    assert "a@h" in world.fleet.bound


async def test_a_stop_that_signals_the_children_loses_running_tasks_cleanly(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    assert worker.service is not None
    worker.service.signals_children = True
    world.fleet.send("default", 60.0)
    await world.supervise(worker, "stop")
    await world.clock.sleep(1.0)
    assert len(world.fleet.lost) == 1
    assert worker.service.clean_exit is True


async def test_a_stop_beyond_its_grace_ends_in_sigkill(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    assert worker.service is not None
    worker.service.stop_grace = 10.0
    world.fleet.send("default", 60.0)
    await world.supervise(worker, "stop")
    await world.clock.sleep(11.0)
    assert len(world.fleet.lost) == 1
    assert worker.service.clean_exit is False


@pytest.mark.parametrize(
    ("faults", "answers"),
    [
        (Faults(never_replies=True), 0),
        (Faults(hangs=True), 0),
        (Faults(silent_to=frozenset({Question.RESERVED})), 1),
    ],
    ids=["never-replies", "hangs", "reserved-silent"],
)
async def test_a_round_waits_for_the_deaf_until_its_deadline(
    world: World, faults: Faults, answers: int
) -> None:
    world.fleet.add_worker("a@h", faults=faults)
    round_ = await world.broker.ask([Question.PING, Question.RESERVED], to=None, timeout=1.0)
    assert not round_.complete
    assert round_.expected == 1
    assert len(round_.replies[Question.PING]) == answers
    assert world.clock.elapsed == pytest.approx(1.0)


async def test_a_busy_solo_worker_answers_when_its_task_has_ended(world: World) -> None:
    world.fleet.add_worker("a@h", pool="solo", concurrency=1)
    world.fleet.send("default", 0.5)
    round_ = await world.broker.ask([Question.PING], to=None, timeout=2.0)
    assert round_.complete
    assert world.clock.elapsed == pytest.approx(0.5, abs=0.01)


async def test_an_ignored_cancel_is_acknowledged(world: World) -> None:
    worker = world.fleet.add_worker("a@h", faults=Faults(ignores_cancel=True))
    fence = await world.fence()
    order, to = CancelConsumer("default"), Targets(("a@h",))
    given = await world.broker.order(order, to=to, fence=fence, timeout=1.0)
    assert [reply.value for reply in given] == [{"ok": "no longer consuming from default"}]
    assert list(worker.consuming) == ["default"]


@pytest.mark.parametrize(
    ("faults", "state"),
    [
        (Faults(does_not_come_back=True), ServiceState.RUNNING),
        (Faults(dies_at_start=True), ServiceState.FAILED),
    ],
    ids=["runs-without-a-worker", "dies"],
)
async def test_a_worker_that_does_not_come_back(
    world: World, faults: Faults, state: ServiceState
) -> None:
    worker = world.fleet.add_worker("a@h")
    await world.supervise(worker, "stop")
    await world.clock.sleep(2.0)
    worker.faults = faults
    await world.supervise(worker, "start")
    await world.clock.sleep(60.0)
    world.fleet.settle()
    assert worker.phase is not Phase.UP
    assert worker.service is not None
    assert worker.service.state is state


async def test_a_remote_shutdown_of_a_supervised_worker_is_a_restart(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    before = worker.pid
    to, fence = Targets(("a@h",)), await world.fence()
    given = await world.broker.order(Control("shutdown"), to=to, fence=fence, timeout=1.0)
    await world.clock.sleep(5.0)
    world.fleet.settle()
    assert given == ()
    assert worker.phase is Phase.UP
    assert worker.pid != before


async def test_a_lease_keeps_others_out_until_it_expires(world: World) -> None:
    fence = await world.fence()
    with pytest.raises(LeaseHeld, match="me@here runs drain-worker"):
        await world.broker.lease.acquire(world.holder("r2"))
    await world.clock.sleep(world.broker.lease.ttl + 1.0)
    await world.broker.lease.acquire(world.holder("r2"))
    with pytest.raises(LeaseLost):
        await world.broker.lease.renew(fence)


async def test_an_order_under_a_lost_lease_does_nothing(world: World) -> None:
    worker = world.fleet.add_worker("a@h")
    fence = await world.fence()
    world.broker.lease.steal(world.holder("r2"))
    order, to = CancelConsumer("default"), Targets(("a@h",))
    with pytest.raises(LeaseLost):
        await world.broker.order(order, to=to, fence=fence, timeout=1.0)
    assert list(worker.consuming) == ["default"]
    assert world.broker.orders == []


async def test_a_full_broker_can_be_read_and_not_written(world: World) -> None:
    world.fleet.add_worker("a@h")
    world.broker.is_full = True
    assert (await world.broker.ask([Question.PING], to=None, timeout=1.0)).complete
    with pytest.raises(BrokerFull):
        await world.fence()


async def test_heartbeats_come_every_two_seconds_and_a_goodbye_at_the_stop(world: World) -> None:
    worker = world.fleet.add_worker("a@h", host=None)
    heard = []
    async for heartbeat in world.broker.heartbeats():
        heard.append((world.clock.elapsed, heartbeat.online))
        if len(heard) == 3:
            world.fleet.warm_stop(worker)
        if not heartbeat.online:
            break
    assert [at for at, _ in heard[:3]] == [0.0, 2.0, 4.0]
    assert heard[-1][1] is False


async def test_a_hanging_host_takes_the_whole_timeout(world: World) -> None:
    worker = world.fleet.add_worker("a@web1")
    world.hosts.hanging.add("web1")
    with pytest.raises(HostUnreachable):
        await world.supervise(worker, "stop")
    assert world.clock.elapsed == pytest.approx(5.0)


async def test_the_fewest_consumers_of_a_queue_are_remembered(world: World) -> None:
    a = world.fleet.add_worker("a@h")
    world.fleet.add_worker("b@h")
    world.fleet.watch_consumers()
    await world.supervise(a, "stop")
    await world.clock.sleep(2.0)
    await world.supervise(a, "start")
    await world.clock.sleep(5.0)
    assert world.fleet.consumers("default") == 2
    assert world.fleet.least_consumers == {"default": 1}
