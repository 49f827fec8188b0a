"""Parameters: how a runbook declares them, and how an operator's words become their values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from celery_ops.config import units
from celery_ops.config.document import Place, did_you_mean, shown
from celery_ops.errors import UsageError
from celery_ops.model.releases import PREVIOUS, is_name
from celery_ops.runbook.schema import Constant, Param, ParamType, Runbook, Value, WorkerStep
from celery_ops.runbook.selectors import Selector
from celery_ops.runbook.syntax import KEYWORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.config.document import Entry, Node, Reader

LONGEST = 30 * 86400.0
"""Seconds. Nothing a run waits for takes longer; anything above is a typing mistake."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_EXAMPLES: Mapping[ParamType, str] = {
    ParamType.WORKERS: "worker1@web1,queue:mail",
    ParamType.COUNT: "2 or 25%",
    ParamType.DURATION: "10m or 90s",
    ParamType.TEXT: "any text",
    ParamType.INTEGER: "3",
    ParamType.BOOLEAN: "true or false",
    ParamType.RELEASE: "v42, or previous",
}
_EXPECTED = {
    "keep_available": (ParamType.COUNT, "the guard goes by"),
    "allow_gap": (ParamType.TEXT, "the guard goes by"),
    "busy_wait": (ParamType.DURATION, "a plan goes by"),
}

ALLOW_GAP = Param(
    "allow_gap",
    ParamType.TEXT,
    "",
    "Queues, separated by commas, that may go without a consumer for a while",
    Place("", 0, 0),
)
BUSY_WAIT = Param(
    "busy_wait",
    ParamType.DURATION,
    60.0,
    "How long the plan waits for a solo worker that runs a task and answers nothing before it ends",
    Place("", 0, 0),
)
_UNDECLARED = (ALLOW_GAP, BUSY_WAIT)
"""Understood by every runbook that acts on workers, without being declared."""
_ANSWERS = {"yes": "true", "no": "false"}
"""How operators say it, beside the words of the language."""


def read_params(reader: Reader, node: Node | None) -> tuple[Param, ...]:
    """The `params:` of a runbook; what is wrong is noted in the reader."""
    if node is None:
        return ()
    entries = reader.any_table(node, "params").values()
    found = (_read_param(reader, entry) for entry in entries)
    return tuple(param for param in found if param is not None)


def params_of(runbook: Runbook) -> tuple[Param, ...]:
    """What an operator can set: the declared parameters, and others where they have a meaning."""
    declared = {param.name for param in runbook.params}
    others = _UNDECLARED if runbook.may_take_workers else ()
    return (*runbook.params, *(one for one in others if one.name not in declared))


def parse_params(runbook: Runbook, given: Mapping[str, str]) -> dict[str, Value]:
    """The value of every parameter: as given, else its default.

    Raise UsageError that names each parameter that is unknown, missing or not of its type.
    """
    params = {param.name: param for param in params_of(runbook)}
    wrong = [
        f"{runbook.name} has no parameter {shown(name)}{did_you_mean(name, params)}"
        for name in given
        if name not in params
    ]
    values: dict[str, Value] = {}
    for name, param in params.items():
        try:
            if name in given:
                is_flag = param.type is ParamType.BOOLEAN
                text = _ANSWERS.get(given[name], given[name]) if is_flag else given[name]
                values[name] = value_of(param.type, text)
            elif param.default is not None:
                values[name] = param.default
            else:
                wrong.append(f"{runbook.name} needs {name}, {_described(param)}")
        except (ValueError, UsageError) as error:
            wrong.append(
                f"{name} cannot be {shown(given[name])}: {error}; it is {_described(param)}"
            )
    if wrong:
        known = ", ".join(params) or "none"
        raise UsageError("\n".join(wrong), fix=f"Parameters of {runbook.name}: {known}.")
    return values


def keep_available(params: Mapping[str, Value], step: WorkerStep | None = None) -> units.Count:
    """The guard of a step outside a roll: its own, else the parameter of that name, else one
    consumer.
    """
    own = None if step is None else step.keep_available
    if isinstance(own, Constant):
        return own.value
    keep = params.get("keep_available" if own is None else own.path[1])
    return keep if isinstance(keep, units.Count) else units.Count(1)


def value_of(declared: ParamType, text: str) -> Value:
    """Text as a value of that type. Raise ValueError or UsageError with a sentence."""
    match declared:
        case ParamType.WORKERS:
            return Selector.parse(text).source
        case ParamType.COUNT:
            return units.count(text)
        case ParamType.DURATION:
            return bounded_duration(text)
        case ParamType.TEXT:
            return text
        case ParamType.INTEGER:
            if not _INTEGER.fullmatch(text):
                raise ValueError(f"not a whole number: {shown(text)}")
            return int(text)
        case ParamType.BOOLEAN:
            if text not in {"true", "false"}:
                raise ValueError(f"neither true nor false: {shown(text)}")
            return text == "true"
        case ParamType.RELEASE:
            if text != PREVIOUS and not is_name(text):
                raise ValueError(f"no name of a release: {shown(text)}")
            return text


def bounded_duration(text: str) -> float:
    """Seconds. Raise ValueError for what is no duration, or longer than `LONGEST`."""
    seconds = units.duration(text)
    if seconds > LONGEST:
        raise ValueError(f"{shown(text)} is longer than {units.as_duration(LONGEST)}")
    return seconds


def _read_param(reader: Reader, entry: Entry) -> Param | None:
    name = entry.key.text
    what = f"the parameter {shown(name)}"
    if not _NAME.fullmatch(name) or name in KEYWORDS:
        reader.wrong(
            entry.key.place, f"{what}: a name is lower-case letters, digits and _, and no keyword"
        )
    keys = reader.table(entry.node, what, ["type", "default", "help"], ["type"])
    written = reader.choice(keys["type"], f"type of {what}", ParamType) if "type" in keys else None
    words = reader.text(keys["help"], f"help of {what}") if "help" in keys else ""
    if written is None or words is None:
        return None
    declared = ParamType(written)
    expected, why = _EXPECTED.get(name, (declared, ""))
    if declared is not expected:
        reader.wrong(keys["type"].place, f"{what} is what {why}: its type is {expected}")
    default = _read_default(reader, keys.get("default"), what, declared)
    return Param(name, declared, default, words, entry.key.place)


def _read_default(
    reader: Reader, node: Node | None, what: str, declared: ParamType
) -> Value | None:
    if node is None:
        return None
    text = reader.text(node, f"default of {what}", empty=declared is ParamType.TEXT)
    if text is None:
        return None
    try:
        return value_of(declared, text)
    except (ValueError, UsageError) as error:
        reader.wrong(node.place, f"default of {what}: {error}")
        return None


def _described(param: Param) -> str:
    words = f" ({param.help})" if param.help else ""
    return f"{param.type.value}, for example {_EXAMPLES[param.type]}{words}"
