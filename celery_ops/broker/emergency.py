"""A broker port for when the broker is down or full: it knows nothing, reaches nobody, and lets a
run that needs neither go on.

The lease is a lock file on this machine: nobody elsewhere is kept out, and nobody sees what is
taken. Whoever uses this has said so loudly.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from celery_ops.broker import records
from celery_ops.errors import BrokerUnreachable, LeaseHeld, LeaseLost, RecordUnreadable, UsageError
from celery_ops.ports import Fence, GivenBack, QueuesReading, Round

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from celery_ops.model import (
        Heartbeat,
        HeldMessage,
        Holder,
        RunRecord,
        TakenRecord,
        Targets,
        TaskMessage,
    )
    from celery_ops.ports import (
        Broker,
        Clock,
        Followed,
        Lease,
        Order,
        Question,
        Reply,
    )

_FENCE = Fence("this machine's lock")
_NO_BROKER = "This run goes on without a broker (--emergency)."


class LockFile:
    """The lease of a context on this machine alone. It is free when its process is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    @property
    def ttl(self) -> float:
        return 60.0

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        del takes_over  # the lock of a process that is gone is free
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            by = self.holder()
            raise LeaseHeld(f"{by}." if by else "Somebody else works on it here.") from error
        os.ftruncate(file, 0)
        os.pwrite(file, records.encode_lease(holder, _FENCE.token).encode(), 0)
        self._file = file
        return _FENCE

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        if self._file is None or fence != _FENCE:
            raise LeaseLost("The lock of this machine is not held.")
        if holder is not None:
            text = records.encode_lease(holder, _FENCE.token).encode()
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))

    async def release(self, fence: Fence) -> None:
        if self._file is not None and fence == _FENCE:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def holder(self) -> Holder | None:
        """Who holds it now, as far as that can be read."""
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            try:
                return records.decode_lease(os.pread(file, 100_000, 0))
            except RecordUnreadable:
                return None
        finally:
            os.close(file)
        return None

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}") from error


class NoBroker:
    """Stands in for `instead_of`, which cannot be used. Implements `ports.Broker`."""

    def __init__(self, instead_of: Broker, lock: Path, clock: Clock) -> None:
        self._instead_of = instead_of
        self._lease = LockFile(lock)
        self._clock = clock
        self._taken: dict[str, TakenRecord] = {}

    @property
    def address(self) -> str:
        return self._instead_of.address

    @property
    def identity(self) -> str:
        return self._instead_of.identity

    @property
    def lease(self) -> Lease:
        return self._lease

    async def heartbeats(self) -> AsyncIterator[Heartbeat]:
        raise BrokerUnreachable(_NO_BROKER)
        yield

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        del to, timeout, known
        now = self._clock.now()
        return Round(now, now, dict.fromkeys(questions, ()), None, complete=False)

    async def nodes(self) -> frozenset[str] | None:
        return None

    async def queues(self, known: Collection[str]) -> QueuesReading:
        del known
        return QueuesReading(self._clock.now(), (), None, (_NO_BROKER,))

    async def ahead_of(self, message: TaskMessage) -> int | None:
        del message
        return None

    def follow(self, task: str) -> AbstractAsyncContextManager[Followed]:
        del task
        raise BrokerUnreachable(_NO_BROKER)

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        del message, fence
        raise BrokerUnreachable(_NO_BROKER)

    async def taken(self) -> tuple[TakenRecord, ...]:
        return tuple(self._taken.values())

    async def holder(self) -> Holder | None:
        return self._lease.holder()

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        del order, to, fence, timeout
        raise BrokerUnreachable(_NO_BROKER)

    async def take(self, record: TakenRecord, *, fence: Fence) -> None:
        await self._lease.renew(fence)
        self._taken[record.key] = record

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        await self._lease.renew(fence)
        self._taken.pop(record.key, None)

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        del messages, fence
        raise BrokerUnreachable(_NO_BROKER)

    async def note_run(self, record: RunRecord) -> None:
        del record
        raise BrokerUnreachable(_NO_BROKER)

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        return ()

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        del holder, record
        return False

    async def close(self) -> None:
        await self._instead_of.close()
