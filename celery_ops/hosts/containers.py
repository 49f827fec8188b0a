"""What Docker says of a container, and /proc of what runs in it, in our words. Pure.

Docker tells of no stop that is going on. It keeps its last 256 events, though: a signal that ends
things, sent to this life of the container, is a stop, whoever asked for it. One that PID 1 is deaf
to is none any more when the grace is over and it still runs.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.hosts import enclosed, invocations, listing
from celery_ops.hosts.units import text_of
from celery_ops.model import Retry, ServiceState, ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.hosts.listing import Process

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
_LABELS = {
    "project": PROJECT,
    "service": SERVICE,
    "number": NUMBER,
    "oneoff": "com.docker.compose.oneoff",
    "swarm": "com.docker.swarm.service.name",
    "pod": "io.kubernetes.pod.name",
}
_FIELDS = {
    "pid": ".State.Pid",
    "id": ".ID",
    "name": ".Name",
    "state": ".State.Status",
    "code": ".State.ExitCode",
    "error": ".State.Error",
    "oom": ".State.OOMKilled",
    "started": ".State.StartedAt",
    "restarts": ".RestartCount",
    "policy": ".HostConfig.RestartPolicy.Name",
    "tries": ".HostConfig.RestartPolicy.MaximumRetryCount",
    "removed": ".HostConfig.AutoRemove",
    "pids": ".HostConfig.PidMode",
    "signal": ".Config.StopSignal",
    "grace": ".Config.StopTimeout",
    "hostname": ".Config.Hostname",
    "path": ".Path",
    "args": ".Args",
    **{key: f'(index .Config.Labels "{label}")' for key, label in _LABELS.items()},
}
SHAPE = "{" + ",".join(f'"{key}":{{{{json {value}}}}}' for key, value in _FIELDS.items()) + "}"
"""One line of JSON for `docker container inspect --format`: no environment, so no secret."""
LIFE = '{{printf "%.12s:%s" .ID .State.StartedAt}}'
"""`Container.identity`, as the same command prints it."""
STOPS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
"""Signals that are a stop, beside the one that a container asks for."""

USUAL_GRACE = 10
"""Seconds; of a container that says nothing of it."""
LATE = 5
"""Seconds after its grace within which a container that is stopped has ended."""
_COMES_UP = 60.0
"""Seconds a process may need until it listens to signals."""
_NEVER = "0001-"
_OWN_CODES = {
    125: "docker could not run it",
    126: "its command cannot be executed",
    127: "its command is not there",
}
_STATES = {
    "created": ServiceState.STOPPED,
    "running": ServiceState.RUNNING,
    "paused": ServiceState.RUNNING,
    "restarting": ServiceState.STARTING,
    "exited": ServiceState.STOPPED,
    "dead": ServiceState.FAILED,
}


@dataclass(frozen=True, slots=True)
class Container:
    """A container. `pid` is its PID 1's on the host, None while nothing runs; `command` is what
    PID 1 was started as; `policy` is Docker's word for when it is started again.

    Of compose: `project`, `service` and `number`. `owner` names an orchestrator that made it.
    """

    id: str
    name: str
    state: str
    pid: int | None = None
    code: int = 0
    error: str = ""
    was_out_of_memory: bool = False
    started: str = ""
    restarts: int | None = None
    policy: str = ""
    tries: int = 0
    is_removed_after: bool = False
    shares_pids_with: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float | None = USUAL_GRACE
    hostname: str = ""
    command: tuple[str, ...] = ()
    project: str = ""
    service: str = ""
    number: str = ""
    is_one_off: bool = False
    owner: str = ""

    @property
    def identity(self) -> str | None:
        """Of this life; None where none is."""
        return f"{self.id[:12]}:{self.started}" if self.pid is not None else None


@dataclass(frozen=True, slots=True)
class Kill:
    """A signal that Docker sent; `at` in nanoseconds since 1970, by the host's clock."""

    id: str
    at: int
    signal: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at a host's containers told; `now` in seconds since 1970, by its clock."""

    containers: tuple[Container, ...] = ()
    kills: tuple[Kill, ...] = ()
    processes: Mapping[int, Process] = field(default_factory=dict)
    now: float | None = None


def read(out: bytes) -> Seen:
    """What `docker.LOOK` printed. What is not understood of it is left out."""
    lines = out.decode("utf-8", "replace").split("\n")
    told = [(key, value) for key, _, value in (line.partition("=") for line in lines)]
    now = next((value for key, value in told if key == "now" and value.isdecimal()), None)
    return Seen(
        containers=tuple(
            one for key, text in told if key == "container" if (one := _container(text)) is not None
        ),
        kills=tuple(
            Kill(id=words[0], at=int(words[1]), signal=int(words[2]))
            for key, value in told
            if key == "kill"
            if len(words := value.split()) == 3 and words[1].isdecimal() and words[2].isdecimal()
        ),
        processes=listing.processes(lines, {}),
        now=None if now is None else float(now),
    )


def status(container: Container, seen: Seen) -> ServiceStatus:
    """One container's status."""
    state = _state(container, seen)
    began = moment(container.started)
    inside = enclosed.main(container.pid, container.command, seen.processes)
    age = None if began is None or seen.now is None else seen.now - began.timestamp()
    is_new = age is None or age < _COMES_UP
    pid = inside.pid if container.pid is not None else None
    return ServiceStatus(
        state=state,
        pid=pid,
        identity=container.identity,
        started_at=began if container.pid is not None else None,
        clean_exit=_clean_exit(container),
        says=_says(container, state, pid),
        stop_grace=container.grace,
        restarts_itself=container.policy in {"always", "unless-stopped"},
        signals_children=inside.signals_children,
        stop_signal=container.stop_signal.name,
        startable=not (container.is_removed_after or container.owner or _is_lost(container)),
        arguments=inside.arguments,
        restarts=container.restarts,
        retry=_retry(container),
        inner_pid=_inner_pid(container, inside),
        node=_node(container, inside),
        reaches_worker=inside.heeds(container.stop_signal, is_new=is_new),
    )


def moment(text: str) -> datetime | None:
    """A time as Docker writes it; None for the one that means never."""
    if not text or text.startswith(_NEVER):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _container(text: str) -> Container | None:
    try:
        told = json.loads(text)
    except ValueError:
        return None
    if not isinstance(told, dict) or set(told) != set(_FIELDS):
        return None
    texts = {key: _text(value) for key, value in told.items()}
    arguments = told["args"] if isinstance(told["args"], list) else []
    orchestrator = f"the Swarm service {texts['swarm']}" if texts["swarm"] else ""
    orchestrator = f"the pod {texts['pod']} of Kubernetes" if texts["pod"] else orchestrator
    return Container(
        id=texts["id"],
        name=texts["name"].removeprefix("/"),
        state=texts["state"],
        pid=_integer(told["pid"]) or None,
        code=_integer(told["code"]),
        error=texts["error"],
        was_out_of_memory=told["oom"] is True,
        started=texts["started"],
        restarts=_integer(told["restarts"]),
        policy=texts["policy"],
        tries=_integer(told["tries"]),
        is_removed_after=told["removed"] is True,
        shares_pids_with=texts["pids"],
        stop_signal=_signal(texts["signal"]),
        grace=_grace(told["grace"]),
        hostname=texts["hostname"],
        command=(texts["path"], *map(_text, arguments)),
        project=texts["project"],
        service=texts["service"],
        number=texts["number"],
        is_one_off=texts["oneoff"] == "True",
        owner=orchestrator,
    )


def _state(container: Container, seen: Seen) -> ServiceState:
    state = _STATES.get(container.state, ServiceState.UNKNOWN)
    if state is ServiceState.RUNNING:
        return ServiceState.STOPPING if _is_stopping(container, seen) else state
    is_bad = container.code not in {0, 128 + container.stop_signal} or container.error
    return ServiceState.FAILED if state is ServiceState.STOPPED and is_bad else state


def _is_stopping(container: Container, seen: Seen) -> bool:
    began = moment(container.started)
    since = 0 if began is None else int(began.timestamp() * 1e9)
    first = seen.processes.get(container.pid or 0)
    is_deaf = first is not None and first.heeds(signal.SIGTERM) is False
    if is_deaf and container.grace is not None and seen.now is not None:
        since = max(since, int((seen.now - container.grace - LATE) * 1e9))
    return any(
        kill.id == container.id
        and kill.at >= since
        and kill.signal in {*STOPS, container.stop_signal}
        for kill in seen.kills
    )


def _is_lost(container: Container) -> bool:
    return container.state in {"dead", "removing"}


def _clean_exit(container: Container) -> bool | None:
    """Docker gives the exit code of PID 1 and no more: that of a signal is 128 and its number."""
    if container.state != "exited" or moment(container.started) is None:
        return None
    return container.code == 0 and not container.was_out_of_memory and not container.error


def _retry(container: Container) -> Retry | None:
    if container.state == "restarting":
        return Retry.AGAIN
    has_failed = container.state == "exited" and container.code != 0
    was_tried = container.tries > 0 and (container.restarts or 0) >= container.tries
    gave_up = container.policy == "on-failure" and has_failed and was_tried
    return Retry.GAVE_UP if gave_up else None


def _inner_pid(container: Container, inside: enclosed.Inside) -> int | None:
    """What /proc tells; where it may not be read, PID 1 is the pid of a namespace's first."""
    if container.pid is None or container.shares_pids_with:
        return inside.inner_pid
    return inside.inner_pid or 1


def _node(container: Container, inside: enclosed.Inside) -> str | None:
    invocation = invocations.read(inside.arguments or (), container.hostname or None)
    return None if invocation is None else invocation.node


def _says(container: Container, state: ServiceState, pid: int | None) -> str:
    parts = [_said(container, state, pid)]
    if container.restarts:
        parts.append(f"restarted by docker: {container.restarts}x")
    if container.policy == "always" and state in {ServiceState.STOPPED, ServiceState.FAILED}:
        parts.append("restart=always: the next start of docker or of its host starts it, too")
    if container.owner:
        parts.append(f"it belongs to {container.owner}, which makes a new one for one that stops")
    elif container.is_removed_after:
        parts.append("it is removed when it stops (--rm): it cannot be started again")
    return "; ".join(parts)


def _said(container: Container, state: ServiceState, pid: int | None) -> str:
    match container.state:
        case "running":
            return f"{'is being stopped' if state is ServiceState.STOPPING else 'runs'}, pid {pid}"
        case "paused":
            return f"is paused: its processes are frozen, pid {pid}"
        case "restarting":
            return f"{_reason(container)}; docker starts it again"
        case "exited" if _retry(container) is Retry.GAVE_UP:
            return f"{_reason(container)}; docker gave up"
        case "exited" | "created" if container.error:
            return f"it could not be started: {container.error[:300]}"
        case "exited":
            return "stopped cleanly" if _clean_exit(container) else _reason(container)
        case "created":
            return "never started"
        case other:
            return f"is {other}"


def _reason(container: Container) -> str:
    code = container.code
    if container.was_out_of_memory:
        return f"the kernel killed it for want of memory (exit code {code})"
    if code in _OWN_CODES:
        return f"ended with exit code {code} ({_OWN_CODES[code]})"
    if code == 128 + signal.SIGKILL:
        grace = "no end" if container.grace is None else as_duration(container.grace)
        return f"ended by signal SIGKILL (it comes {grace} after the stop signal)"
    if 128 < code < 128 + signal.NSIG:
        return f"ended by signal {_signal_name(code - 128)}"
    return f"ended with exit code {code}"


def _grace(seconds: object) -> float | None:
    """None: SIGKILL never comes (-1)."""
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return float(USUAL_GRACE)
    return float(seconds) if seconds >= 0 else None


def _signal(text: str) -> signal.Signals:
    try:
        if text.isdecimal():
            return signal.Signals(int(text))
        return signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"]
    except (KeyError, ValueError):
        return signal.SIGTERM


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _text(value: object) -> str:
    return text_of(str("" if value is None else value).encode("utf-8", "replace"))


def _integer(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
