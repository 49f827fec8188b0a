"""The balance of a real fleet: nothing lost by warm restarts, and the loss told after a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from celery_ops import demo as demos
from celery_ops.demo import attempts as books
from celery_ops.demo.layout import WORKERS, Layout
from celery_ops.demo.processes import Process, identify
from celery_ops.errors import OpsError
from tests.demo.conftest import DEADLINE, StartDemo, addresses

pytestmark = pytest.mark.rig


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                if await holds():
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not so within {DEADLINE:.0f} s: {what}")


async def busy(demo: demos.Demo) -> None:
    async def twenty_done() -> bool:
        return (await demos.ledger(demo)).done > 20

    await until(twenty_done, "twenty tasks are done")


async def supervisorctl(demo: demos.Demo, *arguments: str) -> str:
    config = str(Layout(demo.directory).supervisor_config)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "supervisor.supervisorctl", "-c", config, *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return said.decode()


async def main_process(demo: demos.Demo, worker: str) -> Process:
    found = identify(int(await supervisorctl(demo, "pid", worker)))
    assert found is not None
    return found


async def runs_of(demo: demos.Demo, main: Process) -> list[Process]:
    """The processes of a worker, or of its pool, that are in the middle of a task."""
    async with Redis.from_url(addresses(demo).ledger.reveal(), decode_responses=True) as redis:
        runs = await redis.hvals(books.RUNNING)
    processes = (Process.parse(str(run)) for run in runs)
    return [one for one in processes if main.pid in (one.pid, parent(one.pid))]


async def killed_in_a_run(demo: demos.Demo, worker: str, *, pool: bool) -> None:
    """Kill a worker, or a process of its `pool`, in the middle of a task: it is held still first,
    since a task may end while one looks.
    """
    main = await main_process(demo, worker)

    async def killed() -> bool:
        for one in await runs_of(demo, main):
            one.signal(signal.SIGSTOP)
            if one in await runs_of(demo, main):
                (one if pool else main).signal(signal.SIGKILL)
                return True
            one.signal(signal.SIGCONT)
        return False

    await until(killed, f"{worker} runs a task")


def parent(pid: int) -> int | None:
    """Of a living process; proc(5): the second field after the name."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def balanced(ledger: demos.Ledger) -> bool:
    return ledger.settled and ledger.sent == ledger.done + ledger.lost


async def test_warm_restarts_of_all_workers_lose_nothing(start_demo: StartDemo) -> None:
    demo = start_demo()
    await busy(demo)
    for worker in WORKERS:
        before = await main_process(demo, worker.name)
        await supervisorctl(demo, "restart", worker.name)
        assert await main_process(demo, worker.name) != before
    said: list[str] = []
    ledger = await demos.settle(demo, said.append)
    assert balanced(ledger)
    assert ledger.as_json() == {
        "sent": ledger.sent,
        "done": ledger.sent,
        "running": 0,
        "lost": 0,
        "twice": 0,
    }
    assert ledger.unconfirmed == 0
    assert "stay so" in said[0]
    assert "RUNNING" not in await supervisorctl(demo, "status", "producer", "beat")
    # A second balance is the same: nobody has published anything since.
    assert await demos.settle(demo, said.append) == ledger


async def test_a_killed_pool_process_loses_its_task(start_demo: StartDemo) -> None:
    demo = start_demo()
    await busy(demo)
    await killed_in_a_run(demo, "prefork1", pool=True)

    async def told() -> bool:
        return (await demos.ledger(demo)).lost > 0

    await until(told, "the loss is told before the demo settled")
    ledger = await demos.settle(demo, lambda _: None)
    assert balanced(ledger)
    assert ledger.lost > 0


async def test_a_killed_worker_loses_what_ran_and_not_what_it_had_reserved(
    start_demo: StartDemo,
) -> None:
    demo = start_demo()
    await busy(demo)
    await killed_in_a_run(demo, "threads1", pool=False)
    ledger = await demos.settle(demo, lambda _: None)
    assert balanced(ledger)
    # It has two slots: the tasks in them are lost, those waiting behind them are not.
    assert 1 <= ledger.lost + ledger.twice <= 2


async def test_a_queue_without_consumer_is_named_when_the_demo_does_not_settle(
    start_demo: StartDemo,
) -> None:
    demo = start_demo()
    await busy(demo)
    await supervisorctl(demo, "stop", "threads1", "threads2")
    message = {"headers": {"task": "shop.send_mail", "id": "a", "retries": 0}}
    async with Redis.from_url(addresses(demo).broker.reveal()) as redis:
        await redis.lpush("mail", json.dumps(message))
    with pytest.raises(OpsError, match=r"waiting in mail") as caught:
        await demos.settle(demo, lambda _: None, timeout=12)
    assert "producer" not in caught.value.says
    assert demo.name in str(caught.value.fix)


async def test_a_suspended_worker_keeps_the_demo_from_settling(start_demo: StartDemo) -> None:
    demo = start_demo()
    await busy(demo)
    suspended = await main_process(demo, "threads1")
    suspended.signal(signal.SIGSTOP)
    with pytest.raises(OpsError, match=f"process {suspended.pid} is suspended"):
        await demos.settle(demo, lambda _: None, timeout=1)
    suspended.signal(signal.SIGCONT)
    ledger = await demos.settle(demo, lambda _: None)
    assert balanced(ledger)
    assert (ledger.lost, ledger.twice) == (0, 0)
