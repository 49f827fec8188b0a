"""systemd: builds the commands that ask and change it, and reads what they print.

Asking needs no rights. Effects go through a constant script that looks at the unit right before it
acts on it, on the machine itself: systemd has no conditional stop, so a life that begins within
those milliseconds is not told apart.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts import refusals, unit_hazards, units
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.errors import StreamFailed
    from celery_ops.model import Hazard, ServiceRef, ServiceStatus
    from celery_ops.ports import Completed

STOP = """\
unit=$1 expect=$2
shift 2
seen=$(systemctl show -p LoadState,ActiveState,InvocationID,MainPID -- "$unit") || exit
printf '%s\\n' "$seen"
case $seen in
*ActiveState=inactive*)
    case $seen in *LoadState=not-found*)
        echo Effect=unknown
        exec systemctl list-units --all --full --plain --no-legend --type=service
    esac ;;
*ActiveState=failed*) ;;
*)
    if [ -n "$expect" ] && ! printf '%s\\n' "$seen" | grep -qxF "InvocationID=$expect"; then
        echo Effect=held
        exit
    fi ;;
esac
case " $* " in *" disable "*)
    if ! systemctl cat -- "$unit" | grep -q '^[[:space:]]*\\[Install\\]'; then
        echo Effect=fixed
        exit
    fi ;;
esac
if [ "$(id -u)" = 0 ] && [ "$1" = sudo ]; then shift 2; fi
exec "$@"
"""
"""Arguments: the unit, the life it is meant for (empty: any), and the argv that stops it. A unit
without `[Install]` that is enabled all the same is left alone: it could not be enabled again."""

START = """\
unit=$1 failed=
shift
seen=$(systemctl show -p LoadState,ActiveState,InvocationID,MainPID,NRestarts -- "$unit") || exit
printf '%s\\n' "$seen"
case $seen in *ActiveState=failed* | *NRestarts=[1-9]*) failed=yes ;; esac
case $seen in
*ActiveState=deactivating*) echo Effect=held; exit ;;
*ActiveState=inactive*)
    case $seen in *LoadState=not-found*)
        echo Effect=unknown
        exec systemctl list-units --all --full --plain --no-legend --type=service
    esac ;;
esac
if [ "$(id -u)" = 0 ] && [ "$1" = sudo ]; then shift 2; fi
if [ "$failed" ] && [ "$1" = sudo ]; then sudo -n systemctl reset-failed "$unit"
elif [ "$failed" ]; then systemctl reset-failed "$unit"
fi 2>/dev/null
exec "$@"
"""
"""Arguments: the unit, and the argv that starts it. A unit that still stops is left alone: systemd
would take it for a restart, and how the stop ended could not be seen any more. One that died again
and again is told that this is forgotten, or systemd would refuse the start for a while; who may not
do that starts it all the same."""

LOG = """\
unit=$1 may=
shift
for journal in /var/log/journal/*/system.journal /run/log/journal/*/system.journal; do
    if [ -r "$journal" ]; then may=yes; fi
done
if [ "$1" = sudo ]; then
    if [ -n "$may" ] || [ "$(id -u)" = 0 ]; then shift 2; fi
elif [ -z "$may" ]; then
    id -un >&2
    exit 77
fi
case $(systemctl show -p LoadState -- "$unit") in
*=not-found*) echo "(systemd finds no unit $unit; this is what the journal has of it)" ;;
esac
exec "$@"
"""
"""Arguments: the unit, and the argv that reads its journal. Who may not read the system's journal
gets an empty one from journalctl, and a hint on stderr: so it is looked at first. Who may needs no
sudo."""
NO_JOURNAL = 77
"""The exit code of LOG where the journal cannot be read; stderr is the user's name."""

EFFECTS = ("start", "stop")
LASTING_EFFECTS = ("enable --now", "disable --now")
"""What systemctl is told so that a service starts, or stays down, at the next boot too."""

# Names in every version's plain form: UTC, no translation.
_PLAIN = (("LC_ALL", "C"), ("TZ", "UTC"))
# man 5 systemd.unit: these characters; systemctl takes globs for many units, and `/` for a path.
_NAME = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*")
_OTHER_KINDS = (
    *(".socket", ".device", ".mount", ".automount", ".swap", ".target"),
    *(".path", ".timer", ".slice", ".scope", ".snapshot"),
)
_NO_SUDO = ("sudo:", "Sorry, user", "Sorry, try", "We trust you")
_NO_RIGHT = ("authentication required", "Access denied", "Permission denied", "not authorized")
_NO_SYSTEMD = ("Failed to connect to bus", "not been booted with systemd", "Connection refused")


@dataclass(frozen=True, slots=True)
class Systemd:
    """The Supervisor port for systemd's system manager.

    `sudo` names the hosts on which effects are run with `sudo -n`; whoever is root there does
    without.
    """

    sudo: frozenset[str] = frozenset()

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command for all of them; raise ValueError if they are not on one host."""
        if any(one.host != services[0].host for one in services):
            raise ValueError("these services are not on one host")
        names = [_name(service) for service in services]
        return Command(
            argv=("systemctl", "show", "-p", ",".join(units.PROPERTIES), "--", *names),
            env=_PLAIN,
            shown=shlex.join(["systemctl", "show", *names]),
        )

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        """Each service's status. A unit that systemd does not find is UNKNOWN and says so."""
        if completed.code:
            raise _failure(services[0], completed)
        found = units.blocks(completed.out)
        if completed.truncated or len(found) != len(services):
            raise CommandFailed("systemd's answer is not the one to what was asked.")
        by_service = dict(zip(services, found, strict=True))
        shared = unit_hazards.of_neighbours(by_service)
        return {
            service: _with(units.status(service.name, unit), shared.get(service, ()))
            for service, unit in by_service.items()
        }

    def start(self, service: ServiceRef) -> Command:
        """Start it; already started is fine. Refused while it stops."""
        return self._effect(("start",), service, START, [_name(service)])

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        """Stop that life; already stopped, or already stopping, is fine."""
        return self._effect(("stop",), service, STOP, [_name(service), expect or ""])

    def stop_for_good(self, service: ServiceRef, *, expect: str | None) -> Command:
        """It is disabled and not masked: a unit whose own file is in /etc cannot be masked."""
        arguments = [_name(service), expect or ""]
        return self._effect(("disable", "--now"), service, STOP, arguments)

    def start_for_good(self, service: ServiceRef, *, at_boot: str) -> Command:
        """Raise ValueError for any other word than `enabled`."""
        if at_boot != units.ENABLED:
            raise ValueError(f"{at_boot} is not told of any unit")
        return self._effect(("enable", "--now"), service, START, [_name(service)])

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        seen, others = _effect(completed.out)
        match seen.get("Effect"):
            case "unknown":
                raise _not_found(service, others)
            case "fixed":
                raise CommandFailed(
                    f"{service} was left alone: it is enabled and has no [Install] section, so it"
                    " could be disabled and never be enabled again.",
                    fix="Give its unit file one: [Install] WantedBy=multi-user.target",
                )
            case "held" if seen.get("ActiveState") == "deactivating":
                raise refusals.still_stopping(service, seen.get("MainPID", ""))
            case "held":
                raise refusals.another_incarnation(service, f"pid {seen.get('MainPID', '')}")
            case _ if completed.code:
                raise _failure(service, completed)

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """Follows its journal, with UTC times; through sudo only where that is needed."""
        sudo = ("sudo", "-n") if service.host in self.sudo else ()
        name = _name(service)
        act = (*sudo, *_journalctl(name, lines))
        return Command(
            argv=("sh", "-c", LOG, "celery-ops", name, *act),
            env=_PLAIN,
            shown=shlex.join([*sudo, "journalctl", "-f", "-u", name]),
        )

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        said = " ".join(units.text_of(ended.err).split())[:300]
        if ended.code == NO_JOURNAL:
            group = f"usermod -aG systemd-journal {said or 'USER'}"
            return CommandFailed(
                f"{said or 'This user'} may not read the journal of {service.host}.",
                fix=f"Allow it there, and connect anew: {group}. Or set `sudo: true` for the host.",
            )
        if said.startswith(_NO_SUDO) or "sudo: not found" in said:
            return CommandFailed(
                f"sudo was refused on {service.host}: {said}",
                fix="Let its user read the journal instead: usermod -aG systemd-journal USER.",
            )
        if ended.code == 127:
            says = f"{service.host} has no journalctl ({said})."
            return CommandFailed(says, fix="Is it run by another supervisor?")
        return ended

    def _effect(
        self, verb: Sequence[str], service: ServiceRef, script: str, arguments: Sequence[str]
    ) -> Command:
        sudo = ("sudo", "-n") if service.host in self.sudo else ()
        act = (*sudo, "systemctl", *verb, "--no-block", service.name)
        return Command(
            argv=("sh", "-c", script, "celery-ops", *arguments, *act),
            env=_PLAIN,
            shown=shlex.join([*sudo, "systemctl", *verb, service.name]),
        )


def sudoers_log_line(service: ServiceRef, *, lines: int) -> str:
    """What lets a user who is not in the group systemd-journal read just this service's log."""
    words = " ".join(_journalctl(service.name, lines)[1:])
    return f"USER ALL=(root) NOPASSWD: /usr/bin/journalctl {_escaped(words)}"


def sudoers_line(service: ServiceRef) -> str:
    """What lets a user start and stop just this service, also for good (man 5 sudoers)."""
    effects = [f"{verb} --no-block" for verb in (*EFFECTS, *LASTING_EFFECTS)]
    return _sudoers(service, [*effects, "reset-failed"])


def sudoers_lasting_line(service: ServiceRef) -> str:
    """The part of it that only a stop for good needs, and the start after that."""
    return _sudoers(service, [f"{verb} --no-block" for verb in LASTING_EFFECTS])


def _sudoers(service: ServiceRef, verbs: Sequence[str]) -> str:
    name = _escaped(service.name)
    acts = [f"/usr/bin/systemctl {verb} {name}" for verb in verbs]
    return f"USER ALL=(root) NOPASSWD: {', '.join(acts)}"


def _escaped(words: str) -> str:
    return re.sub(r"([:\\,=])", r"\\\1", words)


def _journalctl(unit: str, lines: int) -> tuple[str, ...]:
    return (
        *("journalctl", f"--unit={unit}", f"--lines={lines}", "--follow", "--quiet"),
        *("--no-pager", "--no-hostname", "--output=short-iso", "--utc"),
    )


def _name(service: ServiceRef) -> str:
    """Raise CommandFailed for names that mean many units, another kind of unit, or none."""
    name = service.name
    template = name.removesuffix(".service").endswith("@")
    if not _NAME.fullmatch(name) or name.endswith(_OTHER_KINDS) or template:
        raise CommandFailed(
            f"{shown(name)} is not one service of systemd.",
            fix="Name one unit: NAME.service, or NAME@INSTANCE.service of a template.",
        )
    return name


def _with(status: ServiceStatus, hazards: Sequence[Hazard]) -> ServiceStatus:
    return replace(status, hazards=(*status.hazards, *hazards)) if hazards else status


def _effect(out: bytes) -> tuple[dict[str, str], list[str]]:
    """What the script saw and did, and the lines after it."""
    lines = units.text_of(out).split("\n")
    mark = next((at for at, line in enumerate(lines) if line.startswith("Effect=")), len(lines))
    return units.properties(lines[: mark + 1]), lines[mark + 1 :]


def _not_found(service: ServiceRef, listed: Sequence[str]) -> CommandFailed:
    words = [line.split() for line in listed]
    names = [one[0] for one in words if len(one) > 1 and one[1] != "not-found"]
    wanted = service.name.removesuffix(".service") + ".service"
    return CommandFailed(
        f"systemd on {service.host} finds no unit {shown(service.name)}"
        f"{did_you_mean(wanted, names)}.",
        fix="What there is: systemctl list-unit-files --type=service",
    )


def _failure(service: ServiceRef, completed: Completed) -> CommandFailed:
    text = units.text_of(completed.err).strip()
    said = " ".join(text.split())[:300] or f"exit code {completed.code}"
    if completed.code == 127 and "sudo" not in text:
        return CommandFailed(
            f"{service.host} has no systemctl ({said}).", fix="Is it run by another supervisor?"
        )
    if any(mark in text for mark in _NO_SYSTEMD):
        return CommandFailed(
            f"systemd is not running on {service.host}, or cannot be asked ({said}).",
            fix="See `systemctl status` there. In a container services have another supervisor.",
        )
    if "sudo: not found" in text or text.startswith(_NO_SUDO):
        return CommandFailed(
            f"sudo was refused on {service.host}: {said}",
            fix=f"Allow it there with visudo: {sudoers_line(service)}",
        )
    if any(mark.lower() in text.lower() for mark in _NO_RIGHT):
        return CommandFailed(
            f"systemd refused: {said} ({service}).",
            fix=f"Set `sudo: true` for the host, and allow it there: {sudoers_line(service)}",
        )
    fix = f"systemctl unmask {service.name}" if text.endswith("is masked.") else None
    return CommandFailed(f"systemd refused: {said} ({service}).", fix=fix)
