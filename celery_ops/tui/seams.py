"""What the app needs from outside: `fleet.collector` and `runbook.desk` have these shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
    from pathlib import Path

    from celery_ops.fleet.peeking import Look
    from celery_ops.model import FleetSnapshot, ServiceRef, StoredMessage
    from celery_ops.runbook.desk import RunSummary
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.library import Entry
    from celery_ops.runbook.plan import Plan


class Collector(Protocol):
    """Watches a fleet; see `fleet.collector`."""

    def snapshots(self) -> AsyncIterator[FleetSnapshot]: ...


class Desk(Protocol):
    """Plans, starts, follows and talks to runs; see `runbook.desk`.

    `plan` and `follow` are asynchronous; all the rest touches files and is called aside.
    """

    @property
    def operator(self) -> str:
        """`user@machine`, who agrees to what is started here."""
        ...

    async def plan(self, runbook: str, given: Mapping[str, str]) -> Plan: ...

    def start(self, plan: Plan, *, answers: Mapping[str, str]) -> str: ...

    def runs(self) -> tuple[RunSummary, ...]: ...

    def follow(self, run: str) -> AsyncIterator[Event]: ...

    def abort(self, run: str) -> None: ...

    def pause(self, run: str) -> None: ...

    def proceed(self, run: str) -> None: ...

    def answer(self, run: str, step: str, answer: str) -> None: ...


class Library(Protocol):
    """The runbooks that there are; see `runbook.library`. Reads files: it is called aside."""

    def entries(self) -> tuple[Entry, ...]: ...


class MessageReader(Protocol):
    """Looks at what waits in queues, and takes nothing; see `fleet.peeker`."""

    async def look(self, queue: str, limit: int) -> Look: ...

    def arguments(self, message: StoredMessage) -> str: ...


class LogReader(Protocol):
    """Follows the logs of services; see `fleet.logs`."""

    def follow(self, service: ServiceRef) -> AsyncGenerator[tuple[str, ...], None]: ...


class LedgerReader(Protocol):
    """Reads the demo's counts of numbered tasks: `sent`, `done`, `running`, `lost`, `twice`.

    None where one is not known. Raises an OpsError if nothing could be read.
    """

    def __call__(self) -> Awaitable[Mapping[str, int | None]]: ...


class Reporter(Protocol):
    """Writes a bug's details to a file of its own and returns its path. Raises OSError."""

    def __call__(self, error: BaseException, /) -> Path: ...
