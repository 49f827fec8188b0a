"""Asks whether we may start and stop units on a host, also for good, without doing it.

`sudo -n -l COMMAND` alone is not enough: it also says yes of a command that would ask for a
password, if any other of the user's rules asks for none (sudoers(5), listpw).
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.hosts.systemd import sudoers_lasting_line, sudoers_line
from celery_ops.hosts.units import text_of
from celery_ops.model import Rights
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_ops.model import ServiceRef
    from celery_ops.ports import Completed

ASK = r"""
how=$1
shift
printf 'user=%s\n' "$(id -un)"
[ "$(id -u)" = 0 ] && how=root
printf 'how=%s\n' "$how"
for unit in "$@"; do
    for verb in start stop enable disable; do
        now= act=manage-units
        case $verb in *able) now=--now act=manage-unit-files ;; esac
        case $how in
        root) said= code=0 ;;
        sudo) said=$(sudo -n -l systemctl "$verb" $now --no-block "$unit" 2>&1); code=$? ;;
        *) said=$(pkcheck --action-id org.freedesktop.systemd1.$act --process $$ \
            --detail unit "$unit" --detail verb "$verb" 2>&1 < /dev/null); code=$? ;;
        esac
        printf 'answer=%s %s\n' "$code" "$(printf '%s' "$said" | tr '\n' ' ')"
    done
done
[ "$how" = sudo ] && sudo -n -l 2>/dev/null | sed 's/^/rule=/'
exit 0
"""
"""Arguments: `sudo` or `direct`, and units."""

_START_AND_STOP, _ALL = 2, 4
"""So many answers a unit."""
_RULE = re.compile(r"\s+\((?P<runas>[^)]*)\)\s*(?P<commands>.*)")
_TAG = re.compile(r"(?P<tag>(?:NO)?[A-Z]+): ?")
_TAGS = {"PASSWD": True, "NOPASSWD": False}


def command(services: Sequence[ServiceRef], *, sudo: bool) -> Command:
    """One question for all of these units of one host."""
    return Command(
        argv=("sh", "-c", ASK, "sh", "sudo" if sudo else "direct", *(s.name for s in services)),
        env=(("LC_ALL", "C"),),
        shown="sudo -n -l systemctl start|stop UNIT" if sudo else "id",
    )


def read(services: Sequence[ServiceRef], completed: Completed) -> Rights:
    """What we may not do. Raise CommandFailed if it did not answer."""
    lines = [line.partition("=") for line in text_of(completed.out).split("\n")]
    answers = [value for key, _, value in lines if key == "answer"]
    facts = {key: value for key, _, value in lines if key in {"user", "how"}}
    if completed.code or "how" not in facts or len(answers) != _ALL * len(services):
        said = " ".join(text_of(completed.err).split())[:200]
        raise CommandFailed(f"It cannot be told what we may do there: {said or 'no answer'}.")
    rules = [value for key, _, value in lines if key == "rule"]
    refused, for_good = {}, {}
    for position, service in enumerate(services):
        mine = answers[_ALL * position : _ALL * position + _ALL]
        reasons = [_refusal(one, facts, rules) for one in mine]
        if (reason := next(filter(None, reasons[:_START_AND_STOP]), None)) is not None:
            refused[service] = (reason, _fix(sudoers_line(service), facts))
        elif (reason := next(filter(None, reasons[_START_AND_STOP:]), None)) is not None:
            for_good[service] = (reason, _fix(sudoers_lasting_line(service), facts))
    return Rights(facts.get("user", ""), refused, for_good)


def asks_for_password(rules: Sequence[str], wanted: str) -> bool | None:
    """Whether the last rule of `sudo -l` that means a command asks; None if none is seen to."""
    if any("!authenticate" in line for line in rules):
        return False
    found: bool | None = None
    entries = list(_entries(rules))
    for asks, pattern in entries:
        if pattern == "ALL" or _means(pattern, wanted):
            found = asks
    if found is None and entries and not any(asks for asks, _ in entries):
        return False
    return found


def _entries(rules: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """(asks for a password, command) in the order of the rules; a tag holds for what follows."""
    for line in rules:
        rule = _RULE.fullmatch(line)
        if rule is None:
            continue
        asks = True
        for part in re.split(r"(?<!\\), ", rule["commands"]):
            rest = part
            while (tag := _TAG.match(rest)) is not None:
                asks = _TAGS.get(tag["tag"], asks)
                rest = rest[tag.end() :]
            yield asks, re.sub(r"\\(.)", r"\1", rest.strip())


def _means(pattern: str, wanted: str) -> bool:
    """A command without arguments means it with any: sudoers(5)."""
    program = wanted.partition(" ")[0]
    return fnmatch.fnmatchcase(wanted, pattern) or pattern == program


def _refusal(answer: str, facts: dict[str, str], rules: Sequence[str]) -> str | None:
    code, _, said = answer.partition(" ")
    user = facts.get("user", "")
    if code == "0":
        if facts["how"] == "sudo" and asks_for_password(rules, said.strip()) is not False:
            return f"sudo would ask {user} for a password"
        return None
    if facts["how"] == "sudo":
        return f"sudo does not allow it to {user}{f' ({said.strip()[:100]})' if said else ''}"
    return f"{user} is not root there, and nothing else allows it"


def _fix(line: str, facts: dict[str, str]) -> str:
    line = line.replace("USER", facts.get("user") or "USER", 1)
    set_sudo = "" if facts["how"] == "sudo" else "Set `sudo: true` for the host, and "
    return f"{set_sudo}{'allow' if set_sudo else 'Allow'} it there with visudo: {line}"
