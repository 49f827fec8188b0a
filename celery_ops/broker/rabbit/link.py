"""One connection to RabbitMQ, in a daemon thread of its own, since py-amqp blocks.

Work is a function that is called in that thread with a `Session`: it may use the connection as it
likes, and what it returns or raises is returned or raised to who awaits it. While there is no work
the thread reads what arrives (consumers' callbacks are called in it, too) and sends heartbeats. A
deadline closes the socket under the thread, which is free again then; as a daemon it never delays
the end of the program.

`read` connects when it has to, and is repeated once when its connection turns out to be dead;
`write` never is, since it may have been done. A link with `one_life` connects once: when that
connection is gone the link is over, and so is everything that the broker kept for it alone (its
exclusive queues). That is what a lease rests on: an effect that is published on the connection
that holds the lease cannot come after the lease's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import select
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import amqp
from amqp.exceptions import AMQPError, ChannelError, NotFound

from celery_ops.broker.rabbit.content import frame_handler
from celery_ops.broker.rabbit.refusals import blocked, is_refused_queue, refusal, silent
from celery_ops.broker.refusals import Lost
from celery_ops.broker.settling import Result, carry_out
from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_ops.broker.rabbit.address import AmqpAddress

    Work = Callable[["Session"], "Result"]

Connection = Any
Channel = Any
"""An `amqp.Channel`: py-amqp has no types."""

# py-amqp logs what it ignores, and what it raises as well; what matters of it is in our errors.
logging.getLogger("amqp").setLevel(logging.CRITICAL + 1)

CONNECT_TIMEOUT = 3.0
DEADLINE = 4.0
"""Seconds a call may take, from connecting to its end; work that takes longer says so."""
HEARTBEAT = 10.0
"""Seconds; each side gives a connection up on which it hears nothing for two of them."""
_TICK = 1.0
_PART = 0.05
"""Seconds that the rest of a frame is waited for once its beginning is there."""
_AT_A_TIME = 200
"""So many frames are read before the next work gets its turn."""
_FAREWELL = 1.0
"""So many seconds a close may take."""


class Session:
    """One life of a connection, for who is called in its thread."""

    def __init__(self, connection: Connection, address: AmqpAddress) -> None:
        self.connection = connection
        self.address = address
        self.blocked = False
        """The server has said that it reads nothing from those who publish."""
        self._at_end: list[Callable[[BrokerUnreachable], None]] = []

    @contextlib.contextmanager
    def channel(self) -> Iterator[Channel]:
        """A channel that is closed at the end: what it consumed and did not acknowledge goes back
        to its place, and a transaction that was not committed is none.
        """
        channel = self.connection.channel()
        try:
            yield channel
        finally:
            # Not a word to a server that has closed the connection: the first error tells more.
            if self.connection.connected:
                with contextlib.suppress(AMQPError, OSError):
                    channel.close()

    def size(self, queue: str) -> tuple[int, int] | None:
        """(ready messages, consumers) of a queue; None if there is no such one.

        Raise ResourceLocked for one that belongs to another connection.
        """
        with self.channel() as channel:
            try:
                answer = channel.queue_declare(queue, passive=True)
            except NotFound:
                return None
            return int(answer.message_count), int(answer.consumer_count)

    def exists(self, queue: str) -> bool:
        """Whether there is such a queue, whoever may use it."""
        try:
            return self.size(queue) is not None
        except ChannelError as error:
            if not is_refused_queue(error):
                raise
            return True

    def wait(self, timeout: float) -> bool:
        """Read what comes next, so that callbacks are called; False if nothing came in time."""
        if not self.connection.connected:
            raise ConnectionError("the connection is closed")  # py-amqp would connect again
        try:
            self.connection.drain_events(timeout=timeout)
        except TimeoutError:
            return False
        return True

    def at_end(self, tell: Callable[[BrokerUnreachable], None]) -> None:
        """Call it, in this thread, when the connection is lost (not when it is closed by us)."""
        self._at_end.append(tell)

    def serve(self) -> None:
        """Read what has arrived, and send a heartbeat if it is time."""
        for _ in range(_AT_A_TIME):
            if not self._has_arrived():
                break
            self.wait(_PART)
        self.connection.heartbeat_tick()

    def ended(self, error: BrokerUnreachable) -> None:
        for tell in self._at_end:
            tell(error)

    @property
    def files(self) -> list[int]:
        """The descriptor of its socket, while it is open."""
        return [self.connection.sock.fileno()] if self.connection.connected else []

    def note_blocked(self, _: str) -> None:
        self.blocked = True

    def note_unblocked(self) -> None:
        self.blocked = False

    def _has_arrived(self) -> bool:
        if not self.connection.connected:
            raise ConnectionError("the connection is closed")
        # What TLS has decrypted already, poll does not know of.
        pending = getattr(self.connection.sock, "pending", None)
        return bool((pending is not None and pending()) or _readable(self.files, 0.0))


class AmqpLink:
    """A connection in its thread. `purpose` is its name in the server's own list of connections.

    `heartbeat` is in seconds. Every method may raise BrokerUnreachable.
    """

    def __init__(
        self,
        address: AmqpAddress,
        purpose: str,
        *,
        heartbeat: float = HEARTBEAT,
        one_life: bool = False,
    ) -> None:
        self._address = address
        self._purpose = purpose
        self._heartbeat = heartbeat
        self._one_life = one_life
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._connecting: Connection = None
        self._over: BrokerUnreachable | None = None

    @property
    def is_over(self) -> bool:
        """It is closed; or it had one life, and that is gone."""
        return self._over is not None

    async def read(self, work: Work[Result], *, deadline: float = DEADLINE) -> Result:
        """Call work that changes nothing: connects if needed, and is repeated once."""
        return await self._submit(work, deadline, repeats=not self._one_life)

    async def write(self, work: Work[Result], *, deadline: float = DEADLINE) -> Result:
        """Call work that may change something: never twice."""
        return await self._submit(work, deadline, repeats=False)

    def end(self, error: BrokerUnreachable) -> None:
        """Give the connection up, at once: for callbacks, in the link's own thread."""
        self._lose(error)

    async def close(self) -> None:
        """Say goodbye to the server, and end the thread. Quick, even if the server hangs."""
        self._over = self._over or _closed(self._address)
        if self._thread is None:
            return
        ended = asyncio.get_running_loop().create_future()
        self._put(partial(carry_out, self._goodbye, ended, asyncio.get_running_loop()))
        self._put(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await ended
                return
        self._cut()

    # --- in the event loop ---

    async def _submit(self, work: Work[Result], deadline: float, *, repeats: bool) -> Result:
        if self._over is not None:
            raise self._over
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Result] = loop.create_future()
        call = partial(self._attempt, work, outcome, repeats=repeats)
        self._put(partial(carry_out, call, outcome, loop))
        try:
            async with asyncio.timeout(deadline):
                return await outcome
        except TimeoutError:
            session = self._session
            self._cut()
            if session is not None and session.blocked:
                raise blocked(self._address) from None
            raise silent(self._address, deadline) from None

    def _put(self, job: Callable[[], None] | None) -> None:
        self._jobs.put(job)
        self._start()
        if self._bell is not None:
            # One that is full has rung; one that is closed has nobody to be woken.
            with contextlib.suppress(OSError):
                self._bell[1].send(b"!")

    def _start(self) -> None:
        if self._thread is None:
            self._bell = socket.socketpair()
            self._bell[1].setblocking(False)
            self._thread = threading.Thread(
                target=self._run,
                args=(self._bell[0],),
                name=f"celery-ops {self._purpose}",
                daemon=True,
            )
            self._thread.start()

    def _cut(self) -> None:
        """Close the socket under the thread: whatever it waits for, it does no more."""
        for connection in (self._connecting, self._session and self._session.connection):
            transport = getattr(connection, "_transport", None)
            sock = getattr(transport, "sock", None)
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not TLS's own: that one would wait for the peer.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    # --- in the thread ---

    def _run(self, bell: socket.socket) -> None:
        while (job := self._next(bell)) is not None:
            job()
            # A job holds what it worked with: not until the next one comes.
            del job
        self._goodbye()
        for end in self._bell or ():
            end.close()

    def _next(self, bell: socket.socket) -> Callable[[], None] | None:
        """The next job; reads and sends heartbeats while there is none. None: it is the end."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._jobs.get_nowait()
            watched = [bell.fileno()]
            if self._session is not None:
                watched += self._session.files
            if bell.fileno() in _readable(watched, _TICK):
                bell.recv(4096)
            self._serve()

    def _serve(self) -> None:
        if self._session is None:
            return
        try:
            self._session.serve()
        except (AMQPError, OSError) as error:
            self._lose(refusal(error, self._address))

    def _attempt(
        self,
        work: Work[Result],
        outcome: asyncio.Future[Result],
        *,
        repeats: bool,
    ) -> Result:
        was_there = self._session is not None
        try:
            return work(self._connected())
        except ChannelError as error:
            raise refusal(error, self._address) from error
        except (AMQPError, OSError) as error:
            lost = refusal(error, self._address)
            self._lose(lost)
            is_dead = was_there and isinstance(lost, Lost)
            if not (repeats and is_dead) or outcome.done():  # done: given up, and cut, meanwhile
                raise lost from error
        return self._attempt(work, outcome, repeats=False)

    def _connected(self) -> Session:
        if self._session is not None:
            return self._session
        if self._over is not None:
            raise self._over
        connection = self._connecting = self._new_connection()
        try:
            connection.connect()
            connection.sock.settimeout(None)  # py-amqp leaves that of the handshake under TLS
        except (AMQPError, OSError):
            _collect(connection)
            raise
        finally:
            self._connecting = None
        session = self._session = Session(connection, self._address)
        connection.on_blocked = session.note_blocked
        connection.on_unblocked = session.note_unblocked
        return session

    def _new_connection(self) -> Connection:
        address, tls = self._address, self._address.tls
        return amqp.Connection(
            host=address.place,
            userid=address.username,
            password=address.password.reveal(),
            login_method=address.login_method,
            virtual_host=address.vhost,
            connect_timeout=CONNECT_TIMEOUT,
            heartbeat=max(1, round(self._heartbeat)),
            frame_handler=frame_handler,
            client_properties={"product": "celery-ops", "connection_name": self._name},
            ssl=tls
            and {
                "cert_reqs": tls.verify,
                "ca_certs": tls.ca_certs,
                "certfile": tls.certfile,
                "keyfile": tls.keyfile,
                "server_hostname": tls.server_hostname,
            },
        )

    @property
    def _name(self) -> str:
        return f"celery-ops: {self._purpose} ({socket.gethostname()}, pid {os.getpid()})"

    def _lose(self, error: BrokerUnreachable) -> None:
        session, self._session = self._session, None
        if self._one_life:
            self._over = self._over or error
        if session is not None:
            _collect(session.connection)
            session.ended(error)

    def _goodbye(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(AMQPError, OSError):
                session.connection.close()
            _collect(session.connection)


def delivered(
    channel: Channel, message: amqp.Message, *, exchange: str = "", routing_key: str = ""
) -> bool:
    """Publish a message, confirmed by the server; False if it reached no queue."""
    returned: list[object] = []

    def note(*what: object) -> None:
        returned.append(what)

    channel.events["basic_return"].add(note)
    try:
        channel.basic_publish_confirm(
            message, exchange=exchange, routing_key=routing_key, mandatory=True
        )
    finally:
        channel.events["basic_return"].discard(note)
    return not returned


def body_of(message: amqp.Message) -> bytes:
    """A message's body, whatever py-amqp has made of it."""
    body = message.body
    return body if isinstance(body, bytes) else str(body).encode(errors="surrogatepass")


def posted(
    loop: asyncio.AbstractEventLoop, callback: Callable[[Any], None]
) -> Callable[[Any], None]:
    """A callback for the thread that calls this one in the event loop, unless that is closed."""

    def post(what: object) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(callback, what)

    return post


def _collect(connection: Connection) -> None:
    """Close what is left of a connection, without a word to the server."""
    transport = getattr(connection, "_transport", None)
    if transport is not None and transport.sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(transport.sock, socket.SHUT_RDWR)
    with contextlib.suppress(AMQPError, OSError):
        connection.collect()


def _closed(address: AmqpAddress) -> BrokerUnreachable:
    return BrokerUnreachable(f"The connection to the broker at {address.place} was closed by us.")


def _readable(files: list[int], timeout: float) -> list[int]:
    """Those of the descriptors that can be read, after `timeout` seconds at most."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN | select.POLLHUP | select.POLLERR)
    return [file for file, _ in poll.poll(timeout * 1000)]
