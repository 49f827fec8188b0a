"""Which service runs which worker. The pid is the proof; the configured name is what we expect.
In containers, where it mostly is 1, the name that a process's command line makes must agree, too.

Pids are only unique within a host, and a host's name in the configuration need not be the one in
the node names: an equal pid alone is believed when the name agrees, the host agrees, or nothing
else has it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from celery_ops.model import ServiceState, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery_ops.model import FleetSnapshot, SeenProcess, Service, ServiceRef, Worker

_RUNNING = ServiceState.RUNNING
_NOT_HEARD = frozenset({WorkerState.SILENT, WorkerState.STOPPED})
_TITLE = re.compile(r"\[celeryd: (.+@.+):MainProcess\]")


def match(pids: Mapping[str, int | None], services: Iterable[Service]) -> dict[str, Service]:
    """The service of each worker that has one.

    `pids` are those of the known nodes by name, configured ones that were never seen included
    (None). A service whose expected worker has another pid is matched to the worker that has it, if
    there is one, else to the expected name: the mismatch stays visible in the two pids or the two
    names.
    """
    workers = [service for service in services if not service.ref.beat]
    found: dict[str, Service] = {}
    open_services: list[Service] = []
    for service in workers:
        name, pid = service.ref.worker, _told_pid(service)
        is_expected = name is not None and name in pids and name not in found
        is_expected = is_expected and _node(service) in (None, name)
        if name is not None and is_expected and (pid is None or pids[name] in (None, pid)):
            found[name] = service
        else:
            open_services.append(service)
    owners: dict[int, list[str]] = {}
    for name, pid in pids.items():
        if pid is not None and name not in found:
            owners.setdefault(pid, []).append(name)
    shared = Counter(_told_pid(service) for service in workers)
    for service in open_services:
        name = _owner(service, owners, is_unique=shared[_told_pid(service)] == 1)
        if name is None and service.ref.worker in pids:
            name = service.ref.worker if _node(service) in (None, service.ref.worker) else None
        if name is not None:
            found.setdefault(name, service)
    return found


def workers_by_service(snapshot: FleetSnapshot) -> dict[ServiceRef, Worker]:
    """The worker of each service that has one."""
    return {one.service.ref: one for one in snapshot.workers if one.service is not None}


def unmatched_services(snapshot: FleetSnapshot) -> tuple[Service, ...]:
    """Services for which no worker answers: they do not run, or what they run is not heard."""
    found = workers_by_service(snapshot)
    return tuple(
        service
        for service in snapshot.services
        if not service.ref.beat
        and (service.ref not in found or found[service.ref].state in _NOT_HEARD)
    )


def unmatched_workers(snapshot: FleetSnapshot) -> tuple[Worker, ...]:
    """Workers of ours that no configured service runs."""
    return tuple(one for one in snapshot.workers if one.mine and one.service is None)


def rivals(services: Iterable[Service]) -> dict[str, tuple[Service, ...]]:
    """Node names that more than one running service has taken, by their command lines.

    The broker may not have told yet: two processes that share a name answer as one.
    """
    by_name: dict[str, list[Service]] = {}
    for service in services:
        if service.ref.beat or service.error is not None or service.state is not _RUNNING:
            continue
        name = None if service.status is None else node_name(service.status.value.arguments or ())
        if name is not None:
            by_name.setdefault(name, []).append(service)
    return {name: tuple(found) for name, found in by_name.items() if _are_side_by_side(found)}


def node_name(arguments: Sequence[str]) -> str | None:
    """The node name that a worker's command line tells; None where it depends on its host.

    Where setproctitle is installed a worker writes its whole name there.
    """
    title = _TITLE.match(arguments[0]) if arguments else None
    if title is not None:
        return title[1]
    for word, following in zip(arguments, (*arguments[1:], ""), strict=False):
        if word in ("-n", "--hostname"):
            return _whole(following)
        if word.startswith("--hostname="):
            return _whole(word.partition("=")[2])
        if word.startswith("-n") and not word.startswith("-n="):
            return _whole(word[2:])
    return None


def pool_name(arguments: Sequence[str]) -> str | None:
    """The kind of pool that a worker's command line names; None where it names none."""
    if arguments and _TITLE.match(arguments[0]) is not None:
        arguments = re.split(r"[\s()]+", arguments[0])
    named = None
    for word, following in zip(arguments, (*arguments[1:], ""), strict=False):
        if word in ("-P", "--pool"):
            named = following
        elif word.startswith("--pool="):
            named = word.partition("=")[2]
        elif word.startswith("-P"):
            named = word[2:]
    return named


def owner(process: SeenProcess, services: Iterable[Service]) -> Service | None:
    """The service whose main process it is, or descends from."""
    for service in services:
        status = service.status.value if service.status is not None else None
        if status is not None and status.pid is not None and status.pid in process.line:
            return service
    return None


def _are_side_by_side(services: Sequence[Service]) -> bool:
    """Each was still seen running when the last of them had begun: no handing over."""
    if len({(one.ref.host, _pid(one)) for one in services}) < 2:
        return False
    statuses = [one.status for one in services if one.status is not None]
    starts = [status.value.started_at for status in statuses]
    last = max((start for start in starts if start is not None), default=None)
    return last is None or all(status.at >= last for status in statuses)


def _whole(name: str) -> str | None:
    """Without a host Celery adds its own; `%h` and the like are replaced."""
    user, _, host = name.partition("@")
    return name if user and host and "%" not in name else None


def _owner(service: Service, owners: Mapping[int, list[str]], *, is_unique: bool) -> str | None:
    pid = _told_pid(service)
    candidates = owners.get(pid, []) if pid is not None else []
    node = _node(service)
    if node is not None:
        return node if node in candidates else None
    on_host = [name for name in candidates if _host_of(name) == _short(service.ref.host)]
    if len(on_host) == 1:
        return on_host[0]
    if len(candidates) == 1 and is_unique and service.ref.worker is None:
        return candidates[0]
    return None


def _pid(service: Service) -> int | None:
    return service.status.value.pid if service.status is not None else None


def _told_pid(service: Service) -> int | None:
    return service.status.value.told_pid if service.status is not None else None


def _node(service: Service) -> str | None:
    return service.status.value.node if service.status is not None else None


def _host_of(node: str) -> str:
    return _short(node.partition("@")[2])


def _short(host: str) -> str:
    return host.partition(".")[0]
