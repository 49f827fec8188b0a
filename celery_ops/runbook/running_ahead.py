"""What runs ahead of workers that are to be switched to a release: who sends tasks that they do not
know yet, and schedulers of another release. They discard what they do not know.

Only what is seen is said: messages that wait where a look changes nothing, names that workers tell,
releases that processes are seen to run.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import PreconditionFailed
from celery_ops.fleet.peeking import look
from celery_ops.runbook.probes import listed
from celery_ops.runbook.schema import BeatStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.fleet.peeking import Look
    from celery_ops.model import FleetSnapshot, HostReleases, Service, Worker
    from celery_ops.ports import MessageStore
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.schema import Runbook

MOST_QUEUES = 50
MOST_MESSAGES = 1_000
"""Looked at of each queue, those that are served next."""
_BUILT_IN = "celery."
"""Workers do not tell that they know these, and do."""


def is_asked(runbook: Runbook, plan: Plan) -> bool:
    """It switches releases, and leaves schedulers as they are."""
    return bool(plan.activations) and not any(isinstance(one, BeatStep) for one in runbook.steps)


def schedulers(plan: Plan, snapshot: FleetSnapshot) -> list[str]:
    """Those that are ahead of the workers, and those that stay behind."""
    workers: dict[str, list[str]] = defaultdict(list)
    for target in plan.targets:
        worker = snapshot.worker(target.name)
        if worker is not None and worker.release is not None:
            workers[worker.release].append(worker.name)
    says: list[str] = []
    for service in snapshot.services:
        if service.ref.beat and service.status is not None and service.status.value.pid is not None:
            says += _ahead(service, workers, snapshot)
            says += _left_as_it_is(service, plan)
    return says


async def producers(
    plan: Plan, snapshot: FleetSnapshot, store: MessageStore | None
) -> tuple[str, ...]:
    """Tasks that wait and are not known to workers of their queue. Raise BrokerUnreachable."""
    if store is None or store.marks:
        return ()
    names = {queue.name for target in plan.targets for queue in target.queues or ()}
    waiting = [queue.name for queue in snapshot.queues if queue.name in names and queue.ready]
    says: list[str] = []
    for queue in sorted(waiting)[:MOST_QUEUES]:
        try:
            found = await look(store, queue, skip=0, limit=MOST_MESSAGES)
        except PreconditionFailed:
            continue  # something else of that name
        says += _unknown(queue, found, snapshot.consumers_of(queue))
    return tuple(says)


def _unknown(queue: str, found: Look, consumers: Sequence[Worker]) -> list[str]:
    says = []
    names = {one.message.task for one in found.wanted}
    for task in sorted(name for name in names if name and not name.startswith(_BUILT_IN)):
        strangers = [one.name for one in consumers if _knows(one, task) is False]
        if strangers:
            messages = [one.message for one in found.wanted if one.message.task == task]
            senders = listed(sorted({one.origin for one in messages if one.origin}))
            whose = f", sent by {senders}," if senders else ""
            at_least = "at least " if found.left else ""
            waits = "waits" if len(messages) == 1 and not found.left else "wait"
            does = "does" if len(strangers) == 1 else "do"
            says.append(
                f"producers run ahead: {at_least}{counted(len(messages), 'message')} of {task}"
                f"{whose} {waits} in {queue}, and {listed(strangers)} {does} not know that task:"
                " such messages are discarded (celery-ops task hold keeps them)"
            )
    return says


def _knows(worker: Worker, task: str) -> bool | None:
    if worker.registered is None:
        return None
    return any(one.name == task for one in worker.registered.value)


def _ahead(
    service: Service, workers: dict[str, list[str]], snapshot: FleetSnapshot
) -> Iterable[str]:
    """A scheduler that runs, or would begin with, what comes after a worker's release."""
    host = next((one for one in snapshot.hosts if one.name == service.ref.host), None)
    if host is None or host.releases is None:
        return
    releases = host.releases.value
    runs = None if service.release is None else service.release.value
    for release, does in ((runs, "runs"), (releases.current, "would begin anew with")):
        behind = {one: names for one, names in workers.items() if _later(release, one, releases)}
        if behind:
            whom = "; ".join(f"{listed(names)} run {one}" for one, names in sorted(behind.items()))
            yield (
                f"beat runs ahead: {service.ref.name} on {host.name} {does} {release}, and {whom}:"
                " what only the later release knows is discarded there"
            )
            return


def _later(release: str | None, than: str, releases: HostReleases) -> bool:
    """Whether it surely comes after that one: as far as the host tells an order."""
    known = releases.known
    if known is None or release not in known or than not in known:
        return False
    return known.index(release) > known.index(than)


def _left_as_it_is(service: Service, plan: Plan) -> Iterable[str]:
    """What becomes of a scheduler that goes on."""
    switched = {one.host: one.release for one in plan.activations}
    release = switched.get(service.ref.host)
    name, runs = service.ref.name, None if service.release is None else service.release.value
    if release is None:
        yield f"beat {name} on {service.ref.host} is not switched: its host is none of the workers'"
    elif runs != release:
        yield (
            f"beat {name} on {service.ref.host} is not restarted: it goes on with"
            f" {runs or 'what it runs'}, and would begin anew with {release} as soon as its host is"
            " switched; afterwards: celery-ops beat stop, and start"
        )
