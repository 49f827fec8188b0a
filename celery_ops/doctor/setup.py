"""Whether a configuration fits the fleet it describes: each host, service and worker, one by one.

Pure: judges what was read, and claims nothing of what could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.model import ServiceState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery_ops.errors import OpsError
    from celery_ops.model import FleetSnapshot, Rights, Service, ServiceStatus, Worker

DANGERS = {
    *("stop-loses-tasks", "restart-is-not-safe", "purges-on-start"),
    *("worker-conflict", "worker-unreadable"),
}
"""The doctor's rules that speak of how services are set up; the others are about today."""

_MAY = {
    "multi": "may be stopped; what its start may do is not known before",
    "commands": "what its commands may do is not known before",
}
_SINCE = 30.0
"""Seconds a service may run before its worker is expected to answer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `kind` is broker, host, service, worker, or a doctor's rule."""

    kind: str
    subject: str
    ok: bool
    says: str
    fix: str = ""


Reached = dict[str, "Rights | OpsError"]
"""What each host said of our rights, or why it could not be asked."""


def host_checks(reached: Mapping[str, Rights | OpsError]) -> Iterator[Check]:
    """Every host: reached, its key accepted, logged in."""
    for name, rights in reached.items():
        if isinstance(rights, Exception):
            yield Check("host", name, ok=False, says=rights.says, fix=rights.fix or "")
        else:
            yield Check("host", name, ok=True, says=f"commands run there as {rights.user}")


def fleet_checks(
    snapshot: FleetSnapshot, reached: Mapping[str, Rights | OpsError]
) -> Iterator[Check]:
    """Every service, every worker without one, and what the doctor says of how they are set up."""
    owners = {
        worker.service.ref: worker for worker in snapshot.workers if worker.service is not None
    }
    order = {name: place for place, name in enumerate(reached)}
    for service in sorted(snapshot.services, key=lambda one: order.get(one.ref.host, len(order))):
        host = reached.get(service.ref.host)
        if not isinstance(host, Exception):
            yield _service(service, owners.get(service.ref), host, snapshot)
    for worker in snapshot.workers:
        if worker.mine and worker.answers and worker.service is None:
            yield Check(
                "worker",
                worker.name,
                ok=False,
                says="no service of this configuration runs it: it cannot be restarted",
                fix="Add its service (celery-ops config init finds it), or set `scope` without it.",
            )
    for finding in snapshot.problems:
        if finding.rule in DANGERS:
            yield Check(finding.rule, finding.subject, ok=False, says=finding.says, fix=finding.fix)


def _service(
    service: Service, worker: Worker | None, host: Rights | None, snapshot: FleetSnapshot
) -> Check:
    wrong = _wrong(service, worker, snapshot)
    if wrong is None and host is not None and service.ref in host.refused:
        wrong = host.refused[service.ref]
    subject = str(service.ref)
    if wrong is not None:
        says, fix = wrong
        return Check("service", subject, ok=False, says=says, fix=fix)
    says = _right(service, worker, host, snapshot)
    if host is None or service.ref not in host.refused_for_good:
        return Check("service", subject, ok=True, says=says)
    why, fix = host.refused_for_good[service.ref]
    return Check("service", subject, ok=True, says=f"{says}, but not for good: {why}", fix=fix)


def _wrong(
    service: Service, worker: Worker | None, snapshot: FleetSnapshot
) -> tuple[str, str] | None:
    """The first thing that is wrong with it, and what helps."""
    status = service.status.value if service.status is not None else None
    if status is None:
        return service.error or "its supervisor did not answer", ""
    if status.state in {ServiceState.UNKNOWN, ServiceState.FAILED}:
        return status.says, "Correct its name, or leave it out if it is gone."
    if status.startable is False:
        return f"{status.says}: once stopped, it could not be started again", ""
    if status.state is not ServiceState.RUNNING or service.ref.beat:
        return None
    if worker is None or worker.pid is None:
        return _no_worker(service, status, snapshot)
    expected = service.ref.worker
    if expected is not None and expected != worker.name:
        says = f"it runs {worker.name}, not {expected}"
        return says, f"Write worker: {worker.name}"
    if status.told_pid not in {None, worker.pid}:
        says = f"its process is {status.pid}, but {worker.name} answers as pid {worker.pid}"
        return says, "Start celery without a shell around it (exec), or correct `worker:`."
    return None


def _no_worker(
    service: Service, status: ServiceStatus, snapshot: FleetSnapshot
) -> tuple[str, str] | None:
    started = status.started_at
    if started is not None and (snapshot.at - started).total_seconds() < _SINCE:
        return "it has just been started, and its worker does not answer yet", "Look again."
    expected = service.ref.worker
    if expected is None:
        says = f"its process {status.pid} is no worker that answers on this broker"
        return says, "Write beat: true if it is a scheduler; leave it out if it is neither."
    says = f"it runs (pid {status.pid}), but {expected} does not answer"
    return says, "Correct `worker:`, or see its log: is its broker this one?"


def _right(
    service: Service, worker: Worker | None, host: Rights | None, snapshot: FleetSnapshot
) -> str:
    status = service.status.value if service.status is not None else None
    parts = []
    if status is not None and status.state is not ServiceState.RUNNING:
        expected = f" (so {service.ref.worker} is not proven)" if service.ref.worker else ""
        parts.append(f"{status.says}{expected}")
    elif service.ref.beat:
        parts.append("beat runs")
    elif worker is not None:
        parts.append(f"is {worker.name} (pid {worker.pid})")
    if status is not None and not service.ref.beat:
        parts.append(_grace(status, worker, snapshot))
    if host is not None:
        parts.append(_MAY.get(service.ref.supervisor, "may be started and stopped"))
    return "; ".join(parts)


def _grace(status: ServiceStatus, worker: Worker | None, snapshot: FleetSnapshot) -> str:
    wait = "without a known limit" if status.stop_grace is None else as_duration(status.stop_grace)
    if worker is None or worker.active is None:
        return f"a stop waits {wait}"
    running = [
        (snapshot.at - task.started_at).total_seconds()
        for task in worker.active.value
        if task.started_at is not None
    ]
    longest = f"the longest task runs for {as_duration(round(max(running)))}" if running else ""
    return f"a stop waits {wait}, {longest or 'no task runs now'}"
