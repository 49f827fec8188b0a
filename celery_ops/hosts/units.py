"""What `systemctl show` says of a service, in our words."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.hosts import unit_hazards
from celery_ops.model import Retry, ServiceState, ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Job",
    "Result",
    "MainPID",
    "InvocationID",
    "ExecMainStartTimestamp",
    "ExecMainExitTimestamp",
    "ExecMainCode",
    "ExecMainStatus",
    "InactiveExitTimestamp",
    "NRestarts",
    "Type",
    "Restart",
    "ExecStop",
    "KillMode",
    "KillSignal",
    "SendSIGKILL",
    "TimeoutStopUSec",
    "TimeoutStartUSec",
    "ExecStart",
    "RuntimeDirectory",
    "RuntimeDirectoryPreserve",
    "UnitFileState",
    "WantedBy",
    "RequiredBy",
)
"""What is asked of each unit. Older versions leave out what they do not know."""

ENABLED = "enabled"
_STATES = {
    "active": ServiceState.RUNNING,
    "reloading": ServiceState.RUNNING,
    "refreshing": ServiceState.RUNNING,
    "activating": ServiceState.STARTING,
    "deactivating": ServiceState.STOPPING,
    "inactive": ServiceState.STOPPED,
    "failed": ServiceState.FAILED,
}
_NOTHING_RUNS = {"inactive", "failed"}
_UNITS = {
    "us": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "month": 2629800.0,
    "y": 31557600.0,
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(us|μs|ms|s|min|h|d|w|month|y)")
_SHORT_LIFE = 60.0
"""Seconds."""
_KILLED = {"2", "3"}
"""ExecMainCode: CLD_KILLED, CLD_DUMPED."""
# man 5 systemd.exec, "Process Exit Codes": systemd itself failed to run the command.
_OWN_CODES = {
    "200": "its working directory cannot be entered",
    "203": "its command cannot be executed",
    "209": "its output cannot be set up",
    "216": "its group is unknown",
    "217": "its user is unknown",
    "226": "its mount namespace cannot be set up",
}
_RESULTS = {
    "timeout": "it took too long",
    "watchdog": "its watchdog was not told in time",
    "oom-kill": "the kernel killed it for want of memory",
    "start-limit-hit": "it was started too often too quickly, and systemd gave up",
    "resources": "the machine has no resources for it",
    "protocol": "it did not report itself as its Type= asks",
    "exec-condition": "its ExecCondition= did not hold",
}


def blocks(out: bytes) -> list[dict[str, str]]:
    """The properties of each unit, in the order they were asked about."""
    text = text_of(out).strip("\n")
    return [properties(block.split("\n")) for block in text.split("\n\n")] if text else []


def properties(lines: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` lines as systemctl prints them."""
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def text_of(output: bytes) -> str:
    """What a host printed, line by line, without anything that could move a cursor."""
    text = output.decode("utf-8", "replace")
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def status(name: str, unit: Mapping[str, str]) -> ServiceStatus:
    """One service's status. What runs is told even if its unit file is gone or masked."""
    nothing_runs = unit.get("ActiveState") in _NOTHING_RUNS
    if nothing_runs and unit.get("LoadState") == "not-found":
        says = f"systemd finds no unit {shown(name)}"
        return ServiceStatus(ServiceState.UNKNOWN, None, None, None, None, says=says)
    pid = None if unit.get("MainPID", "0") in {"", "0"} else _integer(unit["MainPID"])
    since = unit.get("ExecMainStartTimestamp" if pid else "InactiveExitTimestamp", "")
    state = _state(unit)
    return ServiceStatus(
        state=state,
        pid=pid,
        identity=None if nothing_runs else unit.get("InvocationID") or None,
        started_at=None if nothing_runs else moment(since),
        clean_exit=_clean_exit(unit),
        says=_says(state, pid, unit),
        stop_grace=_stop_grace(unit),
        restarts_itself=unit["Restart"] == "always" if unit.get("Restart") else None,
        signals_children=unit_hazards.signals_children(unit),
        stop_signal=_signal_name(unit.get("KillSignal", "")),
        restarts=_integer(unit.get("NRestarts", "")),
        retry=_retry(unit),
        startable=_startable(unit),
        hazards=tuple(unit_hazards.of_one(unit)),
        at_boot=_at_boot(unit),
        comes_back=_comes_back(unit),
    )


def seconds(span: str) -> float | None:
    """A time span as systemd writes it (`1min 30s`); None for `infinity` and what is none.

    `0` is how old versions write that there is no limit.
    """
    parts = span.split()
    matches = [_SPAN.fullmatch(part) for part in parts]
    if not matches:
        return None
    total = 0.0
    for match in matches:
        if match is None:
            return None
        total += float(match[1]) * _UNITS[match[2]]
    return round(total, 6)


def moment(text: str) -> datetime | None:
    """A time stamp as systemd writes it in UTC: `Fri 2026-11-20 09:47:06 UTC`."""
    _, _, rest = text.partition(" ")
    try:
        return datetime.strptime(rest, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    except ValueError:
        return None


def _state(unit: Mapping[str, str]) -> ServiceState:
    """An effect returns before systemd works on it: until then the unit only has a job."""
    state = _STATES.get(unit.get("ActiveState", ""), ServiceState.UNKNOWN)
    restarts = unit.get("SubState", "").endswith("-before-auto-restart")
    waits = unit.get("Job", "0") not in {"", "0"}
    if restarts or (waits and state in {ServiceState.STOPPED, ServiceState.FAILED}):
        return ServiceState.STARTING
    return ServiceState.STOPPING if waits and state is ServiceState.RUNNING else state


def _retry(unit: Mapping[str, str]) -> Retry | None:
    """man 5 systemd.service, Restart=; man 5 systemd.unit, StartLimitBurst=.

    When the limit is hit systemd 252 keeps the Result of the last failure: a unit that it restarts
    has failed for good after short lives, or after a stop that went wrong.
    """
    if "auto-restart" in unit.get("SubState", ""):
        return Retry.AGAIN
    result = unit.get("Result")
    if unit.get("ActiveState") != "failed" or result == "timeout":
        return None
    if result == "start-limit-hit":
        return Retry.GAVE_UP
    was_restarted = unit.get("NRestarts", "0") not in {"", "0"}
    began = moment(unit.get("ExecMainStartTimestamp", ""))
    ended = moment(unit.get("ExecMainExitTimestamp", ""))
    if not was_restarted or unit.get("Restart") in {"no", None} or began is None or ended is None:
        return None
    return Retry.GAVE_UP if (ended - began).total_seconds() < _SHORT_LIFE else None


def _clean_exit(unit: Mapping[str, str]) -> bool | None:
    """Only systemd's own Result tells: `systemctl stop` exits 0 after a SIGKILL, too.

    systemd forgets an inactive unit that nothing refers to, and then says `success` of one that
    never ran: without a start there is no verdict.
    """
    started = moment(unit.get("ExecMainStartTimestamp", "")) is not None
    if unit.get("ActiveState") not in _NOTHING_RUNS or not started or not unit.get("Result"):
        return None
    return unit["ActiveState"] == "inactive" and unit["Result"] == "success"


def _stop_grace(unit: Mapping[str, str]) -> float | None:
    """Seconds; None if it waits for ever, or SIGKILL is never sent."""
    if unit.get("SendSIGKILL") == "no":
        return None
    return seconds(unit.get("TimeoutStopUSec", ""))


def _startable(unit: Mapping[str, str]) -> bool | None:
    if unit_hazards.never_comes_up(unit):
        return False
    return unit["LoadState"] == "loaded" if unit.get("LoadState") else None


def _at_boot(unit: Mapping[str, str]) -> str | None:
    """man 1 systemctl, is-enabled: of all states only this one lasts and can be unset."""
    state = unit.get("UnitFileState")
    if state is None:
        return None
    return ENABLED if state == ENABLED else ""


def _comes_back(unit: Mapping[str, str]) -> str:
    """What is not enabled may still be wanted, by the file of another unit."""
    others = f"{unit.get('WantedBy', '')} {unit.get('RequiredBy', '')}".split()
    if not others or unit.get("UnitFileState") == ENABLED:
        return ""
    return f"systemd starts it with {', '.join(sorted(others))}"


def _says(state: ServiceState, pid: int | None, unit: Mapping[str, str]) -> str:
    parts = [_said(state, pid, unit)]
    match unit.get("LoadState"):
        case "loaded" | "" | None:
            pass
        case "masked":
            parts.append("masked: it cannot be started")
        case "not-found":
            parts.append("its unit file is gone")
        case other:
            parts.append(f"its unit file cannot be used ({other})")
    if unit_hazards.never_comes_up(unit):
        parts.append("Type=forking, and its command does not fork")
    restarts = unit.get("NRestarts", "0")
    if restarts not in {"", "0"}:
        parts.append(f"restarted by systemd: {restarts}x")
    if _retry(unit) is Retry.GAVE_UP:
        parts.append("it may refuse another start for some seconds (systemctl reset-failed)")
    return "; ".join(parts)


def _said(state: ServiceState, pid: int | None, unit: Mapping[str, str]) -> str:
    active, sub = unit.get("ActiveState", ""), unit.get("SubState", "")
    bad = unit.get("Result", "success") != "success"
    match state:
        case ServiceState.FAILED:
            return _reason(unit)
        case ServiceState.STOPPED if bad:
            return _reason(unit)
        case ServiceState.STOPPED if moment(unit.get("ExecMainStartTimestamp", "")) is None:
            return "not running; systemd has no record of a run"
        case ServiceState.STOPPED:
            return "stopped cleanly"
        case ServiceState.STARTING if bad:
            return f"{_reason(unit)}; systemd tries again"
        case _:
            return f"{active} ({sub})" + (f", pid {pid}" if pid else "")


def _reason(unit: Mapping[str, str]) -> str:
    """Why it is not running, and how its main process ended."""
    result, code = unit.get("Result", ""), unit.get("ExecMainStatus", "")
    why = _RESULTS.get(result, "")
    if unit.get("ExecMainCode") in _KILLED:
        how = f"ended by signal {_signal_name(code) or code}"
    elif code not in {"", "0"}:
        how = f"ended with exit code {code}"
        how += f" ({_OWN_CODES[code]})" if code in _OWN_CODES else ""
    else:
        how = ""
    return "; ".join(part for part in (why, how) if part) or f"failed ({result})"


def _signal_name(text: str) -> str | None:
    try:
        number = int(text)
    except ValueError:
        return text if text.startswith("SIG") else None
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def _integer(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None
