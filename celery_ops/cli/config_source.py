"""Which broker `config init` looks at, and what may be written of it."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.cli import context, terminal
from celery_ops.config import contexts, draft
from celery_ops.config.secret import masked
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.cli.choice import Choice
    from celery_ops.config.contexts import Context

BROKER_VARIABLE = "CELERY_BROKER_URL"


@dataclass(frozen=True, slots=True)
class Source:
    """The broker, and what is written of it."""

    context: Context
    written: str
    settings: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)


def source_of(choice: Choice) -> Source:
    """What the options name, else $CELERY_BROKER_URL, else what is typed in a terminal.

    Raise UsageError if no broker is known.
    """
    if choice.app is not None:
        return _of_app(choice)
    if choice.broker is not None or choice.context is not None:
        chosen = context.resolve(choice).context
        return _of_context(replace(chosen, hosts=chosen.hosts[:1], services=()))
    url = os.environ.get(BROKER_VARIABLE)
    if url:
        return replace(_of_context(contexts.only_broker(url)), written=f"${{{BROKER_VARIABLE}}}")
    if terminal.can_ask():
        typed = terminal.ask("Which broker do the workers use? (redis://HOST:6379/0)")
        if typed:
            return _of_context(contexts.only_broker(typed))
    raise UsageError(
        "No broker is known.",
        fix=f"Name the one that the workers use: -b redis://HOST:6379/0, -A PROJECT, or"
        f" ${BROKER_VARIABLE}.",
    )


def _of_context(found: Context) -> Source:
    """A URL with a password is not written, only where to find it."""
    url = found.broker.reveal()
    has_secret = masked(url) != url or "${" in url
    return Source(found, f"${{{BROKER_VARIABLE}}}" if has_secret else url)


def _of_app(choice: Choice) -> Source:
    module = importlib.import_module("celery_ops.broker.from_app")
    found: Context = module.context_of(choice.app)
    settings = []
    if isinstance(choice.app, str):
        settings.append(("app", choice.app))
    if found.control_exchange != "celery":
        settings.append(("control_exchange", found.control_exchange))
    if found.event_exchange != "celeryev":
        settings.append(("event_exchange", found.event_exchange))
    options, left_out = draft.without_secrets(found.broker_options)
    return replace(
        _of_context(found),
        settings=tuple(settings),
        options=options,
        left_out=left_out,
    )
