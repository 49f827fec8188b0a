"""What a verb would do to a worker: values that the plan shows and the executor carries out.

The same builders serve both, so a plan cannot say anything else than what the run does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.ports import AddConsumer, BootSupervisor, CancelConsumer, Command, Control, Order
from celery_ops.runbook.loader import as_argument
from celery_ops.runbook.schema import WorkerVerb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.model import ServiceRef
    from celery_ops.ports import Hosts
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.schema import ControlStep, RunStep


@dataclass(frozen=True, slots=True)
class ControlAction:
    """A control message to one worker."""

    worker: str
    order: Order

    def __str__(self) -> str:
        arguments = json.dumps(self.order.arguments, sort_keys=True)
        return f"control {self.order.method} {arguments} to {self.worker}"


@dataclass(frozen=True, slots=True)
class HostAction:
    """A command on a host, conditional on the incarnation it was planned against."""

    service: ServiceRef
    command: Command
    only_if: str | None = None

    def __str__(self) -> str:
        condition = f"  (only while {self.only_if} runs)" if self.only_if else ""
        return f"{self.service.host}: {self.command}{condition}"


Action = ControlAction | HostAction


def cancel(target: PlannedWorker) -> tuple[ControlAction, ...]:
    """Stop taking messages, queue by queue."""
    return tuple(
        ControlAction(target.name, CancelConsumer(queue.name)) for queue in target.queues or ()
    )


def give_back(target: PlannedWorker) -> tuple[ControlAction, ...]:
    """Consume the recorded queues again, each as it was declared."""
    return tuple(ControlAction(target.name, AddConsumer(queue)) for queue in target.queues or ())


def stop(service: ServiceRef, expect: str | None, hosts: Hosts, *, at_boot: str = "") -> HostAction:
    """Stop a service, if it still is the incarnation that was planned against; with `at_boot`, how
    it is set now, so that it is not started at boot either.
    """
    supervisor = hosts.supervisor(service.supervisor)
    if at_boot and isinstance(supervisor, BootSupervisor):
        return HostAction(service, supervisor.stop_for_good(service, expect=expect), expect)
    return HostAction(service, supervisor.stop(service, expect=expect), expect)


def start(service: ServiceRef, hosts: Hosts, *, at_boot: str = "") -> HostAction:
    """Start a service; with `at_boot`, as it was, also when its host boots."""
    supervisor = hosts.supervisor(service.supervisor)
    if at_boot and isinstance(supervisor, BootSupervisor):
        return HostAction(service, supervisor.start_for_good(service, at_boot=at_boot))
    return HostAction(service, supervisor.start(service))


def unset_by(target: PlannedWorker, *, for_good: bool) -> str:
    """How a service is set to be started at boot before its stop unsets that."""
    return (target.at_boot or "") if for_good else ""


def control(step: ControlStep, worker: str, scope: Mapping[str, object]) -> ControlAction:
    """A control command of the runbook's. Raise PreconditionFailed for an unknown argument."""
    arguments = {name: as_argument(value, scope) for name, value in step.arguments}
    return ControlAction(worker, Control(step.method, arguments))


def scale(worker: str, by: int) -> ControlAction:
    """Grow by so many processes, or shrink by one.

    A shrink by more ends every process that is idle before it finds that there are not enough: a
    pool of none at all was left (measured on Celery 5.7).
    """
    if by < 0:
        return ControlAction(worker, Control("pool_shrink", {"n": 1}))
    return ControlAction(worker, Control("pool_grow", {"n": by}))


def autoscale(worker: str, most: int) -> ControlAction:
    """Let a worker that scales itself have so many processes at most."""
    return ControlAction(worker, Control("autoscale", {"max": most}))


def turns(
    step: RunStep, chosen: Iterable[str], targets: Mapping[str, PlannedWorker]
) -> list[str | None]:
    """The targets that a command is run for: all, or the first of each host; None: no worker's."""
    if not step.once_per_host:
        return [*chosen] or [None]
    first: dict[str | None, str | None] = {}
    for name in chosen:
        service = targets[name].service
        first.setdefault(service.host if service is not None else None, name)
    return list(first.values())


def of_verb(
    verb: WorkerVerb, target: PlannedWorker, hosts: Hosts, *, for_good: bool = False
) -> tuple[Action, ...]:
    """Everything the verb would send for this target, in order."""
    match verb:
        case WorkerVerb.DRAIN:
            return cancel(target)
        case WorkerVerb.RESUME:
            return give_back(target)
        case WorkerVerb.STOP:
            at_boot = unset_by(target, for_good=for_good)
            return (stop(_service(target), target.identity, hosts, at_boot=at_boot),)
        case WorkerVerb.START:
            return (start(_service(target), hosts, at_boot=target.unset_at_boot),)
        case WorkerVerb.RESTART:
            service = _service(target)
            again = start(service, hosts, at_boot=target.unset_at_boot)
            return (stop(service, target.identity, hosts), again)


def undo_of(
    verb: WorkerVerb, target: PlannedWorker, hosts: Hosts, *, for_good: bool = False
) -> str | None:
    """How the verb is taken back, in words; None where there is nothing to take back."""
    match verb:
        case WorkerVerb.DRAIN:
            return f"add_consumer {_queues(target)}, each as it was declared, to {target.name}"
        case WorkerVerb.RESUME:
            return f"cancel_consumer {_queues(target)} to {target.name}"
        case WorkerVerb.STOP | WorkerVerb.RESTART:
            at_boot = target.unset_at_boot or unset_by(target, for_good=for_good)
            return str(start(_service(target), hosts, at_boot=at_boot))
        case WorkerVerb.START:
            return str(stop(_service(target), None, hosts))


def _service(target: PlannedWorker) -> ServiceRef:
    if target.service is None:
        raise ValueError(
            f"{target.name} has no supervisor: this must be refused when it is planned"
        )
    return target.service


def _queues(target: PlannedWorker) -> str:
    return ", ".join(queue.name for queue in target.queues or ())
