"""Runs commands on other machines, over one SSH connection to each.

A command that was certainly not started is tried again on a new connection; one whose end is not
known is never repeated. Whatever runs out of time is ended over a channel beside its own, since
closing that would not end it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import CommandFailed, HostUnreachable, UsageError
from celery_ops.hosts.local import (
    MAX_STREAM_ERR,
    STREAM_GRACE,
    TERM_GRACE,
    is_cancelled,
    stream_failed,
)
from celery_ops.hosts.ssh_flow import Flow
from celery_ops.hosts.ssh_keys import Keyring
from celery_ops.hosts.ssh_link import MAX_SESSIONS, MAX_STREAMS, Link, Shared
from celery_ops.hosts.ssh_remote import LastWords, Passed, ending, remote
from celery_ops.hosts.ssh_session import Busy, Lost, Session
from celery_ops.hosts.ssh_target import resolve
from celery_ops.hosts.ssh_threads import Result
from celery_ops.ports import Completed

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
    )

    from celery_ops.config.contexts import HostEntry
    from celery_ops.hosts.ssh_channel import Connection
    from celery_ops.hosts.ssh_keys import AskPassphrase
    from celery_ops.hosts.ssh_remote import Remote
    from celery_ops.hosts.ssh_session import Ended
    from celery_ops.hosts.ssh_target import Target
    from celery_ops.ports import Command

SPARE_SESSIONS = 2
"""Of each connection: kept free to end commands and to see whether the host still answers."""
ANSWER_TIMEOUT = 5.0
"""Seconds in which a host must open a session on a connection that it has already."""
PROBE_EVERY = 5.0
"""Seconds between looks whether a host still answers, while a command runs there."""
WANTED_WITHIN = 2.0
"""Seconds for hosts to say whether they want a key that has a passphrase."""
SLOT_TIMEOUT = 2.0
"""Seconds in which another stream must have ended where there are as many as may be."""
LET_GO_TIMEOUT = 3.0
"""Seconds in which a host must tell that a command whose reader left is gone."""
_BUSY_PAUSE = 0.05
_PATIENCE = 3.0
"""Seconds for ending a command, beside those it gets to end by itself."""
_MAX_SAID = 200


class SshHosts:
    """The shells of all remote hosts of a pool. Equal jump hosts share one connection."""

    def __init__(self, ask: AskPassphrase | None = None) -> None:
        self._shared = Shared(Keyring(ask))
        self._links: dict[Target, Link] = {}
        self._shells: dict[Target, SshShell] = {}

    def shell(self, entry: HostEntry) -> SshShell:
        """The shell of a host; connects when it is first used. Raise UsageError."""
        target = resolve(entry)
        if target not in self._shells:
            self._shells[target] = SshShell(self._link(target))
        return self._shells[target]

    async def unlock(self, entries: Iterable[HostEntry]) -> None:
        """Ask for the passphrases that these hosts need: those that take none of our other keys.

        Takes as long as somebody thinks of one, and otherwise about `WANTED_WITHIN` seconds.
        """
        waiting: set[asyncio.Future[object]] = {
            asyncio.ensure_future(self._link(target).transport())
            for target in _resolved(entries)
            if any(self._shared.keyring.is_locked(key) for key in target.all_keys)
        }
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=WANTED_WITHIN)
            for one in done:
                _seen(one)  # whoever uses the host is told
            if not done and not self._shared.keyring.is_asking:
                break
        for one in waiting:
            one.cancel()

    async def close(self) -> None:
        """Close all connections, quickly. What still runs on them ends as unreachable."""
        # A jump host outlives those behind it: in the reverse order of making.
        for link in reversed(self._links.values()):
            await link.close()

    def _link(self, target: Target) -> Link:
        if target not in self._links:
            via = None if target.via is None else self._link(target.via)
            self._links[target] = Link(target, self._shared, via)
        return self._links[target]


class SshShell:
    """The Shell of a machine that is reached by SSH."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._target = link.target
        self._free = asyncio.Semaphore(MAX_SESSIONS - SPARE_SESSIONS)
        self._spare = asyncio.Semaphore(SPARE_SESSIONS)
        self._streams = asyncio.Semaphore(MAX_STREAMS)
        self._probe: asyncio.Task[bool] | None = None
        self._endings: set[asyncio.Task[bool]] = set()

    async def run(self, command: Command, *, timeout: float) -> Completed:
        """Run a command to its end; one that a signal ended has the code -1.

        Raise HostUnreachable if it could not be started, or if the connection was lost and its end
        is not known; CommandFailed `timeout` seconds after its start. Whoever raises, and whoever
        cancels, its process group is ended if the host still answers.
        """
        request = remote(command)
        loop = asyncio.get_running_loop()
        await self._take_turn(command, timeout)
        began = loop.time()
        try:
            connection, session, ended = await self._started(
                partial(self._ended, command, request, timeout)
            )
        finally:
            self._free.release()
        await self._judge(connection, session, command, ended)
        return Completed(
            code=-1 if ended.code is None else ended.code,
            out=bytes(ended.out.kept),
            err=bytes(ended.err.kept),
            seconds=loop.time() - began,
            truncated=ended.truncated,
        )

    async def stream(self, command: Command) -> AsyncGenerator[bytes, None]:
        """What a command prints, as it comes; as `ports.Shell.stream`.

        Silence is looked into: a host that does not answer any more is unreachable some seconds
        later. What it runs goes on there until it writes to the pipe that nobody reads.
        """
        request = remote(command)
        async with self._stream_slot():
            connection, session = await self._started(self._opened)
            flow = Flow()
            streams = (
                Passed(request.mark, flow.put),
                LastWords(request.mark, MAX_STREAM_ERR),
            )
            run = partial(session.run, request, open_within=ANSWER_TIMEOUT, streams=streams)
            work = self._link.threads.submit(run)
            work.add_done_callback(lambda _: flow.wake())
            try:
                while True:
                    is_over = work.done()
                    if data := flow.take():
                        yield data
                    elif is_over:
                        break
                    elif not await flow.wait(PROBE_EVERY):
                        self._look_whether_it_answers(connection)
            finally:
                flow.close()
                if not work.done():
                    await self._let_go(connection, session, command)
        ended = work.result()
        await self._judge(connection, session, command, ended)
        if ended.code != 0:
            code = -1 if ended.code is None else ended.code
            raise stream_failed(command, code, bytes(ended.err.kept))

    @asynccontextmanager
    async def _stream_slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SLOT_TIMEOUT):
                await self._streams.acquire()
        except TimeoutError as error:
            says = f"{MAX_STREAMS} logs of {self._target} are followed already."
            raise CommandFailed(says, fix="Close one of them.") from error
        try:
            yield
        finally:
            self._streams.release()

    async def _let_go(self, connection: Connection, session: Session, command: Command) -> None:
        """End a command whose reader left. What we may not signal (sudo's) sees its pipe closed;
        not at once, since sshd then takes its time to bury a process.
        """
        task = self._start_ending(connection, session, STREAM_GRACE)
        asyncio.get_running_loop().call_later(STREAM_GRACE / 2, session.give_up)
        await asyncio.wait([task], timeout=LET_GO_TIMEOUT)
        session.give_up()
        never_began = session.group == 0
        gone = never_began or (task.done() and task.result())
        if not gone and not is_cancelled():
            says = f"{self._target} does not tell that {command} was ended: it may still run."
            raise HostUnreachable(says)

    async def _opened(self, connection: Connection, session: Session) -> tuple[Connection, Session]:
        """With its session open, so that what goes wrong from now on is the command's."""
        work = self._link.threads.submit(partial(session.open, ANSWER_TIMEOUT))
        work.add_done_callback(_seen)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await asyncio.shield(work)
        except TimeoutError as error:
            raise Lost(f"no answer within {as_duration(ANSWER_TIMEOUT)}") from error
        except asyncio.CancelledError:
            work.add_done_callback(lambda _: self._link.threads.submit(session.close))
            raise
        return connection, session

    async def _take_turn(self, command: Command, timeout: float) -> None:
        """Wait for one of the sessions that commands have, no longer than for its end."""
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(timeout):
                await self._free.acquire()
        except TimeoutError as error:
            says = (
                f"{command} was not started on {self._target}: for {as_duration(timeout)} other"
                f" commands had all {MAX_SESSIONS - SPARE_SESSIONS} sessions of its connection."
            )
            raise HostUnreachable(says, fix="Nothing was changed by it: try again.") from error

    async def _started(self, start: Callable[[Connection, Session], Awaitable[Result]]) -> Result:
        """Start something in a session, on a new connection if the one there was is lost before.

        `start` raises Lost or Busy only if nothing was started. Raise HostUnreachable.
        """
        lost: Lost | None = None
        for _ in range(2):
            connection = await self._link.transport()
            try:
                return await self._tried(connection, start)
            except Lost as error:
                lost = error
                self._link.drop(connection)
        raise HostUnreachable(f"{self._target} opens no session: {lost}.") from lost

    async def _tried(
        self,
        connection: Connection,
        start: Callable[[Connection, Session], Awaitable[Result]],
    ) -> Result:
        """Raise Lost, or HostUnreachable if the host has no session for us after some time."""
        deadline = asyncio.get_running_loop().time() + self._target.timeout
        while True:
            try:
                return await start(connection, Session(connection))
            except Busy as error:
                await self._pause(error, deadline)

    async def _pause(self, busy: Busy, deadline: float) -> None:
        """Raise HostUnreachable after the deadline."""
        if asyncio.get_running_loop().time() > deadline:
            says = f"{self._target} allows no more sessions: {busy}."
            raise HostUnreachable(says, fix="See MaxSessions in its sshd_config.") from busy
        await asyncio.sleep(_BUSY_PAUSE)

    async def _ended(
        self,
        command: Command,
        request: Remote,
        timeout: float,
        connection: Connection,
        session: Session,
    ) -> tuple[Connection, Session, Ended]:
        """Run it to its end; raise CommandFailed or HostUnreachable if that takes too long."""
        work = self._link.threads.submit(partial(session.run, request, open_within=ANSWER_TIMEOUT))
        work.add_done_callback(_seen)
        try:
            return connection, session, await self._awaited(work, connection, session, timeout)
        except TimeoutError as error:
            was_ended = await self._end(connection, session, TERM_GRACE)
            late = f"{command} did not end within {as_duration(timeout)}"
            if was_ended:
                raise CommandFailed(f"{late} and was ended.") from error
            if connection.is_active() and session.group is not None:
                raise CommandFailed(f"{late} and could not be ended: it may still run.") from error
            says = f"{self._target} does not answer: {late}, and it is not known what became of it."
            raise HostUnreachable(says) from error
        except asyncio.CancelledError:
            if not session.withdraw():
                await self._end(connection, session, 0)
            raise
        finally:
            if not work.done():
                session.give_up()

    async def _awaited(
        self, work: asyncio.Future[Ended], connection: Connection, session: Session, timeout: float
    ) -> Ended:
        """Wait, `timeout` seconds once it is started, and see now and then whether the host
        answers: if not, its connection is dropped, which ends the waiting. Raise Lost if it
        was not started in time, and now never will be.
        """
        loop = asyncio.get_running_loop()
        asked = loop.time()
        probe_at = asked + PROBE_EVERY
        wait = min(timeout, ANSWER_TIMEOUT)
        while True:
            await asyncio.wait([work], timeout=wait)
            if work.done():
                return work.result()
            now, started = time.monotonic(), session.started_at
            left = asked + ANSWER_TIMEOUT - now if started is None else started + timeout - now
            if left <= 0 and started is not None:
                raise TimeoutError
            if left <= 0 and session.withdraw():
                raise Lost(f"no answer within {as_duration(ANSWER_TIMEOUT)}")
            if now >= probe_at:
                self._look_whether_it_answers(connection)
                probe_at = now + PROBE_EVERY
            wait = max(0.0, min(left, PROBE_EVERY))

    def _look_whether_it_answers(self, connection: Connection) -> None:
        """Once for all who wait."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.ensure_future(self._answers(connection))

    async def _answers(self, connection: Connection) -> bool:
        """Whether the host answers on this connection; if not, it is dropped."""
        try:
            async with self._spare:
                work = self._link.threads.submit(partial(Session(connection).probe, ANSWER_TIMEOUT))
                work.add_done_callback(_seen)
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    await asyncio.shield(work)
        except (TimeoutError, Lost):
            self._link.drop(connection)
            return False
        except Busy:
            return True  # it has no session for us, and said so
        return True

    async def _judge(
        self, connection: Connection, session: Session, command: Command, ended: Ended
    ) -> None:
        """Return if the command ran and its end is known; raise HostUnreachable if not."""
        if session.refused:
            raise HostUnreachable(f"{self._target} runs no commands for us.")
        # A signal and a lost connection look the same, but after a signal the host still answers.
        if ended.code is None and not await self._answers(connection):
            begun = "how it ended" if ended.out.begun else "whether it ran"
            says = f"The connection to {self._target} was lost: it is not known {begun}: {command}."
            raise HostUnreachable(says)
        if not ended.out.begun:
            said = _plain(bytes(ended.err.before) or bytes(ended.out.before))
            raise HostUnreachable(f"The login shell of {self._target} runs no commands: {said}.")

    async def _end(self, connection: Connection, session: Session, grace: float) -> bool:
        """End a command's process group; whether it is certainly gone.

        Goes on by itself if its caller is cancelled.
        """
        task = self._start_ending(connection, session, grace)
        await asyncio.wait([task])
        return task.result()

    def _start_ending(
        self, connection: Connection, session: Session, grace: float
    ) -> asyncio.Task[bool]:
        task = asyncio.ensure_future(self._end_group(connection, session, grace))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _end_group(self, connection: Connection, session: Session, grace: float) -> bool:
        try:
            session.hurry()
            async with asyncio.timeout(_PATIENCE):
                group = await asyncio.shield(asyncio.wrap_future(session.begun))
            if not group:
                return False
            async with asyncio.timeout(grace + ANSWER_TIMEOUT + _PATIENCE), self._spare:
                request = remote(ending(group, grace))
                done = await self._helped(connection, request)
        except (TimeoutError, Lost):
            self._link.drop(connection)
            return False
        except HostUnreachable:
            return False
        return done.code == 0

    async def _helped(self, connection: Connection, request: Remote) -> Ended:
        """Run a short command of our own on one of the spare sessions."""
        deadline = asyncio.get_running_loop().time() + ANSWER_TIMEOUT
        while True:
            run = partial(Session(connection).run, request, open_within=ANSWER_TIMEOUT)
            work = self._link.threads.submit(run)
            work.add_done_callback(_seen)
            try:
                return await asyncio.shield(work)
            except Busy as error:
                await self._pause(error, deadline)


def _resolved(entries: Iterable[HostEntry]) -> Iterator[Target]:
    """Without those whose settings cannot be used: that is told where they are."""
    for entry in entries:
        with suppress(UsageError):
            yield resolve(entry)


def _seen(work: asyncio.Future[Result]) -> None:
    """A failure that comes after everybody has gone is no news."""
    if not work.cancelled():
        work.exception()


def _plain(said: bytes) -> str:
    words = " ".join(said.decode("utf-8", "replace").split())
    return "".join(letter for letter in words if letter.isprintable())[:_MAX_SAID] or "it is silent"
