"""Finds a fleet from its broker and its hosts, and writes the `celery-ops.yaml` that describes it.

Changes nothing but that one file, and writes no secret into it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import shlex
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from celery_ops.cli import terminal
from celery_ops.cli.boundary import complain
from celery_ops.cli.config_source import BROKER_VARIABLE, source_of
from celery_ops.cli.deployment import opened
from celery_ops.config import contexts, draft
from celery_ops.config.contexts import LOCAL, HostEntry, SshSettings
from celery_ops.config.document import did_you_mean, shown
from celery_ops.config.draft import Draft, DraftHost
from celery_ops.errors import CommandFailed, HostUnreachable, OpsError, UsageError
from celery_ops.fleet.collector import look
from celery_ops.fleet.finding import join
from celery_ops.model import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_ops.cli.choice import Choice
    from celery_ops.cli.config_source import Source
    from celery_ops.config.contexts import Context
    from celery_ops.fleet.finding import Findings, Unmatched
    from celery_ops.model import Discovered, FleetSnapshot, ServiceRef, Worker

ANSWER_TIMEOUT = 5.0
"""Seconds; more than a look: whoever does not answer would be missing in what is written."""
_HOST = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[0-9a-fA-F:.%]+\]|[^@:\[\]\s]+)(?::(?P<port>\d{1,5}))?"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for. `output` is None for stdout."""

    choice: Choice
    hosts: tuple[str, ...]
    name: str
    ssh_user: str | None
    output: Path | None
    force: bool


async def init(wanted: Wanted) -> bool:
    """Find, write, and say so; whether nothing is missing in what was written.

    Raise UsageError, BrokerUnreachable, or HostUnreachable with everything that is wrong with any
    host: then nothing is written.
    """
    if not _NAME.fullmatch(wanted.name):
        raise UsageError(f"{shown(wanted.name)} cannot name a context.")
    _may_write(wanted)
    source = source_of(wanted.choice)
    async with opened(source.context) as deployment:
        snapshot = await look(deployment.surveyor, timeout=ANSWER_TIMEOUT)
    workers = [one for one in snapshot.workers if one.answers or one.state is WorkerState.CONFLICT]
    places = list(dict.fromkeys(one.name.partition("@")[2] for one in workers))
    entries = _entries(wanted.hosts or _asked_hosts(places), wanted.ssh_user)
    hosts = await _discover(source.context, entries, workers, places)
    quiet = {one.name for one in snapshot.workers if one not in workers}
    findings = join(workers, hosts, snapshot.at, bound=quiet | set(snapshot.bound_but_silent))
    described = _described(wanted, source, _written_hosts(entries, hosts, places), hosts, findings)
    content = draft.text(described)
    _prove(content, source)
    _tell(snapshot, hosts, findings)
    if not (findings.services or findings.maybe):
        raise CommandFailed("No service was found that could be written, so nothing was.")
    _write(wanted, content)
    _tell_next(wanted, source, described)
    return bool(findings.matched) and not (findings.unmatched or findings.doubts)


# --- the hosts -----------------------------------------------------------------------------------


def _asked_hosts(places: Sequence[str]) -> tuple[str, ...]:
    guess = " ".join(places) or LOCAL
    if not terminal.can_ask():
        fix = f"By their names the workers run on: celery-ops config init {guess}"
        raise UsageError("No hosts were named.", fix=fix)
    typed = terminal.ask(f"Which hosts do the workers run on? [{guess}]")
    return tuple((typed or guess).replace(",", " ").split())


def _entries(words: Sequence[str], user: str | None) -> tuple[HostEntry, ...]:
    """The hosts that are named. Raise UsageError with all that are no hosts."""
    entries, wrong = [], []
    for word in dict.fromkeys(words):
        match = _HOST.fullmatch(word)
        port = int(match["port"]) if match and match["port"] else None
        if match is None or (port is not None and not 0 < port < 65536):
            wrong.append(shown(word))
            continue
        address = match["host"].strip("[]")
        ssh = SshSettings(match["user"] or user, port)
        entries.append(HostEntry(address, address, address, ssh))
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)} cannot be a host.",
            fix="Write web1, deploy@web1, web1:2222, local.",
        )
    twice = [name for name, count in Counter(one.name for one in entries).items() if count > 1]
    if twice:
        raise UsageError(f"{', '.join(twice)} is named twice.")
    return tuple(entries)


async def _discover(
    found: Context,
    entries: Sequence[HostEntry],
    workers: Sequence[Worker],
    places: Sequence[str],
) -> list[Discovered]:
    """What is on the hosts, by the names they get in the file.

    Raise HostUnreachable for all that could not be looked at. `places` are the hosts of the
    workers' names: what may have been meant.
    """
    remote = tuple(one for one in entries if one.name != LOCAL)
    pids = [pid for worker in workers for pid in (worker.pid, *worker.pids) if pid is not None]
    async with opened(replace(found, hosts=(*found.hosts, *remote))) as deployment:
        looks = (deployment.hosts.discover(one.name, pids) for one in entries)
        results = await asyncio.gather(*looks, return_exceptions=True)
    failed = []
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, OpsError):
            hint = "" if entry.name in places else did_you_mean(entry.name, places)
            failed.append(f"{entry.name}{hint}: {result}")
        elif isinstance(result, BaseException):
            raise result
    if failed:
        raise HostUnreachable(
            "\n".join(failed), fix="Nothing was written. Mend it, or leave the host out."
        )
    found_on = [one for one in results if not isinstance(one, BaseException)]
    names = _names(entries, found_on)
    return [_called(names[one.host], one) for one in found_on]


# --- the file ------------------------------------------------------------------------------------


def _described(
    wanted: Wanted,
    source: Source,
    written: Sequence[DraftHost],
    hosts: Sequence[Discovered],
    findings: Findings,
) -> Draft:
    order = [host.host for host in hosts]
    services = sorted(
        findings.services, key=lambda one: (one.beat, order.index(one.host), _natural(one.name))
    )
    users = {host.user for host in written}
    common = next(iter(users)) if len(users) == 1 else None
    unprivileged = {host.host for host in hosts if not host.is_root}
    return Draft(
        context=wanted.name,
        broker=source.written,
        settings=source.settings,
        broker_options=source.options,
        user=common,
        sudo=any(one.supervisor == "systemd" and one.host in unprivileged for one in services),
        hosts=tuple(replace(one, user=None) if common else one for one in written),
        services=tuple(services),
        maybe=findings.maybe,
        remarks=tuple(_remarks(source, findings)),
        starts={
            (host.host, one.service.name): one.start
            for host in hosts
            for one in host.processes
            if one.service is not None and one.start
        },
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """As people count: worker2 before worker10."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _written_hosts(
    entries: Sequence[HostEntry], hosts: Sequence[Discovered], places: Sequence[str]
) -> list[DraftHost]:
    """`hostname` is written where node names call a host otherwise than the file does."""
    return [
        DraftHost(
            name=host.host,
            address=entry.address if entry.address != host.host else None,
            hostname=host.hostname if host.hostname in set(places) - {host.host} else None,
            user=entry.ssh.user,
            port=entry.ssh.port,
        )
        for entry, host in zip(entries, hosts, strict=True)
        if entry.name != LOCAL
    ]


def _names(entries: Sequence[HostEntry], hosts: Sequence[Discovered]) -> dict[str, str]:
    """What to call each host: as it was named, but an address by what the host calls itself."""
    shorts = [host.hostname.partition(".")[0] for host in hosts]
    names = {}
    for entry, short in zip(entries, shorts, strict=True):
        is_address = not _NAME.fullmatch(entry.name)
        with suppress(ValueError):
            is_address = bool(ipaddress.ip_address(entry.name))
        fits = _NAME.fullmatch(short) and short != LOCAL and shorts.count(short) == 1
        taken = any(short == other.name for other in entries)
        usual = re.sub(r"[^A-Za-z0-9._-]", "-", entry.name).lstrip("._-") or "host"
        names[entry.name] = short if is_address and fits and not taken else usual
    return names


def _called(name: str, host: Discovered) -> Discovered:
    """The same under another name."""

    def moved(ref: ServiceRef) -> ServiceRef:
        return replace(ref, host=name)

    processes = (
        one if one.service is None else replace(one, service=moved(one.service))
        for one in host.processes
    )
    idle = (replace(one, service=moved(one.service)) for one in host.idle)
    return replace(host, host=name, processes=tuple(processes), idle=tuple(idle))


def _remarks(source: Source, findings: Findings) -> Iterator[str]:
    if source.left_out:
        yield f"Not written, for they may be secret: broker_options {', '.join(source.left_out)}"
    for subjects, one in _alike(findings.unmatched):
        yield f"Not found: {subjects}: {one.says}"
    for name in findings.embedded:
        yield f"{name} is a scheduler too (-B): it is no service of its own."


def _prove(content: str, source: Source) -> None:
    """Read it with our own loader before anybody else does. Raise InvalidDocument."""
    environ = {**os.environ, BROKER_VARIABLE: source.context.broker.reveal()}
    with tempfile.TemporaryDirectory(prefix="celery-ops-") as folder:
        path = Path(folder) / contexts.FILE_NAME
        path.write_text(content, encoding="utf-8")
        contexts.load(path, environ)


def _may_write(wanted: Wanted) -> None:
    if wanted.output is None:
        return
    if not wanted.output.parent.is_dir():
        raise UsageError(f"{wanted.output} cannot be written: {wanted.output.parent} is not there.")
    if wanted.output.exists() and not wanted.force:
        raise UsageError(
            f"{wanted.output} is there already, and was not touched.",
            fix="Write over it with --force, or elsewhere with --output FILE (- is stdout).",
        )


def _write(wanted: Wanted, content: str) -> None:
    """All of it or nothing, and for nobody else to read. Raise UsageError if it cannot be."""
    if wanted.output is None:
        click.echo(content, nl=False)
        return
    path = wanted.output
    made: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        made = Path(name)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(content)
        if wanted.force:
            made.replace(path)
        else:
            path.hardlink_to(made)  # unlike a rename it never writes over what is there
    except FileExistsError:
        _may_write(wanted)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        if made is not None:
            made.unlink(missing_ok=True)


# --- what is said --------------------------------------------------------------------------------


def _tell(snapshot: FleetSnapshot, hosts: Sequence[Discovered], findings: Findings) -> None:
    if not any(worker.answers for worker in snapshot.workers):
        complain(f"No worker answers on {snapshot.broker}: is it the right one, and its database?")
    for host in hosts:
        mine = [one for one in findings.matched if one.host == host.host]
        complain(f"{host.host}: {', '.join(_found_on(host, mine, findings)) or 'nothing found'}")
        for one in mine:
            complain(f"  {one.worker} is {one.service.supervisor} {one.service.name}")
        for note in host.notes:
            complain(f"  {note}")
    for title, found in (("Not found:", findings.unmatched), ("Not right:", findings.doubts)):
        if found:
            complain(title)
        for subjects, lost in _alike(found):
            complain(f"  {subjects}: {lost.says}")
            if lost.fix:
                complain(f"    {lost.fix}")
    if not findings.beats and not findings.embedded:
        complain("No beat was found.")
    for says in findings.foreign:
        complain(f"Left out: {says}.")


def _alike(unmatched: Sequence[Unmatched]) -> Iterator[tuple[str, Unmatched]]:
    """Those of which the same is said, together."""
    groups: dict[tuple[str, str], list[Unmatched]] = {}
    for one in unmatched:
        groups.setdefault((one.says, one.fix), []).append(one)
    for members in groups.values():
        yield ", ".join(one.subject for one in members), members[0]


def _found_on(host: Discovered, mine: Sequence[object], findings: Findings) -> Iterator[str]:
    beats = sum(one.host == host.host for one in findings.beats)
    idle = sum(one.host == host.host for one in (*findings.idle, *findings.maybe))
    for count, one, many in (
        (len(mine), "worker with its service", "workers with their services"),
        (beats, "beat", "beats"),
        (idle, "service that does not run", "services that do not run"),
    ):
        if count:
            yield f"{count} {one if count == 1 else many}"


def _tell_next(wanted: Wanted, source: Source, written: Draft) -> None:
    if wanted.output is None:
        return
    complain(f"{wanted.output} is written.")
    if written.sudo:
        complain("It uses `sudo -n` to start and stop units; config check says what is allowed.")
    is_set = os.environ.get(BROKER_VARIABLE) == source.context.broker.reveal()
    if written.broker.startswith("${") and not is_set:
        complain(f"The broker's password is not in it: export {BROKER_VARIABLE}=… first.")
    usual = wanted.output == Path(contexts.FILE_NAME)
    option = "" if usual else f"--config {shlex.quote(str(wanted.output))} "
    complain(f"Next: celery-ops {option}config check")
