"""The broker adapter for every other transport of kombu's: the `Broker` port as far as it can be.

It watches. Neither a lease nor a record of what is taken can be kept in such a broker, with proof
and with an expiry, so no run can change anything there, and `refuses_runs` says so. What cannot be
told is null, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from celery_ops.broker.by_kombu import address as kombu_address
from celery_ops.broker.by_kombu.address import SQS, TABLES
from celery_ops.broker.by_kombu.files import FileSizes, FilesPost
from celery_ops.broker.by_kombu.link import KombuLink
from celery_ops.broker.by_kombu.mailbox import KombuMailbox
from celery_ops.broker.by_kombu.post import FanoutPost
from celery_ops.broker.by_kombu.reading import FileReader, NoReader
from celery_ops.broker.by_kombu.sizes import KnownSizes, NoSizes
from celery_ops.broker.by_kombu.sqs import SqsSizes
from celery_ops.broker.by_kombu.tables import TableSizes
from celery_ops.broker.questions import ARGUMENTS
from celery_ops.errors import BrokerUnreachable, LeaseLost, PreconditionFailed
from celery_ops.ports import QueuesReading, Round

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from celery_ops.broker.by_kombu.address import KombuAddress
    from celery_ops.broker.by_kombu.link import Session
    from celery_ops.broker.by_kombu.post import Post
    from celery_ops.broker.by_kombu.sizes import Sizes
    from celery_ops.config.secret import Secret
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
        Clock,
        Fence,
        Followed,
        GivenBack,
        MessageReading,
        Order,
        Question,
        Reply,
    )

_ASKED_THROUGH = frozenset({"mongodb"})
"""Beside files: transports whose fanout exchanges keep no message for who is gone."""
_PATIENCE = 15.0
"""Seconds that sizes may take: some transports tell one queue at a time."""
_INSTEAD = (
    "Without a broker there are: celery-ops worker stop|start|restart NAME --emergency, by the"
    " supervisors alone."
)


class KombuBroker:
    """Implements `ports.Broker` for watching. Connects when it is first used."""

    serves_first = False

    def __init__(
        self,
        address: KombuAddress,
        *,
        post: Post | None,
        sizes: Sizes,
        clock: Clock,
        unasked: str = "",
    ) -> None:
        """Without a `post` workers cannot be asked, and `unasked` says why."""
        self._address = address
        self._clock = clock
        self._link = KombuLink(address)
        self._sizes = sizes
        self._mailbox = (
            None if post is None else KombuMailbox(self._link, post, clock, polling=address.polling)
        )
        transport = f"{address.transport}://"
        self._unasked = unasked
        self.refuses_runs = (
            f"over {transport} celery-ops can only watch: neither a lease nor what a run has taken"
            " can be kept in such a broker"
        )
        self.lease = NoLease(self.refuses_runs)
        folders = address.folders
        self.messages: MessageReading = (
            NoReader(address.transport) if folders is None else FileReader(self._link, folders)
        )

    @property
    def address(self) -> str:
        return str(self._address)

    @property
    def identity(self) -> str:
        return f"kombu {self._address}"

    @property
    def store(self) -> None:
        return None

    async def heartbeats(self) -> AsyncIterator[Heartbeat]:
        """None: who listens needs a queue that is bound, and if it were killed nothing would remove
        it while every worker goes on filling it.
        """
        raise BrokerUnreachable(f"Nobody listens to heartbeats over {self._address.transport}://.")
        yield

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        asked_at = self._clock.now()
        wanted = tuple(dict.fromkeys(questions))
        if self._mailbox is None:
            nothing = dict.fromkeys(wanted, ())
            return Round(asked_at, asked_at, nothing, None, complete=False, unasked=self._unasked)
        calls = [(question.value, ARGUMENTS.get(question, {})) for question in wanted]
        over = await self._mailbox.round(calls, to=to, timeout=timeout, known=known)
        return Round(
            asked_at=asked_at,
            ended_at=self._clock.now(),
            replies={question: over.replies[question.value] for question in wanted},
            expected=over.expected,
            complete=over.complete,
        )

    async def nodes(self) -> frozenset[str] | None:
        """Of files, all that ever had a mailbox; None where workers cannot be asked."""
        return None if self._mailbox is None else await self._mailbox.nodes()

    async def queues(self, known: Collection[str]) -> QueuesReading:
        at = self._clock.now()

        def read(session: Session) -> QueuesReading:
            return QueuesReading(
                at=at,
                queues=self._sizes.read(session, known),
                notes=self._sizes.notes,
                unlisted=self._sizes.unlisted,
            )

        return await self._link.call(read, deadline=_PATIENCE)

    async def ahead_of(self, message: TaskMessage) -> int | None:
        del message
        return None

    async def redbeat(self) -> tuple[PeriodicTask, ...] | None:
        return None

    def follow(self, task: str) -> AbstractAsyncContextManager[Followed]:
        del task
        raise self._refused()

    async def taken(self) -> tuple[TakenRecord, ...]:
        """No run ever took anything there."""
        return ()

    async def holder(self) -> Holder | None:
        return None

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        del order, to, timeout
        self._no_lease(fence)

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        del message
        self._no_lease(fence)

    async def take(self, record: TakenRecord, *, fence: Fence) -> None:
        del record
        self._no_lease(fence)

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        del record
        self._no_lease(fence)

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        del messages
        self._no_lease(fence)

    async def note_run(self, record: RunRecord) -> None:
        del record
        raise self._refused()

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        return ()

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        del holder, record
        return False

    async def close(self) -> None:
        if self._mailbox is not None:
            self._mailbox.close()
        await self._link.close()

    def _no_lease(self, fence: Fence) -> NoReturn:
        """No fence is valid where no lease is kept."""
        del fence
        raise LeaseLost(f"Nobody holds a lease: {self.refuses_runs}.")

    def _refused(self) -> PreconditionFailed:
        return PreconditionFailed(f"{self.refuses_runs}.", fix=_INSTEAD)


class NoLease:
    """Implements `ports.Lease` where none can be kept: nobody gets it."""

    ttl = 60.0

    def __init__(self, why: str) -> None:
        self._why = why

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        """Raise PreconditionFailed."""
        del holder, takes_over
        raise PreconditionFailed(f"{self._why}.", fix=_INSTEAD)

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        del fence, holder
        raise LeaseLost(f"Nobody holds a lease: {self._why}.")

    async def release(self, fence: Fence) -> None:
        """There is nothing to give up."""


def connect(url: Secret, options: Mapping[str, object], *, clock: Clock) -> KombuBroker:
    """The broker at a URL; raise UsageError."""
    address = kombu_address.parse(url, options)
    post, sizes = _post(address), _sizes(address)
    unasked = "" if post is not None else _why_unasked(address.transport)
    return KombuBroker(address, post=post, sizes=sizes, clock=clock, unasked=unasked)


def _post(address: KombuAddress) -> Post | None:
    """How its workers are asked; None: they cannot be."""
    if address.folders is not None:
        return FilesPost(address, address.folders)
    return FanoutPost(address) if address.transport in _ASKED_THROUGH else None


def _why_unasked(transport: str) -> str:
    why = (
        "they cannot be asked without leaving something behind"
        if kombu_address.has_fanout(transport)
        else "it has no fanout exchanges, so Celery's workers do not listen to questions"
    )
    return f"workers: over {transport}:// {why}; of them is known what their supervisors tell"


def _sizes(address: KombuAddress) -> Sizes:
    if address.folders is not None:
        return FileSizes(address, address.folders)
    if address.transport in TABLES:
        return TableSizes(address)
    if address.transport.lower() == SQS:
        return SqsSizes(address)
    if address.transport in _ASKED_THROUGH:
        return KnownSizes(address.transport)
    return NoSizes(address.transport)
