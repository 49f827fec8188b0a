"""py-amqp's errors in our own words: what happened, and what to do about it. Never a password."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING

from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    ChannelError,
    InternalError,
    NotAllowed,
    ResourceLocked,
)

from celery_ops.broker.refusals import Lost, Refused
from celery_ops.config.secret import MASK, masked
from celery_ops.errors import BrokerFull, BrokerUnreachable

if TYPE_CHECKING:
    from celery_ops.broker.rabbit.address import AmqpAddress

_LOGIN = re.compile(r"Login was refused|auth mechanism", re.I)
_NO_VHOST = re.compile(r"vhost .{0,300} not found", re.S)
_VHOST_REFUSED = re.compile(r"access to vhost .{0,300} refused", re.S)
_VHOST_DOWN = re.compile(r"vhost .{0,300} is down", re.S)
_MOST_OF_A_TEXT = 300


def refusal(error: BaseException, address: AmqpAddress) -> BrokerUnreachable:
    """The error an adapter raises for one of py-amqp's or of the system's."""
    text = _safe_text(error, address)
    if isinstance(error, AMQPError):
        return _answered(error, text, address)
    return _unreachable(error, text, address)


def blocked(address: AmqpAddress) -> BrokerFull:
    """The error while the server reads nothing from those who publish."""
    return BrokerFull(
        f"The broker at {address.place} takes no messages: its memory or disk alarm is on.",
        fix="rabbitmqctl status names the alarm; it takes messages again once that is over."
        " Queues can still be read.",
    )


def silent(address: AmqpAddress, deadline: float) -> BrokerUnreachable:
    """The error when nothing came within a deadline."""
    return BrokerUnreachable(
        f"The broker at {address.place} does not answer within {deadline:g} s.",
        fix="Check the address, the network, firewalls, and whether it speaks TLS.",
    )


def is_refused_queue(error: BaseException) -> bool:
    """Whether a queue is there, and only another connection may use it."""
    return isinstance(error, ResourceLocked)


def _answered(error: AMQPError, text: str, address: AmqpAddress) -> BrokerUnreachable:
    """The server said why."""
    place, user = address.place, address.username
    if _LOGIN.search(text):
        return BrokerUnreachable(
            f"The broker at {place} refuses the user name or the password.",
            fix="They are in the broker's URL, percent-encoded: amqp://user:password@host:5672/vhost",
        )
    if _NO_VHOST.search(text):
        return BrokerUnreachable(
            f"The broker at {place} has no virtual host {address.vhost!r}.",
            fix="It comes after the host: amqp://host:5672/vhost; the default one, /, is left out"
            " or written %2F.",
        )
    if _VHOST_REFUSED.search(text):
        return BrokerUnreachable(
            f"The broker's user {user} may not use the virtual host {address.vhost!r}.",
            fix=f"Give it the rights a worker has: rabbitmqctl set_permissions -p {address.vhost}"
            f" {user} '.*' '.*' '.*'",
        )
    if _VHOST_DOWN.search(text):
        return BrokerUnreachable(f"The broker's virtual host {address.vhost!r} is down.")
    if isinstance(error, AccessRefused):
        return Refused(
            f"The broker's user {user} lacks a right: {text}",
            fix=f"Give it the rights a worker has: rabbitmqctl set_permissions -p {address.vhost}"
            f" {user} '.*' '.*' '.*'",
        )
    if isinstance(error, ChannelError | NotAllowed | InternalError):
        return Refused(f"The broker at {place} refused a command: {text}")
    return Lost(f"The connection to the broker at {place} was lost: {text}")


def _unreachable(error: BaseException, text: str, address: AmqpAddress) -> BrokerUnreachable:
    place = address.place
    match error:
        case ssl.SSLCertVerificationError():
            return BrokerUnreachable(
                f"The certificate of the broker at {place} is not trusted: {error.verify_message}.",
                fix="Name the authority that signed it, in the context's broker_options:"
                " {ssl: {ca_certs: /path/ca.crt}}",
            )
        case ssl.SSLError():
            return BrokerUnreachable(
                f"The broker at {place} does not agree on TLS.",
                fix="amqps:// is for ports that speak TLS (5671), amqp:// for others (5672).",
            )
        case socket.gaierror():
            return BrokerUnreachable(
                f"The broker's host {address.host} is not known.",
                fix="Check its name in the URL, and that this machine can resolve it.",
            )
        case ConnectionRefusedError():
            return BrokerUnreachable(
                f"Nothing listens at {place}.",
                fix="Is the broker running, and is the port right?",
            )
        case FileNotFoundError():
            return BrokerUnreachable(
                "A file that TLS needs does not exist.",
                fix="Check the paths of ca_certs, certfile and keyfile.",
            )
        case TimeoutError():
            return BrokerUnreachable(
                f"The broker at {place} does not answer.",
                fix="Check the address, the network, firewalls, and whether it speaks TLS.",
            )
    return Lost(f"The connection to the broker at {place} was lost: {text}")


def _safe_text(error: BaseException, address: AmqpAddress) -> str:
    said = getattr(error, "reply_text", None) or str(error)
    text = masked(str(said)).strip()[:_MOST_OF_A_TEXT] or type(error).__name__
    password = address.password.reveal()
    # A password as short as a syllable, or the name of its user, would only garble the text.
    is_telling = len(password) > 3 and password != address.username
    return text.replace(password, MASK) if is_telling else text
