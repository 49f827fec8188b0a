"""Moves or puts messages on a RabbitMQ, as a process that can be killed: it goes on where it was.

    python -m tests.broker.amqp_mover URL (all | even | put FILE)

`all` and `even` move messages of FROM to TO, `put` puts those of a file (a line of raw each) into
TO, a few at a time. Says `begun` when it has the lease, and ends with 0 when all is done.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.broker.rabbit import address as amqp_address
from celery_ops.broker.rabbit.adapter import RabbitBroker
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from celery_ops.model import StoredMessage
from celery_ops.ports import Transfer
from tests.broker.contract import ANN

if TYPE_CHECKING:
    from celery_ops.ports import Fence

FROM, TO = "mail", "elsewhere"
TICKET = "r-1 1"
A_PORTION = 20


def is_even(message: StoredMessage) -> bool:
    return int((message.id or "id-1").removeprefix("id-")) % 2 == 0


async def main(url: str, what: str, raws: list[bytes]) -> None:
    broker = RabbitBroker(
        amqp_address.parse(Secret(url), {}), {}, clock=SystemClock(), management=None
    )
    fence = await broker.lease.acquire(ANN, takes_over=True)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    if what == "put":
        await put(broker, fence, raws)
    else:
        choose = is_even if what == "even" else None
        transfer = Transfer(TICKET, FROM, TO, choose=choose, address=TO, portion=A_PORTION)
        async with aclosing(broker.store.transfer(transfer, fence=fence)) as portions:
            async for _ in portions:
                pass
    await broker.lease.release(fence)
    await broker.close()


async def put(broker: RabbitBroker, fence: Fence, raws: list[bytes]) -> None:
    done = await broker.store.counted(TICKET)
    for start in range(done, len(raws), A_PORTION):
        some = [StoredMessage(raw) for raw in raws[start : start + A_PORTION]]
        assert await broker.store.put(some, queue=TO, ticket=TICKET, done=start, fence=fence)


if __name__ == "__main__":
    place, act, *files = sys.argv[1:]
    asyncio.run(
        main(place, act, [line for file in files for line in Path(file).read_bytes().splitlines()])
    )
