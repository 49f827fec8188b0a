"""Everything that is known of one thing, in lines; and the same as data. Pure.

Each reading says when it was made: what is known of a worker was not all read at the same moment.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from celery_ops.config.secret import masked
from celery_ops.config.units import as_duration, as_share, as_size
from celery_ops.fleet.matching import workers_by_service
from celery_ops.model import Finding, Host, Level, Queue, Service, Worker
from celery_ops.runbook.desk import RunSummary
from celery_ops.tui import hosts, queue_page, runs, workers
from celery_ops.tui.hosts import service_name
from celery_ops.tui.lines import Line, line
from celery_ops.tui.picture import Kind
from celery_ops.tui.text import FRESH, NOTHING, UNKNOWN, Tone, age, age_of, counted, moment, number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, Reading, ServiceStatus, Task
    from celery_ops.tui.picture import Picture, Subject

Thing = Worker | Queue | Host | Service | Finding | RunSummary

LABEL = 18
"""Cells of the labels at the left."""
MOST_TASKS = 200
"""Tasks of one kind that are listed; how many there are more is said."""
MOST_RAW_LINES = 5_000

LEVEL_SIGNS = {
    Level.ERROR: ("▲", Tone.BAD),
    Level.WARNING: ("▲", Tone.WARN),
    Level.INFO: ("●", Tone.NOTE),
}


def lines(subject: Subject, picture: Picture) -> list[Line]:
    """What is known of a subject in this picture."""
    found = find(subject, picture)
    now, shown = picture.now, picture.shown
    match found:
        case Worker():
            return [*_worker(found, now), *_problems(found.name, shown)]
        case Queue():
            return [*queue_page.lines(found, picture), *_problems(found.name, shown)]
        case Host():
            return [*_host(found, shown, now), *_problems(found.name, shown)]
        case Service():
            return [*_of_service(found, shown, now), *_problems(str(found.ref), shown)]
        case Finding():
            return _finding(found, picture)
        case RunSummary():
            return _run(found, now)
        case None:
            return [line(("Nothing is known of it any more.", Tone.WARN))]


def raw(subject: Subject, picture: Picture) -> list[Line]:
    """The same as JSON, as it was read; long ones end in how much more there is."""
    found = find(subject, picture)
    if found is None:
        return [line("null")]
    # Not msgspec's own encoder: it refuses half a surrogate, which JSON replies can hold.
    text = json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False)
    rows = masked(text).split("\n")
    shown = [line(row) for row in rows[:MOST_RAW_LINES]]
    if len(rows) > MOST_RAW_LINES:
        shown.append(line((f"… {len(rows) - MOST_RAW_LINES:,} more lines", Tone.WARN)))
    return shown


def finding_name(finding: Finding) -> str:
    """What a problem is known by."""
    return f"{finding.rule} {finding.subject}"


def find(subject: Subject, picture: Picture) -> Thing | None:
    """The subject as it is in this picture."""
    shown = picture.shown
    if subject.kind is Kind.RUN:
        return next((run for run in picture.runs or () if run.id == subject.name), None)
    if shown is None:
        return None
    match subject.kind:
        case Kind.WORKER:
            return shown.worker(subject.name)
        case Kind.QUEUE:
            return next((queue for queue in shown.queues if queue.name == subject.name), None)
        case Kind.HOST:
            return next((one for one in shown.hosts if one.name == subject.name), None)
        case Kind.SERVICE:
            named = (one for one in shown.services if service_name(one.ref) == subject.name)
            return next(named, None)
        case Kind.PROBLEM:
            return next((one for one in shown.problems if finding_name(one) == subject.name), None)


def _field(label: str, *parts: str | tuple[str, Tone]) -> Line:
    return line((f"  {label}", Tone.DIM), *parts, indent=LABEL)


def _heading(text: str, read: Reading[Any] | None = None, now: datetime | None = None) -> Line:
    parts: list[str | tuple[str, Tone]] = [(text, Tone.STRONG)]
    if read is not None and now is not None:
        parts.append(_read(read, now))
    return line(*parts)


def _read(reading: Reading[Any], now: datetime) -> tuple[str, Tone]:
    seconds = reading.age(now)
    return f"  read {age(seconds)} ago", Tone.DIM if seconds <= FRESH else Tone.WARN


def _worker(worker: Worker, now: datetime) -> list[Line]:
    found = [
        _field("state", workers.state_cell(worker.state), f"  {worker.says}"),
        _field("seen", _ago(worker.seen_at, now)),
        _field("answered", _ago(worker.replied_at, now)),
        _field("pid", ", ".join(map(str, worker.pids)) or _text(worker.pid)),
        _field("started", moment(worker.started_at, now) if worker.started_at else UNKNOWN),
    ]
    if not worker.mine:
        found.append(_field("scope", ("outside this context's scope: never touched", Tone.WARN)))
    found += _taken(worker, now)
    found += _service(worker.service, now)
    found += _consuming(worker, now)
    held = (
        ("Running", worker.active),
        ("Reserved", worker.reserved),
        ("Scheduled (ETA)", worker.scheduled),
    )
    for title, reading in held:
        found += _tasks(title, reading, now)
    return [*found, *_stats(worker, now), *_heartbeat(worker, now), *_registered(worker, now)]


def _taken(worker: Worker, now: datetime) -> list[Line]:
    record = worker.taken
    if record is None:
        return []
    return [
        Line(),
        line(("Taken by a run, and owed back", Tone.WARN)),
        _field("what", record.what),
        _field("run", record.run),
        _field("operator", record.operator),
        _field("since", f"{moment(record.at, now)} ({age_of(record.at, now)})"),
        _field("give back", record.mend),
    ]


def _stats(worker: Worker, now: datetime) -> list[Line]:
    if worker.stats is None:
        return _unread("Statistics")
    stats = worker.stats.value
    scale = "off" if stats.autoscale is None else f"{stats.autoscale[0]} to {stats.autoscale[1]}"
    timeout = stats.visibility_timeout
    return [
        Line(),
        _heading("Statistics", worker.stats, now),
        _field("pool", _text(stats.pool)),
        _field("concurrency", _text(stats.concurrency)),
        _field("autoscale", scale),
        _field("prefetch", _text(stats.prefetch)),
        _field("processed", f"{number(stats.processed)} in this life"),
        _field("pool pids", " ".join(map(str, stats.pool_pids)) or NOTHING),
        _field("visibility", UNKNOWN if timeout is None else as_duration(timeout)),
    ]


def _heartbeat(worker: Worker, now: datetime) -> list[Line]:
    if worker.heartbeat is None:
        return _unread("Heartbeat")
    beat = worker.heartbeat.value
    said = "online" if beat.online else "worker-offline: it began to stop"
    return [
        Line(),
        _heading("Heartbeat", worker.heartbeat, now),
        _field("says", said),
        _field("active", number(beat.active)),
        _field("processed", number(beat.processed)),
        _field("load", _text(beat.load)),
        _field("version", _text(beat.version)),
        _field("interval", f"{beat.interval:g}s"),
    ]


def _consuming(worker: Worker, now: datetime) -> list[Line]:
    if worker.consuming is None:
        return _unread("Consumes")
    found = [Line(), _heading("Consumes", worker.consuming, now)]
    if not worker.consuming.value:
        return [*found, line(("  no queue", Tone.WARN))]
    return [*found, *(line(f"  {queue.name}") for queue in worker.consuming.value)]


def _registered(worker: Worker, now: datetime) -> list[Line]:
    if worker.registered is None:
        return _unread("Registered tasks")
    found = [Line(), _heading("Registered tasks", worker.registered, now)]
    for task in worker.registered.value[:MOST_TASKS]:
        late = {True: "acks late", False: "acks early", None: f"acks {UNKNOWN}"}[task.acks_late]
        rate = f", rate limit {task.rate_limit}" if task.rate_limit else ""
        found.append(line(f"  {task.name}", (f"  {late}{rate}", Tone.DIM)))
    return [*found, *_more(len(worker.registered.value))]


def _tasks(title: str, reading: Reading[tuple[Task, ...]] | None, now: datetime) -> list[Line]:
    if reading is None:
        return _unread(title)
    count = len(reading.value)
    found = [Line(), _heading(f"{title}: {count:,}", reading, now)]
    for task in reading.value[:MOST_TASKS]:
        found.append(_field(_when(task, now), task.name, (f"  {task.id}", Tone.DIM)))
        acknowledged = {True: "acknowledged", False: "not acknowledged", None: ""}[
            task.acknowledged
        ]
        told = "  ".join(part for part in (task.queue, acknowledged, task.args) if part)
        found.append(_field("", (told, Tone.DIM)))
    return [*found, *_more(count)]


def _when(task: Task, now: datetime) -> str:
    if task.eta is not None:
        wait = (task.eta - now).total_seconds()
        return f"due in {age(wait)}" if wait >= 0 else f"due for {age(-wait)}"
    return f"for {age_of(task.started_at, now)}" if task.started_at else "not started"


def _service(service: Service | None, now: datetime) -> list[Line]:
    if service is None:
        return [Line(), line(("No service is configured that runs it.", Tone.WARN))]
    found = [Line(), _heading("Service", service.status, now), _field("runs as", str(service.ref))]
    if service.release is not None:
        found.append(_field("release", service.release.value, _read(service.release, now)))
    if service.error is not None:
        found.append(_field("error", (service.error, Tone.BAD)))
    if service.status is None:
        return [*found, _field("state", (f"{UNKNOWN} (it never answered)", Tone.WARN))]
    return [*found, *_status(service.status.value, now)]


def _status(status: ServiceStatus, now: datetime) -> list[Line]:
    clean = {True: "clean", False: "NOT clean", None: UNKNOWN}[status.clean_exit]
    restarts = {True: "yes", False: "no", None: UNKNOWN}[status.restarts_itself]
    found = [
        _field("state", status.state.value, (f"  {status.says}", Tone.DIM)),
        _field("pid", _text(status.pid), *_inside(status)),
        _field("started", moment(status.started_at, now) if status.started_at else UNKNOWN),
        _field("last exit", clean),
        _field(
            "stop grace", UNKNOWN if status.stop_grace is None else as_duration(status.stop_grace)
        ),
        _field("restarts itself", restarts),
        _field("identity", _text(status.identity)),
    ]
    if status.signals_children:
        says = "its stop signal reaches the pool's children: running tasks would be LOST"
        found.append(_field("danger", (says, Tone.BAD)))
    found += [_field("danger", (hazard.says, Tone.BAD)) for hazard in status.hazards]
    if status.reaches_worker is False:
        says = "its stop signal does not get to the worker, which is killed instead"
        found.append(_field("danger", (says, Tone.BAD)))
    if status.arguments is not None:
        found.append(_field("command", " ".join(status.arguments)))
    return found


def _inside(status: ServiceStatus) -> tuple[tuple[str, Tone], ...]:
    is_same = status.inner_pid in {None, status.pid}
    return () if is_same else ((f"  in its container {status.inner_pid}", Tone.DIM),)


def _usage(service: Service, now: datetime) -> list[Line]:
    status, restarted = service.status, service.restarted
    found = []
    if status is not None and status.value.restarts is not None:
        found.append(_field("restarts", f"{status.value.restarts:,} by its supervisor"))
    if restarted is not None and restarted.count:
        whose = "by its supervisor" if restarted.by_supervisor else "new lives seen"
        ago = age_of(restarted.since, now)
        found.append(_field("lately", (f"{restarted.count:,} {whose} within {ago}", Tone.WARN)))
    if service.usage is None:
        return [*found, *_unread("Its processes")]
    usage = service.usage.value
    memory = UNKNOWN if usage.memory is None else as_size(usage.memory)
    cores = UNKNOWN if usage.cores is None else f"{usage.cores:.2f} cores"
    return [
        *found,
        Line(),
        _heading(f"Its processes: {usage.processes:,}", service.usage, now),
        _field("memory", memory, ("  resident; pages that forks share count for each", Tone.DIM)),
        _field("CPU", cores),
    ]


def _of_service(service: Service, shown: FleetSnapshot | None, now: datetime) -> list[Line]:
    worker = workers_by_service(shown).get(service.ref) if shown else None
    found = [_field("host", service.ref.host)]
    if not service.ref.beat:
        told = (("none answers", Tone.WARN),) if worker is None else _named(worker)
        found += [_field("worker", *told), _field("expected", service.ref.worker or NOTHING)]
    return [*found, *_service(service, now), *_usage(service, now)]


def _named(worker: Worker) -> tuple[str | tuple[str, Tone], ...]:
    return f"{worker.name}  ", workers.state_cell(worker.state), f"  {worker.says}"


def _host(host: Host, shown: FleetSnapshot | None, now: datetime) -> list[Line]:
    found = [
        _field("reachable", hosts.reach_cell(host)),
        _field("address", host.address),
        _field("last answer", _ago(host.reached_at, now)),
    ]
    since = host.since or host.silent_since
    if since is not None:
        told = f"{moment(since, now)} ({age_of(since, now)} ago)"
        found.append(_field("silent since", (told, Tone.BAD)))
    for label, why in (("error", host.error), ("not told", host.unread)):
        if why is not None:
            found.append(_field(label, (why, Tone.BAD)))
    found += [*_releases(host, now), *_facts(host, now)]
    here = [one for one in shown.services if one.ref.host == host.name] if shown else []
    found += [Line(), line((counted(len(here), "service"), Tone.STRONG))]
    for service in here:
        state = hosts.service_state_cell(service)
        found.append(line(f"  {service.ref.supervisor} {service.ref.name}  ", state))
    return found


def _releases(host: Host, now: datetime) -> list[Line]:
    found = []
    if host.releases is not None:
        told = host.releases.value
        found.append(_field("release", _text(told.current), _read(host.releases, now)))
        if told.known is not None:
            found.append(_field("releases", "  ".join(told.known) or "none"))
    if host.releases_unread is not None:
        found.append(_field("releases", (host.releases_unread, Tone.WARN)))
    return found


def _facts(host: Host, now: datetime) -> list[Line]:
    if host.facts is None:
        return _unread("How it is doing")
    facts = host.facts.value
    load = UNKNOWN if facts.load is None else "  ".join(f"{one:.2f}" for one in facts.load)
    free, whole = facts.memory_available, facts.memory
    memory = UNKNOWN if free is None or whole is None else f"{as_size(free)} of {as_size(whole)}"
    found = [
        Line(),
        _heading("How it is doing", host.facts, now),
        _field("load", load, ("  over 1, 5 and 15 minutes", Tone.DIM)),
        _field("CPUs", number(facts.cpus)),
        _field("memory left", memory),
        _field("uptime", age(facts.uptime)),
    ]
    if facts.disks is None:
        return [*found, _field("disks", UNKNOWN)]
    for disk in facts.disks:
        left = f"{as_size(disk.available)} of {as_size(disk.size)} left"
        found.append(_field("disk", f"{disk.mount}  {as_share(disk.fullness)} full, {left}"))
    return found


def _finding(finding: Finding, picture: Picture) -> list[Line]:
    sign, tone = LEVEL_SIGNS[finding.level]
    found = [
        _field("level", (f"{sign} {finding.level}", tone)),
        _field("rule", finding.rule),
        _field("subject", finding.subject),
        _field("evidence", finding.says),
        _field("what to do", (finding.fix, Tone.STRONG)),
    ]
    shown = picture.shown
    worker = shown.worker(finding.subject) if shown else None
    queue = (
        next((one for one in shown.queues if one.name == finding.subject), None) if shown else None
    )
    if worker is not None:
        found += [
            Line(),
            line((f"worker {worker.name}", Tone.STRONG)),
            *_worker(worker, picture.now),
        ]
    host = (
        next((one for one in shown.hosts if one.name == finding.subject), None) if shown else None
    )
    if host is not None:
        found += [
            Line(),
            line((f"host {host.name}", Tone.STRONG)),
            *_host(host, shown, picture.now),
        ]
    if queue is not None:
        found += [
            Line(),
            line((f"queue {queue.name}", Tone.STRONG)),
            *queue_page.lines(queue, picture),
        ]
    return found


def _problems(name: str, shown: FleetSnapshot | None) -> Iterable[Line]:
    for finding in shown.problems if shown else ():
        if finding.subject == name:
            sign, tone = LEVEL_SIGNS[finding.level]
            yield Line()
            yield line((f"{sign} {finding.rule}: ", tone), finding.says)
            yield _field("what to do", finding.fix)


def _run(run: RunSummary, now: datetime) -> list[Line]:
    return [
        _field("state", runs.state_cell(run.state)),
        _field("runbook", run.runbook),
        _field("context", run.context),
        _field("operator", run.operator),
        _field("began", f"{moment(run.began_at, now)} ({age_of(run.began_at, now)} ago)"),
        _field("last word", f"{moment(run.changed_at, now)} ({age_of(run.changed_at, now)} ago)"),
        _field("says", run.says),
        _field("journal", f"celery-ops runs show {run.id}"),
    ]


def _ago(at: datetime | None, now: datetime) -> str:
    return UNKNOWN if at is None else f"{age_of(at, now)} ago"


def _text(value: float | str | None) -> str:
    return UNKNOWN if value is None else str(value)


def _unread(title: str) -> list[Line]:
    return [Line(), line((title, Tone.STRONG), (f"  {UNKNOWN} not read", Tone.DIM))]


def _more(count: int) -> list[Line]:
    if count <= MOST_TASKS:
        return []
    return [line((f"  … {count - MOST_TASKS:,} more (y shows them all)", Tone.WARN))]
