"""supervisord's XML-RPC: requests for the relay to send, and what it brings back.

Everything that comes back is a host's word: bounded, checked, and turned into CommandFailed where
it makes no sense.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import urllib.parse

# DTDs, which attacks on XML need, are refused before anything is parsed.
import xmlrpc.client as xmlrpc
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from xml.parsers.expat import ExpatError

from celery_ops.errors import CommandFailed
from celery_ops.hosts.relay import MARK, SOCKET_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_ops.config.secret import Secret
    from celery_ops.ports import Completed

_FILES = importlib.resources.files("celery_ops.hosts")
SOURCE = _FILES.joinpath("relay.py").read_text("utf-8")
"""The relay's own text: the argument of `python3 -c`."""
_RUNS = '\n\nif __name__ == "__main__":\n'
_LOG_SOURCE = _FILES.joinpath("relay_log.py").read_text("utf-8")
LOG_SOURCE = "\n".join(
    (
        SOURCE.partition(_RUNS)[0],
        "import select",
        _LOG_SOURCE.partition("# --- from here on it is sent ---\n")[2],
    )
)
"""The relay that follows a log."""
LOG_HISTORY = 262_144
"""Bytes of a log's end that are asked for, at most."""
_BYTES_A_LINE = 256
_CHARACTER = 4
"""Bytes of the longest character in UTF-8."""
MAX_ANSWER = 32_000_000
"""Bytes; a supervisord with ten thousand programs says less."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What must hold for a process right before something is done to it.

    `identity` is `start:pid` (empty: any); `state` is supervisord's number of a state it must not
    be in (empty: none).
    """

    identity: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """supervisord refused a call: its own number and words."""

    code: int
    says: str


@dataclass(frozen=True, slots=True)
class Part:
    """One thing the relay brought back.

    `kind` is `answer`, `held` (the guard refused), `failed`, or of a configuration: `config`,
    `changed` (since supervisord started), `unread`.
    """

    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Requests:
    """Writes HTTP requests, with a user's password if supervisord asks for one."""

    user: str = ""
    password: Secret | None = None

    def call(self, method: str, *arguments: object) -> str:
        """One XML-RPC call as an HTTP request. Raise CommandFailed if it cannot be written."""
        try:
            body = xmlrpc.dumps(cast("tuple[str, ...]", arguments), method)
            length = len(body.encode())
        except (TypeError, OverflowError, UnicodeEncodeError) as error:
            raise CommandFailed(f"supervisord cannot be asked this: {error}.") from error
        lines = [
            "POST /RPC2 HTTP/1.0",
            "Content-Type: text/xml",
            f"Content-Length: {length}",
            *self._authorization(),
        ]
        return "\r\n".join(lines) + "\r\n\r\n" + body

    def calls(self, calls: Sequence[tuple[str, tuple[object, ...]]]) -> str:
        """Several calls in one request; each answers by itself."""
        structs = [{"methodName": method, "params": list(arguments)} for method, arguments in calls]
        return self.call("system.multicall", structs)

    def log(self, name: str, channel: str, lines: int) -> list[str]:
        """The request that follows a log, and those that read what comes before."""
        path = f"/logtail/{urllib.parse.quote(name, safe=':')}/{channel.lower()}"
        head = "\r\n".join([f"GET {path} HTTP/1.1", *self._authorization()])
        most = min(lines * _BYTES_A_LINE, LOG_HISTORY)
        method = f"supervisor.readProcess{channel}Log"
        return [
            head + "\r\n\r\n",
            *(self.call(method, name, -most - more, 0) for more in range(_CHARACTER)),
        ]

    def _authorization(self) -> Iterator[str]:
        if self.password is not None:
            pair = f"{self.user}:{self.password.reveal()}".encode()
            yield f"Authorization: Basic {base64.b64encode(pair).decode()}"


def job(
    places: Sequence[str],
    first: str,
    then: str,
    *,
    guard: Guard | None = None,
    otherwise: str = "",
    wants_config: bool = False,
) -> bytes:
    """What the relay reads from its stdin; see `celery_ops.hosts.relay.main`."""
    condition = None if guard is None else (guard.identity, guard.state)
    return json.dumps([places, first, condition, then, otherwise, wants_config]).encode()


def log_job(places: Sequence[str], requests: Requests, name: str, lines: int) -> bytes:
    """What the relay that follows a log reads from its stdin; see `relay_log.follow`."""
    about = requests.call("supervisor.getProcessInfo", name)
    channels = [(one.lower(), requests.log(name, one, lines)) for one in ("Stdout", "Stderr")]
    return json.dumps([places, about, channels, lines]).encode()


def parts(completed: Completed) -> tuple[Part, ...]:
    """What the relay brought back. Raise CommandFailed if it did not run to its end."""
    found, _, packed = completed.out.rpartition(MARK)
    if completed.code != 0 or not packed or (not found and MARK not in completed.out):
        raise CommandFailed(_why_not(completed))
    unpacker = zlib.decompressobj()
    try:
        framed = unpacker.decompress(packed, MAX_ANSWER)
    except zlib.error as error:
        raise CommandFailed("The answer of supervisord came back damaged.") from error
    if not unpacker.eof or completed.truncated:
        raise CommandFailed("The answer of supervisord is too long, or was cut off.")
    return tuple(_unframed(framed))


def values(answer: bytes) -> object:
    """The value of an answer, or a Fault. Raise CommandFailed for anything but XML-RPC."""
    if not answer:
        raise CommandFailed("supervisord hung up without an answer.")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].split(b" ")[1:2]
    if status == [b"401"]:
        raise CommandFailed(
            "supervisord asks for a user and a password, or refuses the ones it was given.",
            fix="Write them into the service: server: unix://USER:${PASSWORD}@/path/of/socket",
        )
    if status != [b"200"] or b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise CommandFailed("What answers there is not supervisord.")
    try:
        return cast("tuple[object, ...]", xmlrpc.loads(body.decode("utf-8", "replace"))[0])[0]
    except xmlrpc.Fault as fault:
        return Fault(_integer(fault.faultCode), str(fault.faultString))
    except (xmlrpc.Error, ExpatError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CommandFailed("supervisord's answer is not XML-RPC.") from error


def several(answer: bytes) -> tuple[object, ...]:
    """The values of a multicall's answer, each of which may be a Fault."""
    answered = values(answer)
    if isinstance(answered, Fault):
        raise CommandFailed(f"supervisord says: {answered.says}")
    if not isinstance(answered, list):
        raise CommandFailed("supervisord's answer is not the one to what was asked.")
    return tuple(_one_of_several(one) for one in answered)


def failure(content: bytes, where: str) -> CommandFailed:
    """Why the relay could not speak to supervisord, and what helps."""
    kind, place, says = (*content.decode("utf-8", "replace").split("\t", 2), "", "")[:3]
    at = place or "its usual places"
    fix: str | None = None
    match kind:
        case "FileNotFoundError":
            says = f"supervisord is not running on {where}, or does not listen at {at}."
            fix = "Start it, or write where it listens into the service: server: unix:///path"
        case "ConnectionRefusedError":
            says = f"supervisord is not running on {where}: nobody listens at {at}."
            fix = "Start it: its socket is a leftover."
        case "PermissionError":
            says = f"supervisord on {where} does not let this user in ({at})."
            fix = "Set chmod and chown in its [unix_http_server], or use a user who may."
        case "TimeoutError":
            says = f"supervisord on {where} did not answer within {SOCKET_TIMEOUT:.0f} s ({at})."
        case _:
            says = f"supervisord on {where} cannot be spoken to ({at}): {says}."
    return CommandFailed(says, fix=fix)


def _why_not(completed: Completed) -> str:
    last = completed.err.decode("utf-8", "replace").strip().splitlines()[-1:]
    said = f": {last[0][:200]}" if last else "."
    if completed.code == 127:
        return f"supervisord is asked with Python 3, which is not there{said}"
    return f"supervisord could not be asked (exit code {completed.code}){said}"


def _unframed(framed: bytes) -> Iterator[Part]:
    while framed:
        header, _, rest = framed.partition(b"\n")
        kind, _, length = header.partition(b" ")
        if not length.isdigit() or len(length) > 9 or len(rest) < int(length):
            raise CommandFailed("The answer of supervisord came back damaged.")
        yield Part(kind.decode("ascii", "replace"), rest[: int(length)])
        framed = rest[int(length) :]


def _one_of_several(one: object) -> object:
    """supervisord gives the bare value, not the list of one that its documentation tells of."""
    if isinstance(one, dict) and "faultCode" in one:
        return Fault(_integer(one["faultCode"]), str(one.get("faultString", "")))
    return one


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
