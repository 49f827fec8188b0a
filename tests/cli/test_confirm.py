"""Who must be asked, and who may answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_ops.cli import confirm
from celery_ops.errors import ConfirmationNeeded
from celery_ops.runbook.plan import Confirmation, Plan
from tests.runbook.plans import a_plan

QUESTION = Confirmation("1", "Restart?", "production")


def asking(*, protected: bool) -> Plan:
    plan = a_plan()
    where = replace(plan.where, protected=protected)
    return replace(plan, confirmations=(QUESTION,), where=where)


def test_yes_answers_typed_names_too() -> None:
    answers = confirm.agree(asking(protected=False), yes=True, explicit=False)
    assert answers == {"1": "ann@desk (--yes)"}


def test_in_a_protected_context_yes_needs_the_context_named() -> None:
    with pytest.raises(ConfirmationNeeded) as caught:
        confirm.agree(asking(protected=True), yes=True, explicit=False)
    assert "-c production" in str(caught.value)
    assert confirm.agree(asking(protected=True), yes=True, explicit=True)


def test_without_a_terminal_and_without_yes_nobody_agrees() -> None:
    with pytest.raises(ConfirmationNeeded) as caught:
        confirm.agree(asking(protected=False), yes=False, explicit=True)
    assert "Restart?" in caught.value.says
    assert "--yes" in str(caught.value)


def test_where_nothing_is_asked_nobody_is_needed() -> None:
    plan = replace(asking(protected=True), confirmations=())
    assert confirm.agree(plan, yes=False, explicit=False) == {}
