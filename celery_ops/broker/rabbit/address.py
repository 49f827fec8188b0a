"""Where a RabbitMQ is: broker URLs read as kombu reads them.

Source of the rules: `kombu.utils.url.url_to_parts`, `kombu.transport.pyamqp` and
`amqp.transport.SSLTransport`. Pure: nothing here connects. No message contains a part of the URL
that could be a password, wrongly encoded URLs included.
"""

from __future__ import annotations

import difflib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from celery_ops.broker import names
from celery_ops.broker.address import verify_mode
from celery_ops.config.secret import MASK, Secret
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671
_LOGIN_METHODS = {"PLAIN", "AMQPLAIN", "EXTERNAL"}
_TLS_KEYS = {"ca_certs", "certfile", "keyfile", "cert_reqs", "server_hostname"}
_TLS_WITHOUT_EFFECT_HERE = {
    "check_hostname", "ciphers", "ssl_version", "tls_minimum_version", "tls_maximum_version",
}  # fmt: skip
_READ = {"ssl", "control_exchange", "event_exchange", "login_method"}
_WITHOUT_EFFECT_HERE = {
    "confirm_publish", "heartbeat", "client_properties", "connect_timeout", "read_timeout",
    "write_timeout", "socket_settings", "max_retries", "interval_start", "interval_step",
    "interval_max", "connect_retries_timeout", "errback", "queue_arguments", "priority_steps",
    "frame_max", "channel_max", "on_blocked", "on_unblocked", "client_name", "failover_strategy",
}  # fmt: skip
KNOWN_OPTIONS = frozenset(_READ | _WITHOUT_EFFECT_HERE)
"""Those of Redis are let pass as well: Celery ignores what a fleet has kept from there."""


@dataclass(frozen=True, slots=True)
class AmqpTls:
    """How the server is verified, and who we are to it.

    As py-amqp does, a host's name is checked only where `server_hostname` says which it shall be.
    """

    verify: ssl.VerifyMode
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_hostname: str | None = None


@dataclass(frozen=True, slots=True)
class AmqpAddress:
    """A RabbitMQ server and one of its virtual hosts."""

    host: str
    port: int
    vhost: str
    username: str
    password: Secret
    login_method: str = "PLAIN"
    tls: AmqpTls | None = None

    @property
    def place(self) -> str:
        """`host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """The URL without its password."""
        scheme = "amqps" if self.tls else "amqp"
        user = quote(self.username, safe="")
        return f"{scheme}://{user}:{MASK}@{self.place}/{quote(self.vhost, safe='')}"


def parse(url: Secret, options: Mapping[str, object]) -> AmqpAddress:
    """The address in an `amqp`, `amqps` or `pyamqp` URL; raise UsageError.

    `options["ssl"]`, a mapping of py-amqp's names or True, is Celery's `broker_use_ssl`.
    """
    _refuse_unknown(options)
    text = url.reveal()
    scheme = text.partition("://")[0]
    if scheme not in SCHEMES:
        raise UsageError(f"{scheme!r} is not a scheme of a RabbitMQ URL.")
    try:
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
    tls = _tls(scheme, query, options.get("ssl"))
    method = str(query.get("login_method") or options.get("login_method") or "PLAIN").upper()
    if method not in _LOGIN_METHODS:
        raise UsageError(
            f"The login method {method} is not supported.",
            fix=f"It is one of: {', '.join(sorted(_LOGIN_METHODS))}.",
        )
    return AmqpAddress(
        host=(host or "127.0.0.1").lower(),
        port=port or (DEFAULT_TLS_PORT if tls else DEFAULT_PORT),
        vhost=query.get("virtual_host") or unquote(parts.path[1:]) or "/",
        username=unquote(parts.username or "") or "guest",
        password=Secret(unquote(parts.password or "") or "guest"),
        login_method=method,
        tls=tls,
    )


def _refuse_unknown(options: Mapping[str, object]) -> None:
    for name in options:
        if name not in KNOWN_OPTIONS | names.KNOWN_OPTIONS:
            near = difflib.get_close_matches(name, KNOWN_OPTIONS, n=1)
            raise UsageError(
                f"{name!r} is not a broker option of RabbitMQ.",
                fix=f"Did you mean {near[0]!r}?" if near else None,
            )


def _tls(scheme: str, query: Mapping[str, str], use_ssl: object) -> AmqpTls | None:
    given: dict[str, object] = {
        name: value for name, value in query.items() if name.startswith("ssl_")
    }
    if isinstance(use_ssl, dict):
        given |= use_ssl
    settings = {name.removeprefix("ssl_"): value for name, value in given.items()}
    if scheme != "amqps" and not settings and use_ssl is not True:
        return None
    for name in settings:
        if name not in _TLS_KEYS | _TLS_WITHOUT_EFFECT_HERE:
            raise UsageError(
                f"{name!r} is not a setting of TLS.",
                fix=f"There are: {', '.join(sorted(_TLS_KEYS))}.",
            )
    texts = {name: str(settings[name]) for name in _TLS_KEYS if settings.get(name)}
    return AmqpTls(
        verify=verify_mode(settings.get("cert_reqs"), ssl.CERT_REQUIRED),
        ca_certs=texts.get("ca_certs"),
        certfile=texts.get("certfile"),
        keyfile=texts.get("keyfile"),
        server_hostname=texts.get("server_hostname"),
    )
