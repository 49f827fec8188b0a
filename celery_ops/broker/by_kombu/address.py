"""Where a broker is that celery-ops reaches by kombu alone: its URL, read as kombu reads it.

No message contains a part of the URL that could be a password.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from celery_ops.broker.rabbit import names as amqp_names
from celery_ops.broker.rabbit.names import AmqpNames
from celery_ops.config.secret import MASK, Secret, masked
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = "filesystem"
SQS = "sqs"
TABLES = frozenset({"sqla", "sqlalchemy"})
_OURS = frozenset({"control_exchange", "event_exchange", "ssl"})
_FOLDERS = ("data_folder_in", "data_folder_out", "control_folder")
_DEFAULT_POLLING = 1.0
"""`kombu.transport.virtual.Transport.polling_interval`"""
_PACKAGES = {
    "etcd": "python-etcd",
    "kafka": "'kombu[confluentkafka]'",
    "sqla": "'kombu[sqlalchemy]'",
}
"""What has to be installed where that is not the extra of kombu's that is called as the transport.
"""
_NEEDED_LATER = {
    "zookeeper": ("kazoo",),
    "consul": ("consul",),
    "etcd": ("etcd",),
    "pyro": ("Pyro4",),
    "kafka": ("confluent_kafka",),
    "confluentkafka": ("confluent_kafka",),
    "qpid": ("qpidtoollibs", "qpid"),
    "pgmq": ("psycopg", "pgmq"),
}
"""Modules that a transport does without when it is imported, and misses afterwards."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where `filesystem://` keeps messages, and its exchanges' tables."""

    data: Path
    control: Path


@dataclass(frozen=True, slots=True)
class KombuAddress:
    """A broker behind one of kombu's transports. `options` are kombu's transport options.

    `polling` is in seconds: so often its workers look for control messages.
    """

    transport: str
    url: Secret
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    tls: object = field(default=None, repr=False)
    names: AmqpNames = field(default_factory=AmqpNames)
    polling: float = _DEFAULT_POLLING
    folders: Folders | None = None

    def __str__(self) -> str:
        """The URL without its password; of files, with their folder."""
        if self.folders is not None:
            return f"{FILES}://{self.folders.data}"
        return masked(self.url.reveal())

    def without_secrets(self, text: str) -> str:
        """A library's text that may repeat the URL or its password."""
        written = self.url.reveal().partition("://")[2].rpartition("@")[0].partition(":")[2]
        for password in (written, unquote(written)):
            # One as short as a syllable would only garble the text.
            if len(password) > 3:
                text = text.replace(password, MASK)
        return masked(text)


def parse(url: Secret, options: Mapping[str, object]) -> KombuAddress:
    """The address in a URL; raise UsageError if kombu knows no such transport, if what it needs is
    not installed, or if nothing could be seen through it.
    """
    scheme = url.reveal().partition("://")[0]
    transport = _known(scheme.partition("+")[0])
    if transport == "memory":
        raise UsageError(
            "memory:// is no broker that could be looked at: its queues are inside of one process,"
            " and this is another one.",
            fix="Workers that other processes send tasks to have another broker.",
        )
    _require(transport)
    given = {name: value for name, value in options.items() if name not in _OURS}
    folders = None
    if transport == FILES:
        url, folders = _of_files(url, given)
    return KombuAddress(
        transport=transport,
        url=url,
        options=given,
        tls=options.get("ssl"),
        names=amqp_names.from_options(options),
        polling=_seconds(given.get("polling_interval")),
        folders=folders,
    )


def has_fanout(transport: str) -> bool:
    """Whether Celery's workers listen to questions over it (`celery.worker.consumer.control`)."""
    kombu: Any = import_module("kombu.transport")
    return "fanout" in kombu.get_transport_cls(transport).implements.exchange_type


def _known(name: str) -> str:
    """The transport as kombu writes it."""
    aliases = import_module("kombu.transport").TRANSPORT_ALIASES
    if name in aliases:
        return name
    if name.lower() in aliases:
        return name.lower()
    near = difflib.get_close_matches(name.lower(), aliases, n=1)
    is_word = name.replace("-", "").replace(".", "").isalnum() and len(name) <= 30
    raise UsageError(
        f"{name}:// is no broker that kombu knows."
        if is_word
        else "The scheme of the broker's URL is none that kombu knows.",
        fix=f"Did you mean {near[0]}://?"
        if near
        else f"It knows: {', '.join(sorted(one for one in aliases if one.islower()))}.",
    )


def _require(transport: str) -> None:
    """Raise UsageError if a package that the transport needs is not there."""
    kombu: Any = import_module("kombu.transport")
    try:
        for name in _NEEDED_LATER.get(transport, ()):
            import_module(name)
        kombu.get_transport_cls(transport)
    except ImportError as error:
        package = _PACKAGES.get(transport, f"'kombu[{transport.lower()}]'")
        raise UsageError(
            f"{transport}:// needs a package that is not installed ({error.name or error}).",
            fix=f"Install it beside celery-ops: pip install {package}",
        ) from error


def _of_files(url: Secret, options: dict[str, object]) -> tuple[Secret, Folders]:
    """The folders, from the options or from the URL's query, which kombu itself does not read."""
    text, _, query = url.reveal().partition("?")
    options.update((key, value) for key, value in parse_qsl(query) if key in _FOLDERS)
    data, out = (options.get(name) for name in _FOLDERS[:2])
    if data is None or out is None:
        raise UsageError(
            "Where filesystem:// keeps its messages stands in the transport options.",
            fix="Name them as the workers do, with -A APP, in broker_options, or with -b"
            " 'filesystem://?data_folder_in=DIR&data_folder_out=DIR&control_folder=DIR'.",
        )
    inwards, outwards = (Path(str(one)).absolute() for one in (data, out))
    if inwards != outwards:
        raise UsageError(
            f"data_folder_in ({inwards}) and data_folder_out ({outwards}) are two folders: what is"
            " sent in such a fleet is not what its workers receive.",
            fix="Name the one that its workers read from, for both.",
        )
    control = Path(str(options.get("control_folder", "control"))).absolute()
    return Secret(text), Folders(inwards, control)


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else _DEFAULT_POLLING
