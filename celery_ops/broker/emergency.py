"""A broker port for when the broker is down or full: it knows nothing, reaches nobody, and lets a
run that needs neither go on.

The lease is a lock file on this machine: nobody elsewhere is kept out. What is taken is kept in a
file beside it, which nobody elsewhere sees until the broker is back and it is handed over. Whoever
uses this has said so loudly.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from celery_ops.broker import records
from celery_ops.errors import (
    BrokerFull,
    BrokerUnreachable,
    LeaseHeld,
    LeaseLost,
    RecordUnreadable,
    UsageError,
)
from celery_ops.ports import Fence, GivenBack, QueuesReading, Round

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from celery_ops.model import (
        Heartbeat,
        HeldMessage,
        Holder,
        PeriodicTask,
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
        MessageReading,
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
            self.close()

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

    def close(self) -> None:
        """Let go of it, as the end of the process does."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot write {self._path}: {error.strerror}") from error


class KeptRecords:
    """What is taken, in a file: a record a line, as a broker keeps them. Whoever writes holds the
    lock beside it.
    """

    def __init__(self, lock: Path) -> None:
        self._path = lock.with_suffix(".taken")

    def read(self) -> tuple[TakenRecord, ...]:
        """Raise RecordUnreadable, which names the file."""
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise RecordUnreadable(f"cannot read {self._path}: {error}") from error
        try:
            return tuple(records.decode_taken(line) for line in lines)
        except RecordUnreadable as error:
            raise RecordUnreadable(f"{self._path}: {error.says}") from error

    def put(self, record: TakenRecord) -> None:
        """In place of any other of the same kind and worker."""
        self._write([*(one for one in self.read() if one.key != record.key), record])

    def remove(self, record: TakenRecord) -> None:
        """That of the same kind, worker and run."""
        self._write(one for one in self.read() if (one.key, one.run) != (record.key, record.run))

    def _write(self, kept: Iterable[TakenRecord]) -> None:
        """Durable and whole, or not at all: an executor may die here as anywhere."""
        lines = "".join(records.encode_taken(one) + "\n" for one in kept)
        draft = self._path.with_suffix(".taken-draft")
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "w") as opened:
                opened.write(lines)
                opened.flush()
                os.fsync(file)
            draft.replace(self._path)
        except OSError as error:
            raise BrokerFull(f"cannot write {self._path}: {error.strerror}") from error


async def hand_over(
    broker: Broker, lock: Path, holder: Holder, *, is_over: Callable[[str], bool]
) -> tuple[TakenRecord, ...]:
    """Write down in a broker that is back what emergencies on this machine have left taken.

    From there it is seen, and given back, as anything that is taken. What is taken by a run that is
    not over, and can be gone on with, stays with it. Raise BrokerUnreachable, or LeaseHeld while
    somebody works there or in an emergency here.
    """
    kept = KeptRecords(lock)
    if not any(is_over(record.run) for record in kept.read()):
        return ()
    lease = LockFile(lock)
    await lease.acquire(holder)
    try:
        fence = await broker.lease.acquire(holder)
        try:
            handed_over = tuple(one for one in kept.read() if is_over(one.run))
            for record in handed_over:
                await broker.take(record, fence=fence)
                kept.remove(record)
        finally:
            await broker.lease.release(fence)
    finally:
        await lease.release(_FENCE)
    return handed_over


class NoBroker:
    """Stands in for `instead_of`, which cannot be used. Implements `ports.Broker`."""

    refuses_runs = ""
    serves_first = False

    def __init__(self, instead_of: Broker, lock: Path, clock: Clock) -> None:
        self._instead_of = instead_of
        self._lease = LockFile(lock)
        self._kept = KeptRecords(lock)
        self._clock = clock

    @property
    def address(self) -> str:
        return self._instead_of.address

    @property
    def identity(self) -> str:
        return self._instead_of.identity

    @property
    def lease(self) -> Lease:
        return self._lease

    @property
    def messages(self) -> MessageReading:
        raise BrokerUnreachable(_NO_BROKER)

    @property
    def store(self) -> None:
        return None

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

    async def redbeat(self) -> tuple[PeriodicTask, ...] | None:
        return None

    def follow(self, task: str | None) -> AbstractAsyncContextManager[Followed]:
        del task
        raise BrokerUnreachable(_NO_BROKER)

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        del message, fence
        raise BrokerUnreachable(_NO_BROKER)

    async def taken(self) -> tuple[TakenRecord, ...]:
        return self._kept.read()

    async def holder(self) -> Holder | None:
        return self._lease.holder()

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        del order, to, fence, timeout
        raise BrokerUnreachable(_NO_BROKER)

    async def take(self, record: TakenRecord, *, fence: Fence) -> None:
        await self._lease.renew(fence)
        self._kept.put(record)

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        await self._lease.renew(fence)
        self._kept.remove(record)

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

    def beside(self, lane: str) -> None:
        del lane

    async def close(self) -> None:
        self._lease.close()
        await self._instead_of.close()
