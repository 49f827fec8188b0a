"""The hosts of one context, each reached once, and the supervisors on them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from celery_ops.config.contexts import LOCAL
from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import CommandFailed, UsageError
from celery_ops.hosts import facts, listing, owners, processes, rights
from celery_ops.hosts.compose import Compose
from celery_ops.hosts.docker import Docker
from celery_ops.hosts.local import NOT_FOUND, LocalShell
from celery_ops.hosts.multi import Multi
from celery_ops.hosts.own_commands import OwnCommands
from celery_ops.hosts.releases import images_of, layout_of
from celery_ops.hosts.supervisord import Supervisord
from celery_ops.hosts.systemd import Systemd

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.config.contexts import Context
    from celery_ops.hosts.ssh import SshHosts
    from celery_ops.hosts.ssh_keys import AskPassphrase
    from celery_ops.hosts.supervisord import Listed
    from celery_ops.model import Discovered, Rights, SeenProcesses, ServiceRef
    from celery_ops.ports import HostReading, ReleaseLayout, Shell, Supervisor

PROCESSES_TIMEOUT = 10.0
FACTS_TIMEOUT = 10.0
DISCOVERY_TIMEOUT = 20.0
RIGHTS_TIMEOUT = 20.0


class HostPool:
    """The Hosts port for a context."""

    def __init__(self, context: Context, *, ask_passphrase: AskPassphrase | None = None) -> None:
        """`ask_passphrase` is awaited, once at most, for each encrypted key that is needed."""
        self._context = context
        self._ask_passphrase = ask_passphrase
        self._ssh: SshHosts | None = None
        self._local = LocalShell()
        sudo = frozenset(one.name for one in context.hosts if one.ssh.sudo)
        nodes = {(one.host, one.name): node for one, node in context.nodes.items()}
        own = {(one.host, one.name): commands for one, commands in context.commands.items()}
        self._docker = Docker(sudo)
        self._supervisors: dict[str, Supervisor] = {
            "commands": OwnCommands(own),
            "multi": Multi(nodes, sudo),
            "supervisord": Supervisord(context.server_passwords),
            "systemd": Systemd(sudo),
            "docker": self._docker,
            "compose": Compose(sudo, context.compose_files, images_of(context)),
        }

    def shell(self, host: str) -> Shell:
        """The shell of a host. Raise UsageError for a name that is not configured, or an SSH client
        configuration that cannot be used. Nothing is connected yet.
        """
        if host == LOCAL:
            return self._local
        entry = self._context.host(host)
        if entry is None:
            names = [one.name for one in self._context.hosts]
            raise UsageError(f"No host is called {shown(host)}{did_you_mean(host, names)}.")
        return self._remote().shell(entry)

    async def unlock(self) -> None:
        """Ask for the passphrases that are needed, before anything else waits for the hosts."""
        remote = [entry for entry in self._context.hosts if entry.name != LOCAL]
        if remote:
            await self._remote().unlock(remote)

    def supervisor(self, kind: str) -> Supervisor:
        """Raise CommandFailed for a kind that this version cannot speak to."""
        if kind not in self._supervisors:
            known = ", ".join(sorted(self._supervisors))
            raise CommandFailed(f"This version does not speak to {kind}, only to {known}.")
        return self._supervisors[kind]

    def release_layout(self, host: str) -> ReleaseLayout | None:
        """How that host keeps releases; None where that is not configured."""
        return layout_of(self._context, host, self._docker)

    async def arguments(self, host: str, pids: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """Command lines of processes; a pid that is gone, or is the kernel's, is left out.

        Raise HostUnreachable or CommandFailed.
        """
        if not pids:
            return {}
        command = processes.arguments(pids)
        completed = await self.shell(host).run(command, timeout=PROCESSES_TIMEOUT)
        return processes.read_arguments(pids, completed)

    async def facts(self, host: str, pids: Collection[int]) -> HostReading:
        """How a host is doing. Raise HostUnreachable, CommandFailed or UsageError."""
        completed = await self.shell(host).run(facts.ask(pids), timeout=FACTS_TIMEOUT)
        return facts.read(completed)

    async def processes(self, host: str) -> SeenProcesses:
        """What of Celery's runs there. Raise HostUnreachable, CommandFailed or UsageError."""
        command = listing.processes_command()
        completed = await self.shell(host).run(command, timeout=PROCESSES_TIMEOUT)
        return owners.processes(listing.read(completed))

    async def discover(self, host: str, pids: Collection[int]) -> Discovered:
        """What of Celery's is on a host; processes of these pids are looked at in any case.

        Raise HostUnreachable or CommandFailed.
        """
        shell = self.shell(host)
        completed = await shell.run(listing.command(pids), timeout=DISCOVERY_TIMEOUT)
        seen = listing.read(completed)
        programs: dict[int, tuple[Listed, ...]] = {}
        silent: dict[int, tuple[str, str]] = {}
        for pid, server in owners.supervisords(seen).items():
            try:
                programs[pid] = await self._listed(host, server)
            except CommandFailed as error:
                silent[pid] = (f"supervisord (pid {pid}) runs it: {error.says}", error.fix or "")
        found = owners.Found(host, seen, frozenset(pids), programs, silent)
        return owners.discovered(await self._with_containers(found))

    async def rights(self, host: str, services: Sequence[ServiceRef]) -> Rights:
        """Who we are on a host, and which of these services we may not start and stop there.

        Nothing is started or stopped. Raise HostUnreachable or CommandFailed.
        """
        systemd = [one for one in services if one.supervisor == "systemd"]
        entry = self._context.host(host)
        command = rights.command(systemd, sudo=entry is not None and entry.ssh.sudo)
        completed = await self.shell(host).run(command, timeout=RIGHTS_TIMEOUT)
        told = rights.read(systemd, completed)
        refused = {**told.refused, **await self._refused_by_docker(host, services)}
        return replace(told, refused=refused)

    async def _refused_by_docker(
        self, host: str, services: Sequence[ServiceRef]
    ) -> dict[ServiceRef, tuple[str, str]]:
        """Whoever may ask docker may command it, but for what sudo allows."""
        contained = [one for one in services if one.supervisor in {"docker", "compose"}]
        refused: dict[ServiceRef, tuple[str, str]] = {}
        for server in {one.server for one in contained}:
            mine = [one for one in contained if one.server == server]
            command = self._docker.may_act(host, server)
            completed = await self.shell(host).run(command, timeout=RIGHTS_TIMEOUT)
            try:
                self._docker.read_may_act(mine[0], completed)
            except CommandFailed as error:
                refused |= dict.fromkeys(mine, (error.says, error.fix or ""))
        return refused

    async def _with_containers(self, found: owners.Found) -> owners.Found:
        """What docker tells of the host, if it has one and tells us."""
        docker = self._docker
        completed = await self.shell(found.host).run(
            docker.listing(found.host), timeout=DISCOVERY_TIMEOUT
        )
        if completed.code == NOT_FOUND:
            return found
        try:
            return replace(found, containers=docker.read_listing(found.host, completed))
        except CommandFailed as error:
            return replace(found, no_docker=(error.says, error.fix or ""))

    async def _listed(self, host: str, server: str | None) -> tuple[Listed, ...]:
        if server is None:
            raise CommandFailed(
                "it listens on no unix socket that can be seen.",
                fix="Write the service by hand, with server: http://127.0.0.1:9001.",
            )
        supervisord = Supervisord()
        command = supervisord.listing(host, server)
        completed = await self.shell(host).run(command, timeout=DISCOVERY_TIMEOUT)
        return supervisord.read_listing(host, completed)

    def _remote(self) -> SshHosts:
        if self._ssh is None:
            # paramiko takes longer to import than all the rest: not without a remote host.
            module = importlib.import_module("celery_ops.hosts.ssh")
            self._ssh = cast("SshHosts", module.SshHosts(self._ask_passphrase))
        return self._ssh

    async def close(self) -> None:
        """Close the connections, quickly even if a host hangs."""
        if self._ssh is not None:
            await self._ssh.close()
