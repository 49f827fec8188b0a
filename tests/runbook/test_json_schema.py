"""The published schema and the loader: what the loader accepts, the schema does."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.runbook
from celery_ops.cli.new_runbook import TEMPLATE
from celery_ops.config.document import Items, Node, Scalar, parse
from celery_ops.errors import InvalidDocument
from celery_ops.runbook.grammar import VERBS
from celery_ops.runbook.json_schema import schema
from celery_ops.runbook.loader import loads
from tests.runbook.test_loader import AS_DESIGNED, SHIPPED

VALIDATOR = jsonschema.Draft202012Validator(schema())
_NUMBER = re.compile(r"[-+]?([0-9]+|[0-9]*\.[0-9]+)")
EVERYTHING = """
name: everything
summary: Every key there is.
risk: medium
x-mine: {a: 1}
params:
  n: {type: integer, default: 2}
  q: {type: text, default: mail}
  r: {type: release, default: previous}
  x-old: [1]
preflight: [doctor: [stop-loses-tasks], check: "true"]
steps:
  - notify: [tell, 5, true]
    env: {A: 1}
    when: params.n == 2
  - control: rate_limit
    on: "*"
    args: {a: [1, x]}
    x-why: none
  - scale: w@h
    by: +2
  - stop: beat
  - start: beat
    owed_by: ${{ params.q }}
  - pause: mail
    timeout: 1m
  - drain: queue
    queue: mail
    timeout: 1m
  - resume: queue
    queue: ${{ params.q }}
  - backup: mail
    file: mail.backup
  - park: mail
    filter: task == 'x' and retries > params.n
    limit: ${{ params.n }}
  - move: mail
    to: ${{ params.q }}
    rate: 30/m
  - purge: ${{ params.q }}
    filter: "true"
    file: mail.backup
  - restore: backup
    file: mail.backup
    queue: other
  - revoke: tasks
    task: x.*
    filter: retries > params.n
    timeout: 1m
  - terminate: tasks
    ids: ${{ params.q }}
    signal: KILL
  - activate: v2
    on: web1
  - probe: configured
    timeout: 5s
    when: params.n == 2
  - probe: [mail, "${{ params.q }}"]
  - run: [x, "${{ params.n }}"]
    on: web1
    retries: ${{ params.n }}
    retry_pause: 1s
    undo: [y]
  - roll: "*"
    offline: skip
    batch: "2"
    canary: 0
    steps:
      - scale: worker
        to: ${{ params.n }}
      - run: [x]
        once_per: host
      - activate: ${{ params.r }}
        timeout: 1m
      - drain: worker
        timeout: 1m
        on_timeout: defer
      - control: shutdown
        takes: worker
    verify: {that: worker.online, timeout: 1m, x-y: 1}
finally: []
"""


def plain(node: Node) -> Any:
    """A document as an editor sees it: YAML 1.2 core."""
    if isinstance(node, Items):
        return [plain(one) for one in node.nodes]
    if not isinstance(node, Scalar):
        return {entry.key.text: plain(entry.node) for entry in node.entries}
    if node.quoted:
        return node.text
    if node.is_null:
        return None
    if node.text.lower() in {"true", "false"}:
        return node.text.lower() == "true"
    return float(node.text) if _NUMBER.fullmatch(node.text) else node.text


def constants() -> list[str]:
    """Every text in the tests of runbooks that looks like a file."""
    found = []
    for module in pkgutil.iter_modules(tests.runbook.__path__, "tests.runbook."):
        loaded = importlib.import_module(module.name)
        found += [
            value
            for value in vars(loaded).values()
            if isinstance(value, str) and "\nsummary:" in value
        ]
    return list(dict.fromkeys([*found, *SHIPPED, TEMPLATE.format(name="new"), EVERYTHING]))


def accepted(text: str) -> bool:
    try:
        loads(text, "f.yaml")
    except InvalidDocument:
        return False
    return True


def test_the_schema_is_one_and_knows_every_verb() -> None:
    VALIDATOR.check_schema(schema())
    defs: Any = schema()["$defs"]
    places = [one for name, one in defs.items() if name != "param"]
    named = {one["required"][0] for place in places for one in place["items"]["anyOf"]}
    assert named == {name for name, verb in VERBS.items() if verb is not None}


def test_every_runbook_that_is_shipped_or_tested_with_fits_the_schema() -> None:
    good = [text for text in constants() if accepted(text)]
    assert {AS_DESIGNED, EVERYTHING, *SHIPPED} <= set(good)
    assert len(good) > 15
    for text in good:
        assert not list(VALIDATOR.iter_errors(plain(parse(text, "f.yaml")))), text


@pytest.mark.parametrize(
    "step",
    [
        "drain: worker",
        "wait: x",
        "stop: worker\n    timeout: 5",
        "restore: queue",
        "notify: tell",
        "check: true\n    retrys: 1",
        "drain: a\n    timeout: 1m\n    on_timeout: maybe",
    ],
)
def test_what_has_a_wrong_shape_does_not_fit(step: str) -> None:
    text = f"name: x\nsummary: x\nrisk: low\nsteps:\n  - {step}\n"
    assert not accepted(text)
    assert list(VALIDATOR.iter_errors(plain(parse(text, "f.yaml"))))


WORDS = ["worker", "1m", "0", "25%", "true", "null", "[]", "{}", '"3"', "${{ params.n }}", "x-a: 1"]


@given(
    st.sampled_from([AS_DESIGNED, EVERYTHING, *SHIPPED]),
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from([*WORDS, None])), min_size=1, max_size=3
    ),
)
def test_whatever_the_loader_accepts_fits_the_schema(
    text: str, changes: list[tuple[int, str | None]]
) -> None:
    """Values are exchanged, and lines are left out."""
    lines = text.splitlines()
    for number, value in changes:
        at = number % len(lines)
        key, colon, _ = lines[at].partition(": ")
        lines[at] = "" if value is None or not colon else f"{key}: {value}"
    changed = "\n".join(lines) + "\n"
    if accepted(changed):
        document = plain(parse(changed, "f.yaml"))
        assert not list(VALIDATOR.iter_errors(document)), changed


def test_the_shipped_ones_are_there() -> None:
    folder = Path(__file__).parents[2] / "runbooks"
    assert len(SHIPPED) == len(list(folder.glob("*.yaml")))
