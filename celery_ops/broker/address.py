"""Where a Redis broker is: broker URLs read as kombu reads them.

Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.connection.Connection.__init__`,
`kombu.transport.redis.Channel._connparams` and `SentinelChannel`. Pure: nothing here connects. No
message contains a part of the URL that could be a password, wrongly encoded URLs included.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from celery_ops.config.secret import MASK, Secret
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

DEFAULT_PORT = 6379
SENTINEL = "sentinel"
SENTINEL_PORT = 26379
_TCP = {"redis", "rediss"}
_SOCKET = {"redis+socket", "unix", "redis+unix"}
_VERIFY = {
    "CERT_REQUIRED": ssl.CERT_REQUIRED,
    "CERT_OPTIONAL": ssl.CERT_OPTIONAL,
    "CERT_NONE": ssl.CERT_NONE,
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
_LOOPBACK = re.compile(r"^(localhost|\[::1\]):")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server is verified, and who we are to it."""

    verify: ssl.VerifyMode
    check_hostname: bool
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows where the master of that name is, each with the login that sentinels want.

    The word of one that knows fewer than `min_others` other sentinels does not count.
    """

    master: str
    addresses: tuple[RedisAddress, ...]
    min_others: int = 0


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis server and one of its databases.

    `path` is a unix socket; then host and port are unused. With `sentinels` they are those of the
    master that was found; an empty host: it is not known yet.
    """

    host: str
    port: int
    db: int
    path: str | None = None
    username: str | None = None
    password: Secret | None = None
    tls: Tls | None = None
    sentinels: Sentinels | None = None
    is_sentinel: bool = False
    """It is no broker itself."""

    @property
    def place(self) -> str:
        """`host:port`, or the path of the socket; of a master that was found, whose it is too."""
        if self.path is not None:
            return self.path
        if self.sentinels is None:
            return place(self.host, self.port)
        known = f"{place(self.host, self.port)}, master of " if self.host else ""
        return known + self.sentinels.master

    @property
    def server(self) -> str:
        """The server by the name that a restart and a fail-over keep, however it was written."""
        if self.sentinels is None:
            return _LOOPBACK.sub("127.0.0.1:", self.place)
        places = sorted({one.server for one in self.sentinels.addresses})
        return f"{self.sentinels.master} by {', '.join(places)}"

    def __str__(self) -> str:
        """The URL without its password."""
        user = self.username or ""
        login = f"{user}:{MASK}@" if self.password else f"{user}@" if user else ""
        if self.sentinels is not None:
            return ";".join(
                f"{SENTINEL}://{login}{one.place}/{self.db}" for one in self.sentinels.addresses
            )
        if self.path is not None:
            return f"redis+socket://{login}{self.path}?virtual_host={self.db}"
        return f"redis{'s' if self.tls else ''}://{login}{self.place}/{self.db}"


def place(host: str, port: int) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: Secret, options: Mapping[str, object]) -> RedisAddress:
    """The address in a URL of Redis, or in those of its sentinels (separated by ;).

    `options["ssl"]`, a mapping of `ssl_*` or True, is Celery's `broker_use_ssl`. Raise UsageError.
    """
    scheme = url.reveal().partition("://")[0]
    if scheme == SENTINEL:
        return _by_sentinels(url, options)
    if scheme not in _TCP | _SOCKET:
        raise UsageError(f"{scheme!r} is not a scheme of a Redis URL.")
    is_socket = scheme in _SOCKET
    parts, query = _split(url.reveal())
    path = unquote(parts.path)
    if is_socket and (parts.hostname or parts.port or not path.strip("/")):
        raise UsageError(
            "A unix socket's URL names the path after three slashes: redis+socket:///run/redis.sock"
        )
    database = query.get("virtual_host") or query.get("db") if is_socket else path.strip("/")
    return RedisAddress(
        host=_host(parts),
        port=parts.port or DEFAULT_PORT,
        db=_database(query.get("virtual_host") or database or "0"),
        path=path if is_socket else None,
        username=unquote(parts.username or "") or None,
        password=_password(parts),
        tls=None if is_socket else _tls(scheme, query, options.get("ssl")),
    )


def _by_sentinels(url: Secret, options: Mapping[str, object]) -> RedisAddress:
    """kombu takes login and database from the first URL, and from the next one after each loss."""
    texts = [text.strip() for text in url.reveal().split(";") if text.strip()]
    if any(text.partition("://")[0] != SENTINEL for text in texts):
        raise UsageError(
            "Each of the sentinels has to be a URL of its own: sentinel://a:26379;sentinel://b:26379/0",
            fix="A ; in a password is written %3B.",
        )
    ones = [_split(text) for text in texts]
    query = {key: value for _, one in reversed(ones) for key, value in one.items()}
    named = options.get("master_name") or query.get("master_name")
    if not isinstance(named, str):
        raise UsageError(
            "The sentinels are not told which master is meant.",
            fix="Set broker_options: {master_name: NAME}, or end the URL with /0?master_name=NAME.",
        )
    databases = {
        _database(own.get("virtual_host") or unquote(parts.path).strip("/") or "0")
        for parts, own in ones
    }
    logins = {
        (unquote(parts.username or ""), unquote(parts.password or ""))
        for parts, _ in ones
        if parts.username or parts.password
    }
    for what, found in (("databases", databases), ("logins", logins)):
        if len(found) > 1:
            raise UsageError(
                f"The URLs of the sentinels name different {what}.",
                fix="Write the same in each: a worker goes on to the next URL whenever it cannot"
                " connect. To look at a fleet as it is now, name one sentinel only.",
            )
    username, password = next(iter(logins), ("", ""))
    return RedisAddress(
        host="",
        port=0,
        db=databases.pop(),
        username=username or None,
        password=Secret(password) if password else None,
        tls=_tls(SENTINEL, query, options.get("ssl")),
        sentinels=Sentinels(
            named,
            _sentinels([parts for parts, _ in ones], options.get("sentinel_kwargs")),
            _number(options.get("min_other_sentinels")),
        ),
    )


def _sentinels(parts: list[SplitResult], kwargs: object) -> tuple[RedisAddress, ...]:
    """`kwargs` are redis-py's, for connections to sentinels."""
    kwargs = kwargs or {}
    if not isinstance(kwargs, Mapping):
        raise UsageError("The broker option sentinel_kwargs is not a mapping.")
    username, password = (kwargs.get(key) for key in ("username", "password"))
    settings = {key: value for key, value in kwargs.items() if key.startswith("ssl_")}
    settings.setdefault("ssl_cert_reqs", "required")
    return tuple(
        RedisAddress(
            host=_host(one),
            port=one.port or SENTINEL_PORT,
            db=0,
            username=None if username is None else str(username),
            password=None if password is None else Secret(str(password)),
            tls=_tls(SENTINEL, {}, settings) if kwargs.get("ssl") else None,
            is_sentinel=True,
        )
        for one in parts
    )


def _split(text: str) -> tuple[SplitResult, Mapping[str, str]]:
    """The parts of a URL and its query, with a port that is one."""
    scheme = text.partition("://")[0]
    try:
        # kombu parses with the rules of http, whatever the scheme is called.
        parts = urlsplit("http" + text[len(scheme) :])
        _ = parts.port, parts.hostname
    except ValueError:
        # Not chained: urlsplit's own text quotes the part that it took for a port.
        raise UsageError(
            "The broker URL cannot be read.",
            fix="Characters like / ? # @ : in a password are written percent-encoded (%2F, %3F …).",
        ) from None
    return parts, dict(parse_qsl(parts.query))


def _host(parts: SplitResult) -> str:
    return (unquote(parts.hostname or "") or "127.0.0.1").lower()


def _password(parts: SplitResult) -> Secret | None:
    password = unquote(parts.password or "")
    return Secret(password) if password else None


def _number(value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int):
        raise UsageError("The broker option min_other_sentinels is not a number.")
    return value


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            "The database in the broker URL is not a number.",
            fix="It comes after the host: redis://host:6379/0",
        )
    return int(text)


def _tls(scheme: str, query: Mapping[str, str], use_ssl: object) -> Tls | None:
    settings: dict[str, object] = {
        key: value for key, value in query.items() if key.startswith("ssl_")
    }
    if isinstance(use_ssl, dict):
        settings |= use_ssl
    if scheme != "rediss" and not settings and use_ssl is not True:
        return None
    # kombu: rediss without any ssl_ parameter does not verify the server's certificate.
    fallback = ssl.CERT_REQUIRED if settings else ssl.CERT_NONE
    verify = verify_mode(settings.get("ssl_cert_reqs"), fallback)
    files = {key: str(settings[key]) for key in _TLS_FILES if settings.get(key)}
    return Tls(
        verify=verify,
        check_hostname=verify is not ssl.CERT_NONE
        and str(settings.get("ssl_check_hostname", "true")).lower() != "false",
        ca_certs=files.get("ssl_ca_certs"),
        certfile=files.get("ssl_certfile"),
        keyfile=files.get("ssl_keyfile"),
    )


def verify_mode(value: object, fallback: ssl.VerifyMode) -> ssl.VerifyMode:
    """What `ssl_cert_reqs` means, in each of the ways in which kombu lets it be written."""
    if value is None:
        return fallback
    if isinstance(value, int):
        return ssl.VerifyMode(value)
    mode = _VERIFY.get(str(value))
    if mode is None:
        raise UsageError(
            f"ssl_cert_reqs={value} is not known.", fix="It is one of: required, optional, none."
        )
    return mode
