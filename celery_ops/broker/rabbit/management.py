"""RabbitMQ's management API, where it is configured: what AMQP itself does not tell.

Only GET. Each call has a daemon thread of its own, within a deadline: `http.client` blocks, and
resolving a host's name does. Counters there are some seconds old; bindings are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from celery_ops.broker.rabbit.natures import Nature
from celery_ops.config.secret import Secret, masked
from celery_ops.errors import BrokerUnreachable, UsageError

if TYPE_CHECKING:
    from celery_ops.broker.rabbit.address import AmqpAddress

DEADLINE = 4.0
AGAIN_AFTER = 10.0
"""Seconds for which a failure is believed: a server that hangs must not delay each look."""
_MOST_BYTES = 64 * 1024 * 1024
_COLUMNS = "columns=name,messages_ready,messages_unacknowledged,consumers,exclusive"
_TOTALS = "&disable_stats=true&enable_queue_totals=true"
"""What the server has at hand, a third of the work for it; who consumes is not among that."""
_DEFAULT_PORTS = {"http": 15672, "https": 15671}


@dataclass(frozen=True, slots=True)
class CountedQueue:
    """A queue as the API last counted it; None where it has not counted it yet."""

    name: str
    ready: int | None
    unacked: int | None
    consumers: int | None


@dataclass(frozen=True, slots=True)
class _Place:
    scheme: str
    host: str
    port: int
    path: str
    authorization: Secret


class Management:
    """The API of one broker, for one virtual host. Every method may raise BrokerUnreachable."""

    def __init__(self, url: Secret, address: AmqpAddress) -> None:
        """`url` is `http(s)://[user:password@]host[:port]`; without a user it is that of `address`,
        and its authority vouches for this server, too. Raise UsageError.
        """
        self._place = _parsed(url, address)
        self._failure: BrokerUnreachable | None = None
        self._again_at = 0.0
        self._vhost = quote(address.vhost, safe="")
        self._authority = address.tls.ca_certs if address.tls is not None else None
        self._has_totals = True

    def __str__(self) -> str:
        return f"{self._place.scheme}://{self._place.host}:{self._place.port}"

    async def queues(self) -> tuple[CountedQueue, ...]:
        """Every queue but those that belong to one connection."""
        totals = _TOTALS if self._has_totals else ""
        found = await self._get(f"queues/{self._vhost}?{_COLUMNS}{totals}")
        entries = _entries(found)
        if totals and entries and not any("messages_ready" in entry for entry in entries):
            self._has_totals = False  # it knows of no totals, or has counted nothing yet
            return await self.queues()
        return tuple(
            CountedQueue(
                str(entry["name"]),
                _whole(entry.get("messages_ready")),
                _whole(entry.get("messages_unacknowledged")),
                _whole(entry.get("consumers")),
            )
            for entry in entries
            if isinstance(entry.get("name"), str) and not entry.get("exclusive")
        )

    async def nature(self, queue: str) -> Nature | None:
        """None if there is no such queue. A limit that a policy sets is told as an argument."""
        path = f"queues/{self._vhost}/{quote(queue, safe='')}"
        found = await self._get(path, absent={})
        if not isinstance(found, dict) or not found:
            return None
        arguments = dict(_table(found.get("arguments")))
        for name, value in _table(found.get("effective_policy_definition")).items():
            arguments[f"x-{name}"] = _stricter(arguments.get(f"x-{name}"), value)
        return Nature(str(found.get("type", "classic")), arguments)

    async def consumers(self) -> Counter[str]:
        """How many consumers each queue has that has any, as it last counted them.

        Where that fails it is no reason to ask for nothing else.
        """
        found = await self._in_time(f"consumers/{self._vhost}?columns=queue.name", None)
        queues = (entry.get("queue") for entry in _entries(found))
        return Counter(str(queue.get("name")) for queue in queues if isinstance(queue, dict))

    async def bound(self, exchange: str) -> tuple[str, ...]:
        """The queues that are bound to an exchange now; none if there is no such exchange."""
        path = f"exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source"
        found = await self._get(path, absent=[])
        return tuple(
            str(entry["destination"])
            for entry in _entries(found)
            if entry.get("destination_type") == "queue"
        )

    async def _get(self, path: str, *, absent: object = None) -> object:
        if self._failure is not None and time.monotonic() < self._again_at:
            raise self._failure
        try:
            found = await self._in_time(path, absent)
        except BrokerUnreachable as error:
            self._failure, self._again_at = error, time.monotonic() + AGAIN_AFTER
            raise
        self._failure = None
        return found

    async def _in_time(self, path: str, absent: object) -> object:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()
        threading.Thread(
            target=partial(self._fetch, path, absent, answer, loop),
            name="celery-ops management",
            daemon=True,
        ).start()
        try:
            async with asyncio.timeout(DEADLINE):
                return await answer
        except TimeoutError:
            says = f"The management API at {self} does not answer within {DEADLINE:g} s."
            raise BrokerUnreachable(says) from None

    def _fetch(
        self,
        path: str,
        absent: object,
        answer: asyncio.Future[object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        try:
            settle = partial(answer.set_result, self._fetched(path, absent))
        except BrokerUnreachable as error:
            settle = partial(answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if answer.done() else settle())

    def _fetched(self, path: str, absent: object) -> object:
        connection = self._connection()
        headers = {"Authorization": self._place.authorization.reveal()}
        try:
            connection.request("GET", f"{self._place.path}/api/{path}", headers=headers)
            response = connection.getresponse()
            status, content = response.status, response.read(_MOST_BYTES)
        except (OSError, HTTPException) as error:
            says = masked(str(error)) or type(error).__name__
            raise BrokerUnreachable(f"The management API at {self} is not there: {says}") from error
        finally:
            connection.close()
        if status == 404 and absent is not None:
            return absent
        if status != 200:
            raise BrokerUnreachable(f"The management API at {self} answers {_reason(status)}.")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            says = f"The management API at {self} does not answer in JSON."
            raise BrokerUnreachable(says) from None

    def _connection(self) -> HTTPConnection:
        place = self._place
        if place.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=self._authority)
            except OSError as error:
                says = f"The file ca_certs of the broker cannot be used: {error.strerror}"
                raise BrokerUnreachable(says) from error
            return HTTPSConnection(place.host, place.port, timeout=DEADLINE, context=context)
        return HTTPConnection(place.host, place.port, timeout=DEADLINE)


def _parsed(url: Secret, address: AmqpAddress) -> _Place:
    try:
        parts = urlsplit(url.reveal())
        port = parts.port
    except ValueError:
        # Not chained: urlsplit's own text quotes the part that it took for a port.
        raise UsageError("The management URL cannot be read.", fix=_FIX) from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise UsageError("The management URL is none of http or https.", fix=_FIX)
    user = unquote(parts.username) if parts.username else address.username
    password = unquote(parts.password) if parts.password else address.password.reveal()
    return _Place(
        parts.scheme,
        parts.hostname,
        port or _DEFAULT_PORTS[parts.scheme],
        parts.path.rstrip("/"),
        Secret("Basic " + b64encode(f"{user}:{password}".encode()).decode()),
    )


_FIX = "Write it as http://user:password@host:15672; without a user it is the broker's own."


def _entries(found: object) -> list[dict[str, object]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _table(found: object) -> dict[str, object]:
    return found if isinstance(found, dict) else {}


def _stricter(argument: object, policy: object) -> object:
    """Of two limits the smaller one counts, as in RabbitMQ."""
    if isinstance(argument, int) and isinstance(policy, int):
        return min(argument, policy)
    return policy if argument is None else argument


def _reason(status: int) -> str:
    words = {401: "that user or password are wrong", 403: "that the user lacks the tag management"}
    return words.get(status, f"with status {status}")


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
