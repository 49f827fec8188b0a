"""The broker of a Celery application: its URL and its transport options, and nothing else of it.

Imports Celery and the user's own code, so it is imported only where an application was named.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery import Celery
from celery.app.utils import find_app

from celery_ops.broker.address import SENTINEL
from celery_ops.config import contexts
from celery_ops.config.secret import masked
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context

_FIX = "Name it as celery does: -A package.module:app; it is looked for from this directory too."


def context_of(app: Celery | str) -> Context:
    """The context of an application, or of one that is named as for `celery -A`.

    Raise UsageError if it cannot be imported or has no broker.
    """
    found = _imported(app) if isinstance(app, str) else app
    conf = found.conf
    url = conf.broker_write_url
    urls = url.split(";") if isinstance(url, str) else list(url or ())
    if not urls or not urls[0]:
        raise UsageError(f"The application {_name(found)} names no broker.", fix="Use -b URL.")
    # Sentinels are one broker. Other brokers are alternatives, and the first is the one in use.
    first = ";".join(urls) if urls[0].startswith(f"{SENTINEL}://") else urls[0]
    options = dict(conf.broker_transport_options or {})
    if conf.broker_use_ssl:
        options["ssl"] = conf.broker_use_ssl
    return replace(
        contexts.only_broker(first),
        name=_name(found),
        broker_options=options,
        control_exchange=conf.control_exchange,
        event_exchange=conf.event_exchange,
    )


def _imported(name: str) -> Celery:
    try:
        found = find_app(name)
    except Exception as error:
        says = masked(f"{type(error).__name__}: {error}")
        raise UsageError(f"The application {name} cannot be imported: {says}", fix=_FIX) from error
    if not isinstance(found, Celery):
        raise UsageError(f"{name} is no Celery application.", fix=_FIX)
    return found


def _name(app: Celery) -> str:
    return str(app.main or "celery")
