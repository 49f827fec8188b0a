"""No message is posted into the void: each has a handler."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from textual.dom import DOMNode
from textual.message import Message

import celery_ops.tui
from celery_ops.tui import messages
from celery_ops.tui.messages import RunEventSeen, SnapshotTaken
from tests.tui import fleets, standins

if TYPE_CHECKING:
    from collections.abc import Iterator


def ours(base: type) -> Iterator[type]:
    for module in pkgutil.iter_modules(celery_ops.tui.__path__):
        importlib.import_module(f"celery_ops.tui.{module.name}")
    pending = [base]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__.startswith("celery_ops.tui"):
            yield kind


def test_every_message_has_a_handler() -> None:
    handlers = {name for node in ours(DOMNode) for name in vars(node) if name.startswith("on_")}
    found = {kind for kind in ours(Message) if kind is not messages.Replaceable}
    assert len(found) >= 15
    unheard = {
        kind.__qualname__
        for kind in found
        if issubclass(kind, Message) and kind.handler_name not in handlers
    }
    assert not unheard


def test_a_newer_snapshot_replaces_an_older_one_and_an_event_replaces_nothing() -> None:
    older, newer = SnapshotTaken(fleets.demo()), SnapshotTaken(fleets.demo())
    assert newer.can_replace(older)
    first, second = map(RunEventSeen, standins.events()[:2])
    assert not second.can_replace(first)
    assert not newer.can_replace(first)
