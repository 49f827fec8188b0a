"""From a YAML file to a checked Runbook, or to all that is wrong with it, each with its position.

The door for whoever runs runbooks: what an operator gave is turned into values here too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config.document import Items, Reader, decoded, parse, shown
from celery_ops.errors import InvalidDocument, Problem, UsageError
from celery_ops.runbook.grammar import VERBS
from celery_ops.runbook.params import params_of, parse_params, read_params
from celery_ops.runbook.positions import Source
from celery_ops.runbook.schema import CheckStep, DoctorStep, FinalStep, Risk, Runbook, Step
from celery_ops.runbook.slots import ValueReader, as_argument, render, render_argument, resolve
from celery_ops.runbook.steps import StepReader, Where

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.config.document import Node

__all__ = [
    "as_argument",
    "load",
    "loads",
    "params_of",
    "parse_params",
    "render",
    "render_argument",
    "resolve",
]

MAX_BYTES = 200_000
RESERVED = frozenset({"check", "new", "schema"})
"""Words that `celery-ops runbook` understands otherwise."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
KEYS = ("name", "summary", "risk", "params", "preflight", "steps", "finally")
REQUIRED = ("name", "summary", "risk", "steps")
_EXPLAINED = 500  # characters of a line; enough for a person, little for a regular expression
_HINTS = (
    (re.compile(r"\$\{\{"), "inside [ ] or { } a ${{ … }} must be quoted"),
    (re.compile(r""":\s+(['"]).*?\1\s+\S"""), "quote the whole of it, or none of its beginning"),
)


def load(path: Path, *, rules: Collection[str] | None = None) -> Runbook:
    """Read a runbook file.

    `rules` are the names of doctor's rules; without them a rule is only checked in form. Raise
    UsageError if the file cannot be read, InvalidDocument with everything that is wrong in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return loads(decoded(content, str(path)), str(path), rules=rules)


def loads(text: str, file: str, *, rules: Collection[str] | None = None) -> Runbook:
    """Read a runbook from its text; `file` is what problems name. Raise InvalidDocument."""
    if len(text) > MAX_BYTES:
        raise InvalidDocument([Problem(file, 1, 1, f"larger than {MAX_BYTES} bytes")])
    try:
        root = parse(text, file)
    except InvalidDocument as error:
        raise _explained(error, text) from error
    reader = Reader()
    runbook = _read(root, reader, text, file, rules=rules)
    reader.finish()
    return runbook


def _read(
    root: Node,
    reader: Reader,
    text: str,
    file: str,
    *,
    rules: Collection[str] | None,
) -> Runbook:
    keys = reader.table(root, "a runbook", KEYS, REQUIRED)
    params = read_params(reader, keys.get("params"))
    values = ValueReader(reader, Source(text), {param.name: param for param in params})
    steps = StepReader(values, VERBS, rules)
    risk = reader.choice(keys["risk"], "risk", Risk) if "risk" in keys else None
    preflight = steps.steps(keys["preflight"], Where.PREFLIGHT, "p") if "preflight" in keys else ()
    finally_ = steps.steps(keys["finally"], Where.FINALLY, "f") if "finally" in keys else ()
    return Runbook(
        name=_read_name(reader, keys.get("name")),
        summary=(reader.text(keys["summary"], "summary") if "summary" in keys else None) or "",
        risk=Risk(risk or Risk.HIGH),
        params=params,
        preflight=tuple(one for one in preflight if isinstance(one, CheckStep | DoctorStep)),
        steps=_read_steps(reader, steps, keys.get("steps")),
        finally_=tuple(one for one in finally_ if isinstance(one, FinalStep)),
        file=file,
        source=text,
    )


def _read_name(reader: Reader, node: Node | None) -> str:
    name = None if node is None else reader.text(node, "name")
    if node is None or name is None:
        return ""
    if not _NAME.fullmatch(name):
        reader.wrong(node.place, f"name {shown(name)}: lower-case letters, digits and - only")
    if name in RESERVED:
        reader.wrong(node.place, f"name {name}: `celery-ops runbook {name}` means something else")
    return name


def _read_steps(reader: Reader, steps: StepReader, node: Node | None) -> tuple[Step, ...]:
    if node is None:
        return ()
    if isinstance(node, Items) and not node.nodes:
        reader.wrong(node.place, "a runbook has at least one step")
    found = steps.steps(node, Where.STEPS)
    return tuple(step for step in found if isinstance(step, Step))


def _explained(error: InvalidDocument, text: str) -> InvalidDocument:
    """YAML's own messages, with what is behind the usual ones."""
    lines = Source(text).lines
    explained: list[Problem] = []
    for problem in error.problems:
        line = lines[problem.line - 1][:_EXPLAINED] if problem.line <= len(lines) else ""
        hint = next((words for pattern, words in _HINTS if pattern.search(line)), None)
        says = problem.says if hint is None else f"{problem.says} ({hint})"
        explained.append(Problem(problem.file, problem.line, problem.column, says))
    return InvalidDocument(explained)
