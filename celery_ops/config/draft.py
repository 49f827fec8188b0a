"""Writes a `celery-ops.yaml` as a person would: one line a host and a service, equal ones folded.

Pure: what is written is text that the loader reads back as what was meant.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from celery_ops.config.secret import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from celery_ops.model import ServiceRef

SCHEMA_FILE = "celery-ops.schema.json"
_PLAIN = re.compile(r"[A-Za-z0-9/_.](?:[A-Za-z0-9/_.@+-]|:(?=[A-Za-z0-9/_.@+-]))*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off"}
"""What is no string to others: to YAML 1.2, and to the readers of 1.1 that are still everywhere."""
_SECRET = re.compile(r"passw|pwd|secret|token|credential", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][0-9]+)?")
_MANY = 5
"""From so many hosts on a glob reads better than their list."""


@dataclass(frozen=True, slots=True)
class DraftHost:
    """A host's entry. `hostname` is what node names call it; None where that is its name."""

    name: str
    address: str | None = None
    hostname: str | None = None
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be written.

    `broker` is written as it is, so it holds `${NAME}` and no password. `settings` are further
    plain keys of the context. `maybe` are services that are written as comments, `remarks` what the
    reader must know.
    """

    context: str
    broker: str
    settings: tuple[tuple[str, str], ...] = ()
    broker_options: Mapping[str, object] = field(default_factory=dict)
    user: str | None = None
    sudo: bool = False
    hosts: tuple[DraftHost, ...] = ()
    services: tuple[ServiceRef, ...] = ()
    maybe: tuple[ServiceRef, ...] = ()
    remarks: tuple[str, ...] = ()
    starts: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """What starts the nodes that no supervisor runs, by their host and name."""


def text(draft: Draft) -> str:
    """The file."""
    return "\n".join([*_head(draft), *_context(draft)]) + "\n"


def without_secrets(
    options: Mapping[str, object],
) -> tuple[dict[str, object], tuple[str, ...]]:
    """What can be written of a broker's options, and the names of what cannot: it may be secret, or
    it is nothing that YAML knows.
    """
    left_out: list[str] = []
    kept = {key: _writable(value, key, left_out) for key, value in options.items()}
    return {key: value for key, value in kept.items() if value is not None}, tuple(left_out)


def scalar(value: str) -> str:
    """A string as YAML, quoted only where it must be; also between { } and [ ]."""
    is_plain = _PLAIN.fullmatch(value) and not _NUMBER.fullmatch(value)
    if is_plain and value.lower() not in _WORDS:
        return value
    return f'"{"".join(_escaped(one) for one in value)}"'


def _head(draft: Draft) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield f"# (for your editor: celery-ops config schema > {SCHEMA_FILE})"
    yield f"default: {scalar(draft.context)}"
    yield "contexts:"


def _context(draft: Draft) -> Iterator[str]:
    yield f"  {scalar(draft.context)}:"
    broker = draft.broker if draft.broker.startswith("${") else scalar(draft.broker)
    yield f"    broker: {broker}"
    if draft.broker_options:
        yield f"    broker_options: {_mapping(draft.broker_options.items())}"
    for key, value in draft.settings:
        yield f"    {key}: {scalar(value)}"
    ssh = _pairs(user=draft.user, sudo=draft.sudo or None)
    if ssh:
        yield f"    ssh: {_mapping(ssh)}"
    if draft.hosts:
        yield "    hosts:"
        for host in draft.hosts:
            yield f"      {scalar(host.name)}: {_mapping(_host(host))}"
    if draft.services:
        yield "    services:"
        for entry in _folded(draft.services, draft):
            yield f"      - {entry}"
    if draft.maybe:
        if not draft.services:
            yield "    # services:"
        yield "      # May be of another deployment. Remove the # of those that are of this one:"
        for entry in _folded(draft.maybe, draft):
            yield f"      # - {entry}"
    for remark in draft.remarks:
        yield f"    # {_one_line(remark)}"


def _host(host: DraftHost) -> list[tuple[str, object]]:
    ssh = dict(_pairs(user=host.user, port=host.port))
    return _pairs(address=host.address, hostname=host.hostname, ssh=ssh or None)


def _folded(services: Sequence[ServiceRef], draft: Draft) -> Iterator[str]:
    """Services that only differ in their host become one entry."""
    hostnames = {host.name: host.hostname or host.name for host in draft.hosts}
    alike: dict[tuple[ServiceRef, tuple[str, ...]], list[ServiceRef]] = {}
    for one in services:
        name, at, host = (one.worker or "").rpartition("@")
        is_named_after = bool(at) and host == hostnames.get(one.host)
        worker = f"{_literal(name)}@%h" if is_named_after else one.worker and _literal(one.worker)
        start = draft.starts.get((one.host, one.name), ()) if one.supervisor == "multi" else ()
        alike.setdefault((replace(one, host="", worker=worker), start), []).append(one)
    for (entry, start), members in alike.items():
        if len(members) == 1:
            worker = members[0].worker
            where: tuple[str, object] = ("host", members[0].host)
            yield _service(where, replace(entry, worker=worker and _literal(worker)), start)
        else:
            yield _service(("hosts", _selection(members, draft.hosts)), entry, start)


def _service(where: tuple[str, object], entry: ServiceRef, start: Sequence[str]) -> str:
    pairs = _pairs(
        **{entry.supervisor: _literal(entry.name)},
        worker=entry.worker,
        beat=entry.beat or None,
        server=entry.server,
        start=list(start) or None,
    )
    return _mapping([where, *pairs])


def _selection(members: Sequence[ServiceRef], hosts: Sequence[DraftHost]) -> list[str]:
    """The hosts, or the one glob that means exactly these."""
    names = [one.host for one in members]
    if len(names) >= _MANY:
        first, last = min(names), max(names)
        same = next((i for i, one in enumerate(first) if last[i : i + 1] != one), len(first))
        glob = f"{first[:same]}*"
        everywhere = [*(host.name for host in hosts), "local"]
        meant = [name for name in everywhere if fnmatch.fnmatchcase(name, glob)]
        if sorted(set(meant)) == sorted(names):
            return [glob]
    return names


def _literal(name: str) -> str:
    """A name in which `%h` stands for nothing else."""
    return name.replace("%", "%%")


def _pairs(**values: object) -> list[tuple[str, object]]:
    return [(key, value) for key, value in values.items() if value is not None]


def _mapping(pairs: Iterable[tuple[str, object]]) -> str:
    inner = ", ".join(f"{scalar(key)}: {_value(value)}" for key, value in pairs)
    return f"{{{inner}}}"


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return scalar(value)
        case list() | tuple():
            return f"[{', '.join(_value(one) for one in value)}]"
        case dict():
            return _mapping((str(key), one) for key, one in value.items())
        case _:
            return "null"


def _writable(value: object, name: str, left_out: list[str]) -> object:
    match value:
        case _ if _SECRET.search(name):
            left_out.append(name)
        case dict():
            found = {key: _writable(one, f"{name}.{key}", left_out) for key, one in value.items()}
            return {key: one for key, one in found.items() if one is not None}
        case list() | tuple():
            return [_writable(one, name, left_out) for one in value]
        case bool() | float():
            return value
        case Enum():
            return value.name  # ssl.CERT_NONE
        case int():
            return value
        case str() if masked(value) == value and "${" not in value:
            return value
        case None:
            return None
        case _:
            left_out.append(name)
    return None


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\U{number:08x}"


def _one_line(text_: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text_)
