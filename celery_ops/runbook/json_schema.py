"""The JSON schema of the language, for editors; made from the tables that the loader reads by.

It says less than the loader: what a condition or a selector may hold is not in it. Whatever the
loader accepts it accepts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from celery_ops.runbook.grammar import VERBS
from celery_ops.runbook.loader import KEYS, REQUIRED
from celery_ops.runbook.queue_grammar import OF_THE_ORIGINAL
from celery_ops.runbook.roll_words import Offline, OnFail, Order
from celery_ops.runbook.schema import OnTimeout, ParamType, Risk
from celery_ops.runbook.steps import MAX_STEPS, Where

if TYPE_CHECKING:
    from enum import StrEnum

    from celery_ops.runbook.steps import Verb

Schema = dict[str, object]

_ANY_TABLE: Schema = {"type": "object"}
_WORD: Schema = {"type": ["string", "number", "boolean"]}
"""Text: unquoted numbers and words count as it."""
_DURATION: Schema = {"type": "string", "description": "a number with its unit: 30s, 10m, 1h30m"}
_NUMBER: Schema = {"type": ["integer", "string"]}
"""Quoted, or `${{ params.NAME }}`, it is a string."""
_CONDITION = {**_WORD, "description": "a condition, as worker.active == 0"}
_CONDITIONS: Schema = {"oneOf": [_CONDITION, {"type": "array", "items": _CONDITION, "minItems": 1}]}
_ARGV: Schema = {"type": "array", "items": _WORD}
_SELECTOR: Schema = {
    **_WORD,
    "description": "names, globs, queue:NAME, host:NAME, state:STATE; !TERM leaves out",
}
_NAMES: Schema = {"oneOf": [_WORD, {"type": "array", "items": _WORD, "minItems": 1}]}
_QUEUE: Schema = {**_WORD, "description": "a queue"}
_WORKER: Schema = {"const": "worker"}
_TASKS: Schema = {"const": "tasks"}
_TASK: Schema = {"const": "task"}


def _one_of(choices: type[StrEnum]) -> Schema:
    return {"enum": [choice.value for choice in choices]}


def schema() -> Schema:
    """Of a runbook's file (JSON Schema, draft 2020-12)."""
    steps: dict[Where, Schema] = {
        where: {"$ref": f"#/$defs/{where.name.lower()}"} for where in Where
    }
    keys: dict[str, Schema] = {
        "name": {**_WORD, "pattern": "^[a-z][a-z0-9-]{0,63}$"},
        "summary": _WORD,
        "risk": _one_of(Risk),
        "params": {
            "type": "object",
            "patternProperties": {"^x-": True},
            "additionalProperties": {"$ref": "#/$defs/param"},
        },
        "preflight": steps[Where.PREFLIGHT],
        "steps": {**steps[Where.STEPS], "minItems": 1},
        "finally": steps[Where.FINALLY],
    }
    param: dict[str, Schema] = {"type": _one_of(ParamType), "default": _WORD, "help": _WORD}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "celery-ops runbook",
        **_table({key: keys[key] for key in KEYS}, REQUIRED),
        "$defs": {
            "param": _table(param, ("type",)),
            **{where.name.lower(): _steps(where) for where in Where},
        },
    }


def _steps(where: Where) -> Schema:
    possible = [_step(name, verb, where) for name, verb in VERBS.items()
                if where in verb.where]  # fmt: skip
    return {"type": "array", "maxItems": MAX_STEPS, "items": {"anyOf": possible}}


def _step(name: str, verb: Verb, where: Where) -> Schema:
    value = _VALUES[name]
    if name in _OF_THE_TURN:
        value = _WORKER if where is Where.ROLL else _SELECTOR
    properties = {name: value, **{key: _KEYS[key] for key in verb.keys}}
    return _table(properties, (name, *(verb.required or ())))


def _table(properties: Mapping[str, Schema], required: tuple[str, ...]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "patternProperties": {"^x-": True},
        "additionalProperties": False,
    }


_VERIFY = _table(
    {"that": _CONDITIONS, "hold": _DURATION, "timeout": _DURATION}, ("that", "timeout")
)
_OF_THE_TURN = frozenset({"drain", "resume", "stop", "start", "restart", "scale", "watch"})
"""Inside a roll they are done to the worker whose turn it is."""

_VALUES: Mapping[str, Schema] = {
    **dict.fromkeys(_OF_THE_TURN, _SELECTOR),
    "forget": {**_WORD, "description": "schedulers that stay stopped, with commas between them"},
    "wait": {**_WORD, "description": "what is waited for, in words"},
    "check": _CONDITION,
    "doctor": {"type": "array", "items": _WORD, "minItems": 1},
    "confirm": {**_WORD, "description": "the question"},
    "run": {**_ARGV, "minItems": 1, "description": "an argv, never a shell line"},
    "notify": {**_ARGV, "minItems": 1, "description": "an argv, run on the operator's machine"},
    "control": {**_WORD, "description": "a control command, by Celery's own name"},
    "probe": {
        **_NAMES,
        "description": "queues that the context's probe task is sent to; configured: its own;"
        " consumed: all that our workers consume; in a roll also worker",
    },
    "restore": {"enum": ["orphans", "backup"]},
    **dict.fromkeys(("revoke", "terminate", "retry"), _TASKS),
    **dict.fromkeys(
        ("pause", "backup", "park", "unpark", "move", "purge", "return", "unwrap"), _QUEUE
    ),
    **dict.fromkeys(("hold", "release"), _TASK),
    "activate": {**_WORD, "description": "a release"},
    "roll": _SELECTOR,
}
"""What stands behind each verb."""

_PATH: Schema = {
    **_WORD, "description": "a path into a wrapper's arguments: kwargs.name, args.0.id",
}  # fmt: skip
_KEYS: Mapping[str, Schema] = {
    "timeout": _DURATION,
    "on_timeout": _one_of(OnTimeout),
    "when": _CONDITION,
    "until": _CONDITION,
    "message": _WORD,
    "retries": _NUMBER,
    "retry_pause": _DURATION,
    "on": {**_WORD, "description": "a host, or the workers that a control command is sent to"},
    "env": {"type": "object"},
    "args": _ANY_TABLE,
    "takes": _WORKER,
    "undo": _ARGV,
    "once_per": {"const": "host"},
    "to": {**_WORD, "description": "so many processes, or the queue that messages go to"},
    "by": _NUMBER,
    "queue": _QUEUE,
    "file": {**_WORD, "description": "of a backup"},
    "filter": {
        **_WORD,
        "description": "a condition on messages, or on tasks that ended: task == 'shop.mail'",
    },
    "ended": {"type": "string", "description": "failed (or revoked), or any: succeeded too"},
    "ids": {**_WORD, "description": "of tasks, separated by commas"},
    "task": {**_WORD, "description": "the name of a task, or a pattern"},
    "queues": {**_WORD, "description": "names of queues, separated by commas"},
    "unknown_to": {**_WORD, "description": "a release: tasks that it does not register"},
    "untold": {"type": "string", "description": "ignore or refuse: if that cannot be told"},
    "parked": {"type": "string", "description": "back or keep: what was held"},
    "signal": {"type": "string", "description": "TERM or KILL, to the process that runs a task"},
    "unseen": {"type": ["boolean", "string"], "description": "also ids that are seen nowhere"},
    "limit": _NUMBER,
    "again": {**_WORD, "description": "a name for one more restore, or retry, of the same"},
    **dict.fromkeys(OF_THE_ORIGINAL, _PATH),
    "rate": {"type": "string", "description": "how many in which time: 100/s, 30/m"},
    "older_than": _DURATION,
    "owed_by": {**_WORD, "description": "the run that has taken it: its id, or a pattern"},
    "silence": _DURATION,
    "others": {**_WORD, "description": "refuse or ignore schedulers that are not configured"},
    "vouched": _WORD,
    "for": _DURATION,
    "optional": {"type": "boolean", "description": "left out where there is none of it"},
    "first": {"type": "boolean", "description": "before what waits, where the broker can do that"},
    "priorities": {"type": ["boolean", "string"], "description": "also their order, proved"},
    "max_failures": {**_NUMBER, "description": "so many tasks may fail, or a share of all: 5%"},
    "give_back": {
        "type": "boolean",
        "description": "false: a run that ends in between leaves it stopped, and says so",
    },
    "order": _one_of(Order),
    "canary": _NUMBER,
    "batch": _NUMBER,
    "keep_available": _NUMBER,
    "max_failed": _NUMBER,
    "settle": _DURATION,
    "on_fail": _one_of(OnFail),
    "offline": {
        **_WORD,
        "description": f"{' or '.join(Offline)}: what cannot be reached is a failure, or left out",
    },
    "running": {**_NUMBER, "description": "so many of them are to run afterwards"},
    "for_good": {"type": "boolean", "description": "it stays down when its host boots again"},
    "steps": {"$ref": f"#/$defs/{Where.ROLL.name.lower()}"},
    "verify": _VERIFY,
}
"""What stands behind each other key of a step; each means the same wherever it stands."""
