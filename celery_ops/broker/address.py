"""Where a Redis broker is: broker URLs read as kombu reads them.

Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.connection.Connection.__init__` and
`kombu.transport.redis.Channel._connparams`. Pure: nothing here connects. No message contains a part
of the URL that could be a password, wrongly encoded URLs included.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from celery_ops.config.secret import MASK, Secret
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 6379
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
class RedisAddress:
    """A Redis server and one of its databases. `path` is a unix socket; then host and port are
    unused.
    """

    host: str
    port: int
    db: int
    path: str | None = None
    username: str | None = None
    password: Secret | None = None
    tls: Tls | None = None

    @property
    def place(self) -> str:
        """`host:port`, or the path of the socket."""
        if self.path is not None:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """The URL without its password."""
        user = self.username or ""
        login = f"{user}:{MASK}@" if self.password else f"{user}@" if user else ""
        if self.path is not None:
            return f"redis+socket://{login}{self.path}?virtual_host={self.db}"
        return f"redis{'s' if self.tls else ''}://{login}{self.place}/{self.db}"


def parse(url: Secret, options: Mapping[str, object]) -> RedisAddress:
    """The address in a `redis`, `rediss` or `redis+socket` URL; raise UsageError.

    `options["ssl"]`, a mapping of `ssl_*` or True, is Celery's `broker_use_ssl`.
    """
    text = url.reveal()
    scheme = text.partition("://")[0]
    try:
        # kombu parses with the rules of http, whatever the scheme is called.
        parts = urlsplit("http" + text[len(scheme) :])
        port = parts.port
        host = unquote(parts.hostname or "")
    except ValueError:
        # Not chained: urlsplit's own text quotes the part that it took for a port.
        raise UsageError(
            "The broker URL cannot be read.",
            fix="Characters like / ? # @ : in a password are written percent-encoded (%2F, %3F …).",
        ) from None
    query = dict(parse_qsl(parts.query))
    path = unquote(parts.path)
    is_socket = scheme in _SOCKET
    if not is_socket and scheme not in _TCP:
        raise UsageError(f"{scheme!r} is not a scheme of a Redis URL.")
    if is_socket and (host or port or not path.strip("/")):
        raise UsageError(
            "A unix socket's URL names the path after three slashes: redis+socket:///run/redis.sock"
        )
    database = query.get("virtual_host") or query.get("db") if is_socket else path.strip("/")
    password = unquote(parts.password or "")
    return RedisAddress(
        host=(host or "127.0.0.1").lower(),
        port=port or DEFAULT_PORT,
        db=_database(query.get("virtual_host") or database or "0"),
        path=path if is_socket else None,
        username=unquote(parts.username or "") or None,
        password=Secret(password) if password else None,
        tls=None if is_socket else _tls(scheme, query, options.get("ssl")),
    )


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
