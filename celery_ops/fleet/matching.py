"""Which service runs which worker. The pid is the proof; the configured name is what we expect.

Pids are only unique within a host, and a host's name in the configuration need not be the one in
the node names: an equal pid alone is believed when the name agrees, the host agrees, or nothing
else has it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.model import Service


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
        name, pid = service.ref.worker, _pid(service)
        is_expected = name is not None and name in pids and name not in found
        if name is not None and is_expected and (pid is None or pids[name] in (None, pid)):
            found[name] = service
        else:
            open_services.append(service)
    owners: dict[int, list[str]] = {}
    for name, pid in pids.items():
        if pid is not None and name not in found:
            owners.setdefault(pid, []).append(name)
    shared = Counter(_pid(service) for service in workers)
    for service in open_services:
        name = _owner(service, owners, is_unique=shared[_pid(service)] == 1)
        if name is None and service.ref.worker in pids:
            name = service.ref.worker
        if name is not None:
            found.setdefault(name, service)
    return found


def _owner(service: Service, owners: Mapping[int, list[str]], *, is_unique: bool) -> str | None:
    pid = _pid(service)
    candidates = owners.get(pid, []) if pid is not None else []
    on_host = [name for name in candidates if _host_of(name) == _short(service.ref.host)]
    if len(on_host) == 1:
        return on_host[0]
    if len(candidates) == 1 and is_unique and service.ref.worker is None:
        return candidates[0]
    return None


def _pid(service: Service) -> int | None:
    return service.status.value.pid if service.status is not None else None


def _host_of(node: str) -> str:
    return _short(node.partition("@")[2])


def _short(host: str) -> str:
    return host.partition(".")[0]
