"""Services under anything else: the user's own commands tell, start and stop them.

Their status command's exit code is believed as LSB has it: 0 runs, 3 does not; anything else is
unknown, since every script that fails for another reason ends with some code. What it prints may
tell more, a line each: `pid=`, `identity=`, `state=`, `since=` and `clean=`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts import begun, refusals
from celery_ops.hosts.begun import Begun
from celery_ops.hosts.units import text_of
from celery_ops.model import ServiceState, ServiceStatus
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.config.services import ServiceCommands
    from celery_ops.errors import StreamFailed
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Completed

_ASK = (
    begun.LIBRARY
    + r"""
limit=
if command -v timeout >/dev/null 2>&1; then limit='timeout 5'; fi
ask() {
    said=$($limit "$@" 2>&1 < /dev/null)
    code=$?
    answer=$code
    pid=$(told pid)
    alive=
    case $pid in ''|*[!0-9]*) ;; *) alive=$(life "$pid") ;; esac
    identity=$(told identity)
    identity=${identity:-$alive}
    state=$(told state)
}
told() {
    printf '%s\n' "$said" | sed -n "s/^$1=//p" | head -n 1
}
"""
)
"""`ask ARGV` runs a status command and sets what it told; where the host has `timeout` it may take
five seconds."""

_STATUS = r"""
answered() {
    key=$1
    shift
    ask "$@"
    printf 'service=%s\nanswer=%s\nlife=%s\n' "$key" "$answer" "$alive"
    printf '%s\n' "$said" | head -n 12 | cut -c1-200 | sed 's/^/said=/'
    tell
}
whole() {
    block=$(answered "$@")
    printf '%s\n' "$block"
}
"""
"""`whole KEY ARGV` prints its block in one piece that a pipe takes as such (PIPE_BUF): several may
print side by side."""

_STOP = r"""
key=$2 expect=$3
if goes_on stop; then exit 0; fi
ask_it
printf 'answer=%s\npid=%s\n' "$answer" "$pid"
if [ "$answer" = 3 ]; then exit 0; fi
case $state in stopped|failed|stopping) exit 0 ;; esac
if [ -n "$expect" ]; then
    if [ "$answer" != 0 ]; then printf 'Effect=unsure\nsaid=%s\n' "$said"; exit 0; fi
    if [ "$identity" != "$expect" ]; then echo Effect=another; exit 0; fi
fi
"""

_START = r"""
key=$2
if goes_on stop; then echo "pid=${begun#*:}"; echo Effect=stopping; exit 0; fi
ask_it
printf 'answer=%s\npid=%s\n' "$answer" "$pid"
if [ "$state" = stopping ]; then echo Effect=stopping; exit 0; fi
if [ "$answer" = 0 ]; then exit 0; fi
if goes_on start; then exit 0; fi
"""
_STATES = {
    "running": ServiceState.RUNNING,
    "starting": ServiceState.STARTING,
    "stopping": ServiceState.STOPPING,
    "stopped": ServiceState.STOPPED,
    "failed": ServiceState.FAILED,
}
_KEYS = ("pid", "identity", "state", "since", "clean")
_YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_UP = frozenset({ServiceState.RUNNING, ServiceState.STARTING, ServiceState.STOPPING})
_TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class OwnCommands:
    """The Supervisor port for services that commands stand for, by (host, name).

    Start and stop are run in the background: they may take as long as they need. Only who knows the
    pid or an identity can be sure to stop the life that was planned for. `folder` is where what was
    begun is noted, /tmp if that is empty.
    """

    commands: Mapping[tuple[str, str], ServiceCommands] = field(default_factory=dict)
    folder: str = ""

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command that runs all of their status commands, side by side; raise ValueError if
        they are not on one host.
        """
        if any(one.host != services[0].host for one in services):
            raise ValueError("these services are not on one host")
        asked = [
            f"{shlex.join(['whole', _key(one, known), *known.status])} &"
            for one in services
            if (known := self._known(one)) is not None
        ]
        script = "\n".join([_ASK, _STATUS, begun.CLOCK, *asked, "wait", "exit 0"])
        names = shlex.join(one.name for one in services)
        return Command(
            argv=("sh", "-c", script, "celery-ops", self.folder),
            shown=f"the status commands of {names}",
        )

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        """Each service's status. One that is not configured is UNKNOWN and says so."""
        refusals.require_whole(completed, "The status commands cannot be run")
        head, found = begun.blocks(completed.out, "service")
        read = {}
        for one in services:
            known = self._known(one)
            block = None if known is None else found.get(_key(one, known))
            read[one] = _unknown(_not_configured(one)) if block is None else _status(block, head)
        return read

    def start(self, service: ServiceRef) -> Command:
        """Start it; already started is fine. Refused while it stops."""
        return self._effect(service, "start", self._of(service).start, _START)

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        """Stop that life; already stopped, or already stopping, is fine.

        Without a life in mind, and so of a service that tells none, whatever runs is stopped.
        """
        return self._effect(service, "stop", self._of(service).stop, _STOP, expect or "")

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        told = dict(line.partition("=")[::2] for line in text_of(completed.out).split("\n"))
        pid = told.get("pid", "").partition(":")[0] or "unknown"
        match told.get("Effect"):
            case "stopping":
                raise refusals.still_stopping(service, pid)
            case "another":
                raise refusals.another_incarnation(service, f"pid {pid}")
            case "unsure":
                raise CommandFailed(
                    f"{service} was left alone: its status command ended with exit code"
                    f" {told.get('answer', '')}, so it is not known which incarnation runs"
                    f" ({told.get('said', '')[:200]}).",
                )
            case "room":
                raise begun.no_room(service, told.get("room", ""))
            case _ if completed.code:
                raise refusals.not_reached(service, completed)

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """Its own command; how many lines that begins with is its own affair."""
        del lines
        log = self._of(service).log
        if not log:
            raise CommandFailed(
                f"{service} has no command for its log.",
                fix="Add one to its commands, such as log: [tail, -n, '100', -F, /PATH].",
            )
        return Command(argv=log)

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        del service
        return ended

    def _effect(
        self, service: ServiceRef, verb: str, argv: Sequence[str], body: str, *arguments: str
    ) -> Command:
        known = self._of(service)
        script = "\n".join(
            [
                _ASK,
                f"ask_it() {{ {shlex.join(['ask', *known.status])}; }}",
                body,
                shlex.join(["begin", verb, *argv]),
            ]
        )
        key = _key(service, known)
        return Command(
            argv=("sh", "-c", script, "celery-ops", self.folder, key, *arguments),
            shown=_shown(argv, service),
        )

    def _known(self, service: ServiceRef) -> ServiceCommands | None:
        return self.commands.get((service.host, service.name))

    def _of(self, service: ServiceRef) -> ServiceCommands:
        known = self._known(service)
        if known is None:
            raise CommandFailed(
                f"{_not_configured(service)}.", fix="Name them in celery-ops.yaml: commands."
            )
        return known


def _status(block: Sequence[tuple[str, str]], clock: Mapping[str, str]) -> ServiceStatus:
    said = [value for name, value in block if name == "said"]
    pairs = [line.partition("=") for line in said]
    told = {name: value.strip() for name, _, value in reversed(pairs) if name in _KEYS}
    words = "; ".join(line for line in said if line and line.partition("=")[0] not in _KEYS)[:300]
    answer, last = dict(block).get("answer", ""), begun.begun(block)
    life = dict(block).get("life", "")
    state = _state(answer, told.get("state", ""), last)
    is_up = state in _UP
    pid = int(told["pid"]) if told.get("pid", "").isdecimal() and life else None
    return ServiceStatus(
        state=state,
        pid=pid if is_up else None,
        identity=(told.get("identity") or life or None) if is_up else None,
        started_at=_since(told.get("since", ""), life, clock) if is_up else None,
        clean_exit=None if is_up else _YES_NO.get(told.get("clean", "").lower()),
        says=_says(state, answer, words, last, pid),
    )


def _state(answer: str, told: str, last: Begun) -> ServiceState:
    """What it tells itself is believed as far as its exit code agrees."""
    named = _STATES.get(told)
    if answer == "0":
        state = named if named in _UP and named is not None else ServiceState.RUNNING
        stops = last.verb == "stop" and last.goes_on
        return ServiceState.STOPPING if stops and state is ServiceState.RUNNING else state
    if answer != "3":
        return ServiceState.UNKNOWN
    if last.goes_on:
        # It is down, and a start would be refused before its stop command has ended as well.
        return ServiceState.STARTING if last.verb == "start" else ServiceState.STOPPING
    if named is ServiceState.FAILED or (last.verb == "start" and last.code):
        return ServiceState.FAILED
    return ServiceState.STOPPED


def _says(state: ServiceState, answer: str, words: str, last: Begun, pid: int | None) -> str:
    parts = [words] if words else []
    if state is ServiceState.UNKNOWN:
        how = "did not end in time" if answer == str(_TIMED_OUT) else f"ended with {answer}"
        parts.insert(0, f"its status command {how}: neither 0 (it runs) nor 3 (it does not)")
    elif last.code:
        printed = f": {last.printed}" if last.printed else ""
        parts.append(f"its {last.verb} command ended with exit code {last.code}{printed}")
    elif last.goes_on:
        parts.append(f"its {last.verb} command runs")
    if pid is not None:
        parts.append(f"pid {pid}")
    return "; ".join(parts) or state.value


def _since(told: str, life: str, clock: Mapping[str, str]) -> datetime | None:
    """When it was started, as it tells with a time zone, or as /proc does."""
    try:
        since = datetime.fromisoformat(told)
    except ValueError:
        return begun.start_of(life, clock)
    return since if since.tzinfo is not None else begun.start_of(life, clock)


def _unknown(says: str) -> ServiceStatus:
    return ServiceStatus(ServiceState.UNKNOWN, None, None, None, None, says)


def _not_configured(service: ServiceRef) -> str:
    return f"no commands for {shown(service.name)} are configured on {service.host}"


def _key(service: ServiceRef, known: ServiceCommands) -> str:
    return begun.key("commands", service.name, *known.start, "", *known.stop)


def _shown(argv: Sequence[str], service: ServiceRef) -> str:
    """Whole, with the service's name if that is not in it."""
    name, command = shlex.quote(service.name), shlex.join(argv)
    return command if name in command else f"{command}  # {name}"
