"""One of kombu's connections, in a daemon thread of its own, since all of them block.

Work is a function that is called in that thread with a `Session`; what it returns or raises is
returned or raised to who awaits it. Nothing can be closed under a thread that hangs in a library
that kombu rests on: after its deadline it is left alone, and a new thread with a new connection
takes its place. As daemons, threads never delay the end of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_ops.broker.settling import Result, carry_out
from celery_ops.errors import BrokerUnreachable, OpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_ops.broker.by_kombu.address import KombuAddress

    Work = Callable[["Session"], "Result"]

Channel = Any
"""A channel of kombu's, which has no types."""

DEADLINE = 5.0
"""Seconds a call may take, from connecting to its end."""
MOST_STUCK = 3
"""So many threads may hang at once; then it is waited for that one of them comes back."""
_CONNECT_TIMEOUT = 3.0
_FAREWELL = 1.0
"""So many seconds a close may take."""
_MOST_OF_A_TEXT = 300


class Session:
    """One life of a connection, for who is called in its thread."""

    def __init__(self, address: KombuAddress) -> None:
        self.address = address
        self.own: dict[str, Any] = {}
        """What work keeps from one call to the next, by its own names; gone with the session."""
        self._connection: Any = None
        self._channel: Channel = None

    @property
    def channel(self) -> Channel:
        """Connects when it is first used. Nobody may consume from it: what a channel has consumed
        and not acknowledged it puts back, wherever it takes that to be.
        """
        if self._channel is None:
            self._connection = import_module("kombu").Connection(
                self.address.url.reveal(),
                transport_options=dict(self.address.options),
                ssl=self.address.tls,
                connect_timeout=_CONNECT_TIMEOUT,
            )
            self._connection.connect()
            self._channel = self._connection.channel()
            self._channel.do_restore = False
        return self._channel

    def close(self) -> None:
        for engine in self.own.values():
            engine.dispose()
        if self._connection is not None:
            self._connection.release()


class KombuLink:
    """A session in its thread. Every method may raise BrokerUnreachable."""

    def __init__(self, address: KombuAddress) -> None:
        self._address = address
        self._jobs: queue.SimpleQueue[Callable[[Session], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck: list[threading.Thread] = []
        self._is_closed = False

    async def call(self, work: Work[Result], *, deadline: float = DEADLINE) -> Result:
        """Call work in the thread, and give it `deadline` seconds."""
        if self._is_closed:
            raise BrokerUnreachable(f"The connection to {self._address} was closed by us.")
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) >= MOST_STUCK:
            raise self._silent(deadline)
        outcome, jobs = self._submit(work), self._jobs
        try:
            async with asyncio.timeout(deadline):
                return await outcome
        except TimeoutError:
            if jobs is self._jobs:  # else it waited behind the one that hung
                self._leave_alone()
            raise self._silent(deadline) from None

    def later(self, work: Work[None]) -> None:
        """Call work when it is its turn; whether it can be done is not awaited."""
        if not self._is_closed:
            self._submit(work).add_done_callback(_looked_at)

    async def close(self) -> None:
        """Close the connection and end the thread. Quick, even if the broker hangs."""
        if self._thread is None or self._is_closed:
            self._is_closed = True
            return
        ended = self._submit(lambda session: session.close())
        self._jobs.put(None)
        self._is_closed = True
        with contextlib.suppress(TimeoutError, BrokerUnreachable):
            async with asyncio.timeout(_FAREWELL):
                await ended

    def _submit(self, work: Work[Result]) -> asyncio.Future[Result]:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Result] = loop.create_future()

        def job(session: Session) -> None:
            carry_out(partial(self._told, work, session), outcome, loop)

        self._jobs.put(job)
        if self._thread is None:
            name = f"celery-ops {self._address.transport}"
            self._thread = threading.Thread(
                target=self._run, args=(self._jobs,), name=name, daemon=True
            )
            self._thread.start()
        return outcome

    def _leave_alone(self) -> None:
        """Whatever the thread hangs in, it ends after that."""
        if self._thread is not None:
            self._stuck.append(self._thread)
            self._jobs.put(None)
            self._jobs, self._thread = queue.SimpleQueue(), None

    # --- in the thread ---

    def _run(self, jobs: queue.SimpleQueue[Callable[[Session], None] | None]) -> None:
        session = Session(self._address)
        while (job := jobs.get()) is not None:
            job(session)

    def _told(self, work: Work[Result], session: Session) -> Result:
        """What the work returns; what a library raises, in our own words."""
        with self._translated():
            return work(session)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OpsError:
            raise
        except ImportError as error:
            raise BrokerUnreachable(
                f"{self._address} needs a package that is not installed ({error.name}).",
                fix="Install it beside celery-ops, as it is beside the workers.",
            ) from error
        except FileNotFoundError as error:
            raise BrokerUnreachable(
                f"There is no {error.filename}.",
                fix="Is it the path that the workers use, and is it mounted here?",
            ) from error
        except PermissionError as error:
            raise BrokerUnreachable(f"This user may not read {error.filename}.") from error
        except Exception as error:
            kind = type(error)
            if kind.__module__ == "builtins" and not isinstance(error, OSError):
                raise  # a bug, and not the broker's
            text = self._address.without_secrets(str(error)).strip()[:_MOST_OF_A_TEXT]
            raise BrokerUnreachable(
                f"The broker at {self._address} cannot be used: {text or kind.__name__}",
                fix="Check its URL and the transport options: they have to be the workers' own.",
            ) from error

    def _silent(self, deadline: float) -> BrokerUnreachable:
        return BrokerUnreachable(
            f"The broker at {self._address} does not answer within {deadline:g} s.",
            fix="Check the address, the network and firewalls.",
        )


def _looked_at(outcome: asyncio.Future[None]) -> None:
    """asyncio complains of errors that nobody has looked at."""
    if not outcome.cancelled():
        outcome.exception()
