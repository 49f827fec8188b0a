"""Steps that switch hosts to a release: which hosts, from what to what, and what stands in the way.

Pure. The link, the tag or whatever it is belongs to the host: all its services begin with that
release from then on, and what runs already runs on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.errors import UsageError
from celery_ops.model.releases import PREVIOUS
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedActivation, PlannedStep
from celery_ops.runbook.schema import CurrentWorker, ParamType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery_ops.model import FleetSnapshot, Host
    from celery_ops.ports import Hosts
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.release_steps import ActivateStep
    from celery_ops.runbook.schema import Runbook

UNCONFIGURED = (
    "how releases are kept on the hosts is not configured: write `release:` in the context"
    " (celery-ops config schema)"
)


def with_names(
    runbook: Runbook, given: Mapping[str, str], snapshot: FleetSnapshot
) -> dict[str, str]:
    """The parameters with `previous` in them replaced by that release's name, the same on all
    hosts. Raise UsageError where it is not.
    """
    named = dict(given)
    for param in runbook.params:
        default = param.default if isinstance(param.default, str) else None
        if param.type is ParamType.RELEASE and given.get(param.name, default) == PREVIOUS:
            named[param.name] = _previous(snapshot)
    return named


def _previous(snapshot: FleetSnapshot) -> str:
    told = {host.name: host.releases.value for host in snapshot.hosts if host.releases is not None}
    found = {name: releases.previous for name, releases in told.items()}
    names = {one for one in found.values() if one is not None}
    listed = ", ".join(f"{one or 'not known'} on {host}" for host, one in sorted(found.items()))
    if len(names) == 1 and None not in found.values():
        return names.pop()
    if not told:
        raise UsageError(
            "which release is the previous one is not known: no host tells its releases",
            fix="celery-ops releases says why. Or name one: -p release=NAME",
        )
    raise UsageError(
        f"which release is the previous one is not the same on all hosts: {listed}",
        fix="Name it: -p release=NAME (celery-ops releases).",
    )


@dataclass(frozen=True, slots=True)
class Switching:
    """What a step switches, host by host, and why it must not."""

    planned: PlannedStep
    activations: tuple[PlannedActivation, ...]
    refusals: tuple[str, ...]


def plan(
    step: ActivateStep,
    targets: Sequence[PlannedWorker],
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
    hosts: Hosts,
) -> Switching:
    """For these targets' hosts, or for the one that the step names."""
    release = resolve(step.release, scope)
    found: dict[str, PlannedActivation] = {}
    actions, refusals = [], []
    for host, target in _turns(step, targets, scope):
        machine = next((one for one in snapshot.hosts if one.name == host), None)
        refusals.append(_in_the_way(release, host or target, machine))
        told = None if machine is None else machine.releases
        before = None if told is None else told.value.current
        one = found.setdefault(host, PlannedActivation(step.id, host, release, before))
        actions.append(_action(one, target))
    refusals += _out_of_reach(step, targets, hosts)
    if any(hosts.release_layout(host) is None for host in found or ("",)):
        refusals = [UNCONFIGURED]
    says = f"activate {release} on {', '.join(found) or 'no host'}"
    return Switching(
        PlannedStep(step.id, says, actions=tuple(actions)),
        tuple(found.values()),
        tuple(f"step {step.id}: {one}" for one in dict.fromkeys(refusals) if one),
    )


def _turns(
    step: ActivateStep, targets: Sequence[PlannedWorker], scope: Mapping[str, object]
) -> list[tuple[str, str]]:
    """Each host with the target that it is switched for; the host is empty where none is known."""
    if isinstance(step.on, CurrentWorker):
        return [(one.service.host if one.service else "", one.name) for one in targets]
    host = resolve(step.on, scope)
    return [(host, one.name) for one in targets] or [(host, host)]


def _out_of_reach(
    step: ActivateStep, targets: Sequence[PlannedWorker], hosts: Hosts
) -> Iterator[str]:
    """Workers whose next start would not bring them to another release, and why."""
    services = [(one.name, one.service) for one in targets if one.service is not None]
    for name, service in services if isinstance(step.on, CurrentWorker) else ():
        layout = hosts.release_layout(service.host)
        if layout is not None and (why := layout.why_not(service)):
            yield f"{name} cannot be brought to another release: {why}"


def _action(one: PlannedActivation, target: str) -> PlannedAction:
    says = f"make {one.release} the current release of {one.host} ({one.before or 'unknown'} now)"
    if one.release == one.before:
        says = f"nothing: {one.release} is the current release of {one.host}"
    undo = f"{one.before or 'the release before'} is made current again"
    return PlannedAction(one.step, target, says, undo)


def _in_the_way(release: str, name: str, host: Host | None) -> str:
    if host is None:
        return f"the host of {name} is not known, so its release cannot be switched"
    if host.releases is None:
        why = host.error or host.releases_unread or "it has not answered yet"
        return f"which releases {name} has is not known: {why}"
    known = host.releases.value.known
    if known is not None and release not in known:
        return f"{name} has no release {release} (it has {', '.join(known) or 'none'})"
    return ""
