"""Commands in what is told are those to be typed for the context that is shown."""

from __future__ import annotations

from celery_ops.cli.choice import Choice
from celery_ops.cli.fleet_json import Json
from celery_ops.cli.mending import Mending
from celery_ops.config.secret import Secret

BROKER = "redis://:***@10.0.0.5:6379/0"


def test_the_default_context_needs_no_name() -> None:
    mending = Mending(Choice(), BROKER)
    assert mending.text("give it back: celery-ops worker resume w@h") == (
        "give it back: celery-ops worker resume w@h"
    )


def test_another_context_is_named() -> None:
    mending = Mending(Choice(context="my staging"), BROKER)
    assert mending.text("a: celery-ops worker restart w; celery-ops queue resume mail") == (
        "a: celery-ops -c 'my staging' worker restart w;"
        " celery-ops -c 'my staging' queue resume mail"
    )
    assert mending.text("taken by celery-ops on web1") == "taken by celery-ops on web1"


def test_a_broker_is_named_without_its_password() -> None:
    mending = Mending(Choice(broker=Secret("redis://:secret@10.0.0.5:6379/0")), BROKER)
    assert mending.text("celery-ops beat start") == f"celery-ops -b '{BROKER}' beat start"


def test_of_a_document_only_commands_are_changed() -> None:
    said: Json = {
        "taken": [{"mend": "celery-ops beat start", "what": "celery-ops queue x", "at": None}],
        "problems": [{"fix": "celery-ops queue unpark x gives them back", "count": 1}],
    }
    assert Mending(Choice(context="b"), BROKER).json(said) == {
        "taken": [{"mend": "celery-ops -c b beat start", "what": "celery-ops queue x", "at": None}],
        "problems": [{"fix": "celery-ops -c b queue unpark x gives them back", "count": 1}],
    }
