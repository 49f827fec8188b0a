"""Which deployment a command is about: the global options, as a context."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config import contexts
from celery_ops.demo import registry
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from celery_ops.cli.choice import Choice
    from celery_ops.config.contexts import Configuration, Context


@dataclass(frozen=True, slots=True)
class Chosen:
    """A context, and the file it was read from."""

    context: Context
    file: Path | None


def resolve(choice: Choice) -> Chosen:
    """The context that is meant. Raise UsageError or InvalidDocument."""
    named = [
        option
        for option, value in (("-c", choice.context), ("-b", choice.broker), ("-A", choice.app))
        if value is not None
    ]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} each name a broker: use one of them.")
    chosen = _chosen(choice)
    return only_read(chosen) if choice.read_only else chosen


def only_read(chosen: Chosen) -> Chosen:
    """The same context, from which nothing may be changed."""
    return Chosen(replace(chosen.context, read_only=True), chosen.file)


def configuration(choice: Choice) -> Configuration:
    """What the configuration file says; nothing if there is none."""
    path = contexts.find(choice.config, environ=os.environ, cwd=Path.cwd(), home=Path.home())
    return contexts.Configuration() if path is None else contexts.load(path.absolute(), os.environ)


def directory(choice: Choice) -> Path | None:
    """Where the configuration is, with the user's own runbooks beside it; None without one."""
    if choice.broker is not None or choice.app is not None:
        return None
    found = configuration(choice)
    if choice.context is not None and _is_demo(choice.context, found):
        return registry.find(choice.context).config.parent
    return None if found.file is None else found.file.parent


def _chosen(choice: Choice) -> Chosen:
    if choice.broker is not None:
        return Chosen(contexts.only_broker(choice.broker.reveal()), None)
    if choice.app is not None:
        from_app = importlib.import_module("celery_ops.broker.from_app")
        return Chosen(from_app.context_of(choice.app), None)
    found = configuration(choice)
    if choice.context is not None and _is_demo(choice.context, found):
        file = registry.find(choice.context).config
        return Chosen(contexts.select(contexts.load(file, os.environ), None), file)
    return Chosen(contexts.select(found, choice.context), found.file)


def _is_demo(name: str, found: Configuration) -> bool:
    """A context of the user's own by that name wins."""
    if name in found.contexts or name in found.incomplete:
        return False
    return name == registry.NEWEST or name.startswith(f"{registry.NEWEST}-")
