"""supervisord: builds the commands that ask and change it, and reads what they print.

It is spoken to in XML-RPC, not through `supervisorctl`, which hides how a process ended. The
command is Python with a small relay (`celery_ops.hosts.relay`) that runs on the machine itself: so
the same works locally and over SSH, and an effect is made conditional next to supervisord.
"""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from celery_ops.config.contexts import LOCAL
from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts import refusals, relay_log, rpc
from celery_ops.hosts.programs import Program, Programs
from celery_ops.model import Retry, ServiceRef, ServiceState, ServiceStatus
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery_ops.config.secret import Secret
    from celery_ops.errors import StreamFailed
    from celery_ops.ports import Completed

USUAL_SERVERS = ("unix:///var/run/supervisor.sock", "unix:///run/supervisor/supervisor.sock")
"""Where Debian's and Red Hat's packages listen. The socket in `/tmp` of supervisord's own sample is
not tried without being named: anybody could listen there."""

_BAD_NAME, _ALREADY_STARTED, _NOT_RUNNING = 10, 60, 70
_STOPPED, _STARTING, _RUNNING, _BACKOFF, _STOPPING, _EXITED, _FATAL = 0, 10, 20, 30, 40, 100, 200
_NOTHING_RUNS = {_STOPPED, _EXITED, _FATAL}
_STATES = {
    _STOPPED: ServiceState.STOPPED,
    _STARTING: ServiceState.STARTING,
    _RUNNING: ServiceState.RUNNING,
    _BACKOFF: ServiceState.STARTING,
    _STOPPING: ServiceState.STOPPING,
    _EXITED: ServiceState.STOPPED,
    _FATAL: ServiceState.FAILED,
}
# That stands in its files, and nothing that it can be told changes it.
_AUTOSTART = "supervisord starts it again when it is restarted itself (autostart=true)"
_RETRIES = {_BACKOFF: Retry.AGAIN, _FATAL: Retry.GAVE_UP}


@dataclass(frozen=True, slots=True)
class Listed:
    """A process that a supervisord looks after; `pid` is 0 where it does not run."""

    name: str
    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class Supervisord:
    """The Supervisor port for supervisord. `passwords` are by `ServiceRef.server`."""

    passwords: Mapping[str, Secret] = field(default_factory=dict)

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command for all of them. Raise ValueError if they are not of one supervisord."""
        first = services[0]
        if any((one.host, one.server) != (first.host, first.server) for one in services):
            raise ValueError("these services are not of one supervisord")
        requests = self._requests(first)
        job = rpc.job(
            _places(first),
            requests.calls(
                [
                    ("supervisor.getAllConfigInfo", ()),
                    *(("supervisor.getProcessInfo", (_name(one),)) for one in services),
                ]
            ),
            requests.call("supervisor.getPID"),
            wants_config=True,
        )
        return _command(first, "status", [service.name for service in services], job)

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        """Each service's status. A name that supervisord does not know is UNKNOWN and says so."""
        parts = {part.kind: part.content for part in reversed(rpc.parts(completed))}
        if "failed" in parts:
            raise rpc.failure(parts["failed"], services[0].host)
        config, *infos = rpc.several(parts.get("answer", b""))
        if len(infos) != len(services):
            raise CommandFailed("supervisord's answer is not the one to what was asked.")
        settings = _by_process(config)
        known = Programs(parts.get("config", b"").decode("utf-8", "replace"))
        outdated = Programs(parts.get("changed", b"").decode("utf-8", "replace"))
        return {
            service: _status(
                service,
                info,
                settings,
                _told(known.find(*_process(service)), outdated.find(*_process(service))),
            )
            for service, info in zip(services, infos, strict=True)
        }

    def listing(self, host: str, server: str) -> Command:
        """One command for all processes of the supervisord that listens at `server`."""
        anything = ServiceRef(host, "supervisord", "all", server=server)
        requests = self._requests(anything)
        job = rpc.job(
            _places(anything),
            requests.call("supervisor.getAllProcessInfo"),
            requests.call("supervisor.getAllConfigInfo"),
        )
        return _command(anything, "status", [], job)

    def read_listing(self, host: str, completed: Completed) -> tuple[Listed, ...]:
        """Raise CommandFailed with the reason if it did not tell."""
        parts = rpc.parts(completed)
        failed = next((part for part in parts if part.kind == "failed"), None)
        if failed is not None:
            raise rpc.failure(failed.content, host)
        infos, config = (rpc.values(part.content) for part in parts)
        settings = _by_process(config)
        known = infos if isinstance(infos, list) else []
        return tuple(
            Listed(name, _integer(info, "pid"), str(settings.get(_split(name), {}).get("command")))
            for info, name in zip(known, _names(infos), strict=False)
        )

    def start(self, service: ServiceRef) -> Command:
        """Start it; already started is fine. Refused while it stops: that would be ignored."""
        return self._effect("start", service, rpc.Guard(state=str(_STOPPING)))

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        """Stop that incarnation; already stopped, or already stopping, is fine."""
        return self._effect("stop", service, rpc.Guard(identity=expect or ""))

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        parts = rpc.parts(completed)
        match [part.kind for part in parts]:
            case ["failed"]:
                raise rpc.failure(parts[0].content, service.host)
            case ["answer", "failed"]:
                error = rpc.failure(parts[1].content, service.host)
                says = f"{error.says} Whether it was told before is unknown."
                raise CommandFailed(says, fix=error.fix)
            case ["answer", "answer"]:
                _read_accepted(service, rpc.values(parts[1].content))
            case ["answer", "held"]:
                _read_held(service, rpc.values(parts[0].content), parts[1].content)
            case _:
                raise CommandFailed("supervisord's answer is not the one to what was asked.")

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """Follows what it writes to stdout, and to stderr if that has a file of its own."""
        name = _name(service)
        job = rpc.log_job(_places(service), self._requests(service), name, lines)
        return _command(service, "tail", ["-f", name], job, rpc.LOG_SOURCE)

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        match ended.code:
            case relay_log.FAILED if b"\t" in ended.err:
                return rpc.failure(ended.err, service.host)
            case relay_log.NO_LOG:
                return CommandFailed(
                    f"{service} has no log file: its output goes nowhere, to syslog, or to"
                    " supervisord's own output.",
                    fix="Set stdout_logfile=AUTO and redirect_stderr=true for the program.",
                )
            case relay_log.NO_ANSWER:
                return _no_answer(service, ended.err)
            case relay_log.HUNG_UP:
                return CommandFailed(f"supervisord on {service.host} ended, or was restarted.")
            case 127:
                python = "python3: supervisord is asked with Python 3, which is not there"
                return CommandFailed(f"{service.host} has no {python}.")
            case _:
                return ended

    def _effect(self, verb: str, service: ServiceRef, guard: rpc.Guard) -> Command:
        requests, name = self._requests(service), _name(service)
        job = rpc.job(
            _places(service),
            requests.call("supervisor.getProcessInfo", name),
            requests.call(f"supervisor.{verb}Process", name, False),
            guard=guard,
            otherwise=requests.call("supervisor.getAllProcessInfo"),
        )
        return _command(service, verb, [service.name], job)

    def _requests(self, service: ServiceRef) -> rpc.Requests:
        password = self.passwords.get(service.server or "")
        user = urlsplit(service.server or "").username or ""
        return rpc.Requests(user, password)


def _places(service: ServiceRef) -> tuple[str, ...]:
    """Where it is listened, without the user."""
    if service.server is None:
        return USUAL_SERVERS
    parts = urlsplit(service.server)
    return (f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",)


def _name(service: ServiceRef) -> str:
    """Raise CommandFailed for names that mean a whole group, or nothing at all."""
    name = service.name
    if name.endswith((":", ":*")) or not name.isprintable():
        raise CommandFailed(
            f"{shown(name)} is not one program of supervisord.",
            fix="Name one process: NAME, or GROUP:NAME for a process of a group.",
        )
    return name


def _process(service: ServiceRef) -> tuple[str, str]:
    return _split(service.name)


def _split(name: str) -> tuple[str, str]:
    """(group, process), as supervisor.options.split_namespec."""
    group, colon, process = name.partition(":")
    return (group, process) if colon else (group, group)


def _command(
    service: ServiceRef, verb: str, names: Iterable[str], job: bytes, source: str = rpc.SOURCE
) -> Command:
    python = sys.executable if service.host == LOCAL else "python3"
    server = ["-s", service.server] if service.server else []
    return Command(
        argv=(python, "-I", "-S", "-c", source),
        stdin=job,
        shown=shlex.join(["supervisorctl", *server, verb, *names]),
    )


def _no_answer(service: ServiceRef, answer: bytes) -> CommandFailed:
    """Why getProcessInfo told nothing of a process."""
    try:
        fault = rpc.values(answer)
    except CommandFailed as error:
        return error
    if isinstance(fault, rpc.Fault) and fault.code == _BAD_NAME:
        says = f"supervisord on {service.host} knows no program {shown(service.name)}."
        return CommandFailed(says, fix="What there is: supervisorctl status")
    says = fault.says if isinstance(fault, rpc.Fault) else "an answer without sense"
    return CommandFailed(f"supervisord refused: {says} ({service}).")


def _read_accepted(service: ServiceRef, answer: object) -> None:
    if isinstance(answer, rpc.Fault) and answer.code not in {_ALREADY_STARTED, _NOT_RUNNING}:
        raise CommandFailed(f"supervisord refused: {answer.says} ({service}).")


def _read_held(service: ServiceRef, info: object, others: bytes) -> None:
    if isinstance(info, rpc.Fault):
        raise _fault(service, info, _names(rpc.values(others)))
    if not isinstance(info, dict):
        raise CommandFailed("supervisord's answer is not the one to what was asked.")
    state, pid = _integer(info, "state"), _integer(info, "pid")
    if state in _NOTHING_RUNS and not pid:
        return
    if state == _STOPPING:
        raise refusals.still_stopping(service, str(pid))
    raise refusals.another_incarnation(service, str(info.get("description") or f"pid {pid}"))


def _fault(service: ServiceRef, fault: rpc.Fault, names: Sequence[str]) -> CommandFailed:
    if fault.code != _BAD_NAME:
        return CommandFailed(f"supervisord refused: {fault.says} ({service}).")
    in_group = next((name for name in names if name.endswith(f":{service.name}")), None)
    hint = f" (did you mean {in_group}?)" if in_group else did_you_mean(service.name, names)
    says = f"supervisord on {service.host} knows no program {shown(service.name)}{hint}."
    fix = f"It knows: {', '.join(names[:20])}." if names else "It knows no program at all."
    return CommandFailed(says, fix=fix)


def _names(infos: object) -> list[str]:
    """What the processes of getAllProcessInfo or getAllConfigInfo are called."""
    if not isinstance(infos, list):
        return []
    found = [
        (str(info.get("group", "")), str(info.get("name", "")))
        for info in infos
        if isinstance(info, dict)
    ]
    return [name if name == group else f"{group}:{name}" for group, name in found]


def _by_process(config: object) -> dict[tuple[str, str], Mapping[str, object]]:
    if not isinstance(config, list):
        return {}
    return {
        (str(one.get("group", "")), str(one.get("name", ""))): one
        for one in config
        if isinstance(one, dict)
    }


def _told(known: Program, outdated: Program) -> Program:
    """A file that was changed after supervisord started proves nothing; a danger in it is named."""
    danger = True if outdated.stop_as_group else None
    return Program(
        known.stop_as_group if known.stop_as_group is not None else danger, known.restarts
    )


def _status(
    service: ServiceRef,
    info: object,
    settings: Mapping[tuple[str, str], Mapping[str, object]],
    program: Program,
) -> ServiceStatus:
    if isinstance(info, rpc.Fault) or not isinstance(info, dict):
        fault = info if isinstance(info, rpc.Fault) else rpc.Fault(0, "an answer without sense")
        error = _fault(service, fault, _names(list(settings.values())))
        return ServiceStatus(ServiceState.UNKNOWN, None, None, None, None, says=error.says)
    mine = settings.get(_process(service), {})
    grace = mine.get("stopwaitsecs")
    # stopasgroup is not told, but supervisord refuses it without killasgroup, which is.
    signals_children = False if mine.get("killasgroup") is False else program.stop_as_group
    pid, start = _integer(info, "pid"), _integer(info, "start")
    return ServiceStatus(
        state=_STATES.get(_integer(info, "state"), ServiceState.UNKNOWN),
        pid=pid or None,
        identity=f"{start}:{pid}" if pid else None,
        started_at=_moment(start) if pid else None,
        clean_exit=_clean_exit(info),
        says=_says(info, grace),
        stop_grace=float(grace) if isinstance(grace, int) else None,
        restarts_itself=program.restarts,
        signals_children=signals_children,
        stop_signal=_signal_name(mine.get("stopsignal")),
        retry=_RETRIES.get(_integer(info, "state")),
        at_boot="",
        comes_back=_AUTOSTART if mine.get("autostart") else "",
    )


def _clean_exit(info: Mapping[str, object]) -> bool | None:
    """supervisord says exit 0 too where it does not know one: never started, or never came up."""
    ended = _integer(info, "state") in {_STOPPED, _EXITED}
    if not ended or not _integer(info, "start"):
        return None
    status = _integer(info, "exitstatus")
    return None if status == 0 and info.get("spawnerr") else status == 0


def _says(info: Mapping[str, object], grace: object) -> str:
    state, reason = _integer(info, "state"), str(info.get("spawnerr") or "")
    description, code = str(info.get("description") or ""), _integer(info, "exitstatus")
    match state:
        case 30:
            return f"{reason or 'it did not come up'}; supervisord tries again"
        case 200:
            return reason or "it did not come up, and supervisord gave up"
        case 0 if not _integer(info, "start"):
            return "never started"
        case 0 | 100 if code == -1:
            return f"ended by a signal (SIGKILL comes {grace} s after the stop signal)"
        case 0 | 100:
            return reason or f"ended with exit code {code} ({description})"
        case _:
            return description or str(info.get("statename") or "")


def _integer(info: Mapping[str, object], key: str) -> int:
    value = info.get(key)
    return value if isinstance(value, int) else 0


def _moment(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _signal_name(number: object) -> str | None:
    try:
        return signal.Signals(number).name if isinstance(number, int) else None
    except ValueError:
        return None
