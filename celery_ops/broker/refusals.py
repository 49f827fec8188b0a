"""redis-py's errors in our own words: what happened, and what to do about it. Never a password."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoAnswer

from celery_ops.config.secret import MASK, masked
from celery_ops.errors import BrokerFull, BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.broker.address import RedisAddress

NEEDED = (
    *("eval", "multi", "exec", "publish", "psubscribe", "subscribe", "ping", "select"),
    *("get", "set", "del", "exists", "pexpire", "pttl", "scan", "dbsize"),
    *("hget", "hmget", "hgetall", "hlen", "hset", "hdel", "zrange"),
    *("llen", "lindex", "lpos", "lpush", "lrange", "ltrim", "rpush", "smembers", "sadd", "srem"),
)
"""The commands that a user of the broker has to be allowed."""

_FULL = re.compile(r"\b(OOM|READONLY|MISCONF|NOREPLICAS)\b")
_FULL_CLASSES = {OutOfMemoryError: "OOM", ReadOnlyError: "READONLY"}
_FULL_FIXES = {
    "OOM": "Its maxmemory is reached: make room, or raise it. Queues can still be read.",
    "READONLY": "It is a replica: the address has to be the one of the master.",
    "MISCONF": "It cannot save its data to disk: look into the server's log and at its disk.",
    "NOREPLICAS": "It has fewer replicas than min-replicas-to-write demands.",
}
_CLUSTER_CLASSES = (AskError, ClusterCrossSlotError, ClusterDownError, MovedError)
_CLUSTER = re.compile(r"\b(CROSSSLOT|MOVED \d+|CLUSTERDOWN)\b|not allowed in cluster mode")
_WRONG_LOGIN = re.compile(
    r"WRONGPASS|NOAUTH|unauthenticated|invalid password|invalid username|no password is set", re.I
)
_REFUSED = re.compile(rf"Error {errno.ECONNREFUSED} connecting")
"""redis-py's text where it has lost the system's error on the way."""
_NOT_PERMITTED = re.compile(r"NOPERM|The user executing the script can't")
_FORBIDDEN_COMMAND = re.compile(r"run the '([^'|]+)[^']*' command")
_LOGIN = "They are in the broker's URL, percent-encoded: redis://user:password@host:6379/0"
_LOGIN_OF_SENTINELS = (
    "That of the sentinels stands in broker_options: {sentinel_kwargs: {password: …}}; the one in"
    " the URL is the master's."
)
_ARGUMENTS = re.compile(r",? with args beginning with.*", re.S)


class Refused(BrokerUnreachable):
    """The broker answers, but refuses a command: a right is missing, or it knows no such one."""


class Lost(BrokerUnreachable):
    """A connection that had been there is gone. What was sent may or may not have been done."""


class NoMaster(ConnectionLost):
    """There is nothing to connect to: sentinels name no master, or one that is none.

    One of redis-py's errors, since it is raised in the midst of its connecting.
    """

    def __init__(self, says: str, *, fix: str | None = None) -> None:
        super().__init__(says)
        self.says = says
        self.fix = fix


def refusal(error: BaseException, address: RedisAddress) -> BrokerUnreachable:
    """The error an adapter raises for one of redis-py's or of the system's."""
    for one in (error, error.__cause__):
        if isinstance(one, NoMaster):
            return BrokerUnreachable(one.says, fix=one.fix)
    text = _safe_text(error, address)
    if full := _full(error, text):
        return BrokerFull(
            f"The broker at {address.place} refuses to write ({full}).", fix=_FULL_FIXES[full]
        )
    if isinstance(error, NoPermissionError) or _NOT_PERMITTED.search(text):
        return _not_permitted(text, address)
    if isinstance(error, AuthenticationError) or _WRONG_LOGIN.search(text):
        return BrokerUnreachable(
            f"The {_noun(address)} at {address.place} refuses the user name or the password.",
            fix=_LOGIN_OF_SENTINELS if address.is_sentinel else _LOGIN,
        )
    if isinstance(error, _CLUSTER_CLASSES) or _CLUSTER.search(text):
        return Refused(
            f"The server at {address.place} is a node of a Redis Cluster, which cannot be a broker:"
            " kombu has no transport for it, and keys that it changes together hash to different"
            " slots.",
            fix="If workers run, their broker is another one: see celery inspect stats.",
        )
    if isinstance(error, BusyLoadingError):
        return BrokerUnreachable(
            f"The broker at {address.place} is still loading its data.",
            fix="It answers as soon as it is done.",
        )
    if isinstance(error, ResponseError):
        return Refused(f"The {_noun(address)} at {address.place} refused a command: {text}")
    return _unreachable(error, text, address)


def is_read_only(error: BaseException) -> bool:
    """Whether a replica refused to write, before anything was done."""
    return _full(error, str(error)) == "READONLY"


def _tls_option(address: RedisAddress, name: str) -> str:
    """Where a setting of TLS is written."""
    value = "true" if name == "ssl" else "/path/ca.crt"
    if address.is_sentinel:
        return f"broker_options: {{sentinel_kwargs: {{{name}: {value}}}}}"
    if address.sentinels is not None:
        return f"broker_options: {{ssl: {{{name}: {value}}}}}"
    return f"rediss://…?{name}={value}"


def _noun(address: RedisAddress) -> str:
    return "sentinel" if address.is_sentinel else "broker"


def _full(error: BaseException, text: str) -> str | None:
    """Which of the reasons not to write; redis-py has classes for some of them."""
    for kind, name in _FULL_CLASSES.items():
        if isinstance(error, kind):
            return name
    found = _FULL.search(text)
    return found[1] if found else None


def _not_permitted(text: str, address: RedisAddress) -> Refused:
    user = address.username or "default"
    if command := _FORBIDDEN_COMMAND.search(text):
        return Refused(
            f"The broker's user {user} may not run {command[1].upper()}.",
            fix=f"Give it that right: ACL SETUSER {user} +{command[1].lower()}",
        )
    if "channel" not in text and "key" not in text:
        # Inside of a script Redis does not say which one.
        needed = " ".join(f"+{command}" for command in NEEDED)
        return Refused(
            f"The broker's user {user} may not run one of the commands that are needed here.",
            fix=f"Give it all of them: ACL SETUSER {user} {needed}",
        )
    what, rule = ("channels", "&*") if "channel" in text else ("keys", "~*")
    return Refused(
        f"The broker's user {user} may not use the {what} that Celery uses.",
        fix=f"Give it the rights a worker has: ACL SETUSER {user} {rule}",
    )


def _unreachable(error: BaseException, text: str, address: RedisAddress) -> BrokerUnreachable:
    noun, place = _noun(address), address.place
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                why, option = cause.verify_message, _tls_option(address, "ssl_ca_certs")
                return BrokerUnreachable(
                    f"The certificate of the {noun} at {place} is not trusted: {why}.",
                    fix=f"Name the authority that signed it: {option}",
                )
            case ssl.SSLError():
                return BrokerUnreachable(
                    f"The {noun} at {place} does not agree on TLS.",
                    fix="rediss:// is for ports that speak TLS, redis:// for others."
                    if address.sentinels is None and not address.is_sentinel
                    else f"Whether it speaks TLS is said by {_tls_option(address, 'ssl')}",
                )
            case socket.gaierror():
                return BrokerUnreachable(
                    f"The {noun}'s host {address.host} is not known.",
                    fix="Check its name in the URL, and that this machine can resolve it.",
                )
            case _ if isinstance(cause, ConnectionRefusedError) or _REFUSED.search(str(cause)):
                return _nobody_listens(address)
            case FileNotFoundError():
                missing = cause.filename or address.path or "a certificate's file"
                return BrokerUnreachable(
                    f"There is no {missing}.", fix="Check the path in the URL."
                )
            case PermissionError():
                return BrokerUnreachable(f"This user may not open {address.path or place}.")
            case TimeoutError() | NoAnswer():
                return BrokerUnreachable(
                    f"The {noun} at {place} does not answer.",
                    fix="Check the address, the network, firewalls, and whether it speaks TLS.",
                )
    return Lost(f"The connection to the {noun} at {place} was lost: {text}")


def _nobody_listens(address: RedisAddress) -> BrokerUnreachable:
    fix = f"Is the {_noun(address)} running, and is the port right?"
    if address.sentinels is not None:
        fix = "If it stays away, its sentinels promote a replica; then that is followed."
    return BrokerUnreachable(f"Nothing listens at {address.place}.", fix=fix)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the deepest first: redis-py wraps the system's errors."""
    chain = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if deeper in chain:
            break
        chain.append(deeper)
    return reversed(chain)


def _safe_text(error: BaseException, address: RedisAddress) -> str:
    # A server without AUTH quotes the arguments of the command it does not know: the password.
    text = masked(_ARGUMENTS.sub("", str(error))).strip() or type(error).__name__
    password = address.password.reveal() if address.password else ""
    # A password as short as a syllable would only garble the text.
    return text.replace(password, MASK) if len(password) > 3 else text
