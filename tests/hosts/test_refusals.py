"""A look that failed is told as that, and never as services that are down."""

from __future__ import annotations

import pytest

from celery_ops.config.detached import DetachedNode
from celery_ops.config.services import ServiceCommands
from celery_ops.errors import CommandFailed
from celery_ops.hosts.multi import Multi
from celery_ops.hosts.own_commands import OwnCommands
from celery_ops.model import ServiceRef
from celery_ops.ports import Completed

NODE = ServiceRef("web1", "multi", "polite")
ONE = ServiceRef("web1", "commands", "one")
MULTI = Multi({("web1", "polite"): DetachedNode("/run/celery/polite.pid", ("celery",))})
COMMANDS = OwnCommands({("web1", "one"): ServiceCommands(("false",), ("true",), ("true",))})


@pytest.mark.parametrize(
    ("adapter", "service", "fails"),
    [
        pytest.param(MULTI, NODE, "The pidfiles cannot be looked at", id="multi"),
        pytest.param(COMMANDS, ONE, "The status commands cannot be run", id="commands"),
    ],
)
@pytest.mark.parametrize(
    ("completed", "says"),
    [
        (Completed(2, b"hertz=100\n", b"sh: 1:\n  not found\n", 0.1), "sh: 1: not found"),
        (Completed(137, b"", b"", 0.1), "exit code 137"),
        (
            Completed(0, b"hertz=100\n", b"", 0.1, truncated=True),
            "the answer is too long, and was cut off",
        ),
    ],
    ids=["failed", "wordless", "cut off"],
)
def test_a_look_that_failed_says_so(
    adapter: Multi | OwnCommands, service: ServiceRef, fails: str, completed: Completed, says: str
) -> None:
    with pytest.raises(CommandFailed) as caught:
        adapter.read_status([service], completed)
    assert str(caught.value) == f"{fails}: {says}."
