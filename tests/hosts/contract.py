"""What every Supervisor adapter must do with the real thing behind it.

A supervisor's own test module gives a `Supervised` fixture; every test here runs against it. The
services it must have are named by `Program`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.model import ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery_ops.model import ServiceRef, ServiceStatus
    from celery_ops.ports import Command, Completed, Shell, Supervisor

TIMEOUT = 10.0


class Program(StrEnum):
    """The services of the rig."""

    POLITE = "polite"
    """Runs, and exits 0 at once when told to stop."""
    STUBBORN = "stubborn"
    """Runs, and ignores the stop signal; it is killed after one second."""
    SLOW = "slow"
    """Runs, and takes a second to exit 0 when told to stop."""
    GROUP = "group"
    """As POLITE, and its stop signal goes to its children too."""
    BROKEN = "broken"
    """Ends at once each time it is started, and is given up."""
    IDLE = "idle"
    """Was never started."""
    STRANGE = "a\\x20b"
    """Is never asked about; its name wants quotes."""
    UNKNOWN = "unknown-program"
    """Is not configured."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """A real supervisor, the shell of its host, and its services."""

    shell: Shell
    supervisor: Supervisor
    services: Mapping[Program, ServiceRef]
    end: Callable[[], None]
    """Ends the supervisor itself, as a crash would."""

    async def status(self, *programs: Program) -> list[ServiceStatus]:
        services = [self.services[program] for program in programs]
        completed = await self.shell.run(self.supervisor.status(services), timeout=TIMEOUT)
        read = self.supervisor.read_status(services, completed)
        return [read[service] for service in services]

    async def start(self, program: Program) -> None:
        service = self.services[program]
        self.supervisor.read_effect(service, await self._run(self.supervisor.start(service)))

    async def stop(self, program: Program, expect: str | None) -> None:
        service = self.services[program]
        command = self.supervisor.stop(service, expect=expect)
        self.supervisor.read_effect(service, await self._run(command))

    async def until(self, program: Program, *states: ServiceState) -> ServiceStatus:
        """The status once it is in one of these states."""
        async with asyncio.timeout(20):
            while True:
                [status] = await self.status(program)
                if status.state in states:
                    return status
                await asyncio.sleep(0.05)

    async def _run(self, command: Command) -> Completed:
        return await self.shell.run(command, timeout=TIMEOUT)


class SupervisorContract:
    """What holds for every way to run a service.

    Derive from it in a module that has a fixture `supervised`.
    """

    gives_up = "too quickly"
    """What the supervisor says of a service that does not come up."""
    longest_shown = 200
    """Characters of a command that people see."""
    strange = r"a\x20b"
    """A name that a shell would change."""
    knows_its_services = False
    """It has to be told each service before it can build a command for it."""

    async def test_several_are_asked_about_in_one_command(self, supervised: Supervised) -> None:
        await supervised.until(Program.POLITE, ServiceState.RUNNING)
        polite, idle = await supervised.status(Program.POLITE, Program.IDLE)
        assert polite.pid is not None
        assert polite.identity is not None
        assert polite.started_at is not None
        assert polite.clean_exit is None
        assert (idle.state, idle.pid, idle.identity) == (ServiceState.STOPPED, None, None)
        assert idle.clean_exit is None

    async def test_an_identity_belongs_to_one_life(self, supervised: Supervised) -> None:
        first = await supervised.until(Program.POLITE, ServiceState.RUNNING)
        again = await supervised.until(Program.POLITE, ServiceState.RUNNING)
        await supervised.stop(Program.POLITE, first.identity)
        await supervised.until(Program.POLITE, ServiceState.STOPPED)
        await supervised.start(Program.POLITE)
        second = await supervised.until(Program.POLITE, ServiceState.RUNNING)
        assert first.identity == again.identity != second.identity
        assert first.pid != second.pid

    async def test_a_stop_that_was_clean_is_proved(self, supervised: Supervised) -> None:
        running = await supervised.until(Program.POLITE, ServiceState.RUNNING)
        await supervised.stop(Program.POLITE, running.identity)
        stopped = await supervised.until(Program.POLITE, ServiceState.STOPPED)
        assert (stopped.clean_exit, stopped.pid, stopped.identity) == (True, None, None)

    async def test_a_stop_meant_for_another_life_does_nothing(self, supervised: Supervised) -> None:
        before = await supervised.until(Program.POLITE, ServiceState.RUNNING)
        with pytest.raises(CommandFailed, match="another incarnation"):
            await supervised.stop(Program.POLITE, "1:1")
        [after] = await supervised.status(Program.POLITE)
        assert (after.state, after.identity) == (ServiceState.RUNNING, before.identity)

    async def test_a_stop_without_a_life_in_mind_stops_any(self, supervised: Supervised) -> None:
        await supervised.until(Program.POLITE, ServiceState.RUNNING)
        await supervised.stop(Program.POLITE, None)
        await supervised.until(Program.POLITE, ServiceState.STOPPED)

    async def test_what_is_so_already_is_accepted(self, supervised: Supervised) -> None:
        running = await supervised.until(Program.POLITE, ServiceState.RUNNING)
        await supervised.start(Program.POLITE)
        [same] = await supervised.status(Program.POLITE)
        assert same.identity == running.identity
        await supervised.stop(Program.POLITE, running.identity)
        await supervised.until(Program.POLITE, ServiceState.STOPPED)
        await supervised.stop(Program.POLITE, running.identity)

    async def test_effects_return_before_they_are_done(self, supervised: Supervised) -> None:
        running = await supervised.until(Program.SLOW, ServiceState.RUNNING)
        await supervised.stop(Program.SLOW, running.identity)
        [stopping] = await supervised.status(Program.SLOW)
        assert (stopping.state, stopping.identity) == (ServiceState.STOPPING, running.identity)
        await supervised.stop(Program.SLOW, running.identity)
        assert (await supervised.until(Program.SLOW, ServiceState.STOPPED)).clean_exit is True

    async def test_a_start_while_it_still_stops_is_not_swallowed(
        self, supervised: Supervised
    ) -> None:
        running = await supervised.until(Program.SLOW, ServiceState.RUNNING)
        await supervised.stop(Program.SLOW, running.identity)
        with pytest.raises(CommandFailed, match="still stopping"):
            await supervised.start(Program.SLOW)

    async def test_what_does_not_come_up_is_failed_with_the_reason(
        self, supervised: Supervised
    ) -> None:
        failed = await supervised.until(Program.BROKEN, ServiceState.FAILED)
        assert (failed.pid, failed.identity) == (None, None)
        assert failed.clean_exit is not True
        assert self.gives_up in failed.says

    async def test_an_unknown_name_does_not_hide_the_others(self, supervised: Supervised) -> None:
        await supervised.until(Program.POLITE, ServiceState.RUNNING)
        unknown, polite = await supervised.status(Program.UNKNOWN, Program.POLITE)
        assert (unknown.state, unknown.pid) == (ServiceState.UNKNOWN, None)
        assert Program.UNKNOWN in unknown.says
        assert polite.state is ServiceState.RUNNING

    async def test_an_unknown_name_is_refused_with_the_way_to_the_known_ones(
        self, supervised: Supervised
    ) -> None:
        for act in (supervised.start(Program.UNKNOWN), supervised.stop(Program.UNKNOWN, None)):
            with pytest.raises(CommandFailed, match="unknown-program") as caught:
                await act
            assert caught.value.fix

    async def test_what_people_see_of_a_command_is_short_and_plain(
        self, supervised: Supervised
    ) -> None:
        service = supervised.services[Program.POLITE]
        strange = replace(service, name=self.strange)
        if self.knows_its_services:
            strange = supervised.services[Program.STRANGE]
        for command in (
            supervised.supervisor.status([service]),
            supervised.supervisor.start(service),
            supervised.supervisor.stop(service, expect="1:1"),
        ):
            assert service.name in str(command)
            assert len(str(command)) < self.longest_shown
        assert f"'{self.strange}'" in str(supervised.supervisor.start(strange))


class DaemonContract(SupervisorContract):
    """For supervisors that are processes of their own: they kill what does not stop, and know how
    each life of a service ended.
    """

    async def test_a_stop_that_ended_in_sigkill_is_not_clean(self, supervised: Supervised) -> None:
        running = await supervised.until(Program.STUBBORN, ServiceState.RUNNING)
        assert running.stop_grace == 1
        await supervised.stop(Program.STUBBORN, running.identity)
        stopped = await supervised.until(
            Program.STUBBORN, ServiceState.STOPPED, ServiceState.FAILED
        )
        assert stopped.clean_exit is False
        assert "signal" in stopped.says

    async def test_what_its_stop_does_to_children_is_known(self, supervised: Supervised) -> None:
        group, polite = await supervised.status(Program.GROUP, Program.POLITE)
        assert (group.signals_children, polite.signals_children) == (True, False)
        assert (polite.stop_signal, polite.stop_grace) == ("SIGTERM", 10)

    async def test_a_supervisor_that_is_gone_says_so(self, supervised: Supervised) -> None:
        supervised.end()
        for act in (
            supervised.status(Program.POLITE),
            supervised.start(Program.POLITE),
            supervised.stop(Program.POLITE, None),
        ):
            with pytest.raises(CommandFailed, match="not running") as caught:
                await act
            assert caught.value.fix
