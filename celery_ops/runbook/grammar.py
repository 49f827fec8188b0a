"""The verbs of the language, and how each is read into its step.

To add one: give it a step in `schema`, write its reader here and enter it in `VERBS`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from celery_ops.config.document import Items, Scalar, did_you_mean, shown
from celery_ops.config.units import Count
from celery_ops.runbook.control_grammar import (
    WORKER,
    read_control,
    read_scale,
    read_watch,
    takes_worker,
)
from celery_ops.runbook.dangers import danger
from celery_ops.runbook.hold_grammar import read_hold, read_release
from celery_ops.runbook.queue_grammar import (
    BACKUP,
    OF_THE_ORIGINAL,
    read_probe,
    read_queue_step,
    read_shared_step,
    refuse_queue_keys,
)
from celery_ops.runbook.release_steps import ActivateStep
from celery_ops.runbook.revoke_grammar import read_retry, read_revoke
from celery_ops.runbook.roll_words import OnFail, Order
from celery_ops.runbook.schema import (
    CheckStep,
    ConfirmStep,
    Constant,
    CurrentWorker,
    DoctorStep,
    InnerStep,
    NotifyStep,
    QueueStep,
    RestoreStep,
    Roll,
    RunStep,
    Slot,
    Text,
    Verify,
    WaitStep,
)
from celery_ops.runbook.steps import Spot, StepReader, Verb, Where
from celery_ops.runbook.worker_grammar import (
    GIVE_BACK,
    OF_BEAT,
    OFFLINE,
    OWED_BY,
    offline,
    optional,
    read_forget,
    read_worker_step,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.config.document import Node

T = TypeVar("T")

_HOST = "host"
_ORPHANS = "orphans"
_RULE = re.compile(r"[a-z][a-z0-9-]*")


def _read_wait(steps: StepReader, spot: Spot) -> WaitStep | None:
    what = steps.text(spot, spot.verb)
    node = spot.keys.get("until")
    until = None if node is None else steps.values.condition(node, "until", spot.names)
    timeout, when = steps.timeout(spot), steps.when(spot)
    if what is None or until is None:
        return None
    return WaitStep(spot.id, what, until, timeout, when, spot.place)


def _read_check(steps: StepReader, spot: Spot) -> CheckStep | None:
    that = steps.values.condition(spot.value, spot.verb, spot.names)
    message, when = steps.text(spot, "message"), steps.when(spot)
    retries = steps.retries(spot)
    if that is None:
        return None
    return CheckStep(spot.id, that, message, when, spot.place, retries)


def _read_doctor(steps: StepReader, spot: Spot) -> DoctorStep | None:
    rules: dict[str, None] = {}
    for node in steps.values.reader.items(spot.value, spot.what):
        rule = steps.values.reader.text(node, "a rule of doctor")
        if rule is None:
            continue
        if not _RULE.fullmatch(rule) or (steps.rules is not None and rule not in steps.rules):
            hint = did_you_mean(rule, steps.rules or ())
            steps.wrong(node.place, f"doctor has no rule {shown(rule)}{hint}")
        elif rule in rules:
            steps.wrong(node.place, f"the rule {shown(rule)} is named twice")
        else:
            rules[rule] = None
    if isinstance(spot.value, Items) and not spot.value.nodes:
        steps.wrong(spot.value.place, "doctor needs at least one rule")
    return DoctorStep(spot.id, tuple(rules), spot.place)


def _read_confirm(steps: StepReader, spot: Spot) -> ConfirmStep | None:
    question = steps.text(spot, spot.verb)
    return None if question is None else ConfirmStep(spot.id, question, spot.place)


# --- run ----------------------------------------------------------------------------------------


def _read_run(steps: StepReader, spot: Spot) -> RunStep | None:
    argv = steps.values.texts(spot.value, "the argv of run", spot.names)
    undo = spot.keys.get("undo")
    takes = takes_worker(steps, spot)
    _check_argv(steps, spot, argv, takes_worker=takes)
    on = _host(steps, spot)
    if on is None:
        return None
    return RunStep(
        id=spot.id,
        argv=argv,
        env=_env(steps, spot),
        on=on,
        timeout=steps.timeout(spot),
        takes_worker=takes,
        undo=() if undo is None else steps.values.texts(undo, "the argv of undo", spot.names),
        when=steps.when(spot),
        place=spot.place,
        retries=steps.retries(spot),
        once_per_host=_once_per_host(steps, spot, takes_worker=takes),
    )


def _once_per_host(steps: StepReader, spot: Spot, *, takes_worker: bool) -> bool:
    node = spot.keys.get("once_per")
    if node is None:
        return False
    if spot.where is not Where.ROLL:
        steps.wrong(node.place, "`once_per: host` is only possible inside a roll")
    elif takes_worker:
        says = "what takes a worker is done to each of them: it cannot be `once_per: host`"
        steps.wrong(node.place, says)
    return steps.values.reader.choice(node, f"once_per of {spot.what}", [_HOST]) is not None


def _check_argv(
    steps: StepReader, spot: Spot, argv: tuple[Text, ...], *, takes_worker: bool
) -> None:
    if not isinstance(spot.value, Items):
        return
    if not argv or not argv[0].parts or not isinstance(argv[0].parts[0], str):
        says = "run needs a program: an argv list whose first entry is written out"
        steps.wrong(spot.value.place, says)
        return
    words = ["".join(part for part in text.parts if isinstance(part, str)) for text in argv]
    found = danger(words)
    if found is None or takes_worker:
        return
    if spot.where is Where.ROLL:
        says = (
            f"`{found}` takes workers away: say `takes: worker`, so that the guard is asked first"
        )
    else:
        says = f"`{found}` takes workers away: only a roll can guard that (with `takes: worker`)"
    steps.wrong(spot.value.place, says)


def _host(steps: StepReader, spot: Spot) -> CurrentWorker | Slot[str] | None:
    node = spot.keys.get("on")
    if node is None and spot.where is Where.ROLL:
        return CurrentWorker()
    if node is None:
        steps.wrong(spot.place, f"{spot.what} needs the key 'on': the host to run it on")
        return None
    if isinstance(node, Scalar) and node.text == WORKER:
        if spot.where is Where.ROLL:
            return CurrentWorker()
        steps.wrong(node.place, "worker is only known inside a roll; name a host here")
        return None
    return steps.values.plain_text(node, f"on of {spot.what}")


def _env(steps: StepReader, spot: Spot) -> tuple[tuple[str, Text], ...]:
    node = spot.keys.get("env")
    if node is None:
        return ()
    entries = steps.values.reader.any_table(node, f"env of {spot.what}")
    for name, entry in entries.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            steps.wrong(entry.key.place, f"{shown(name)} is no name of an environment variable")
    return tuple(
        (name, steps.values.text(entry.node, f"{name} of env", spot.names))
        for name, entry in entries.items()
    )


def _read_notify(steps: StepReader, spot: Spot) -> NotifyStep:
    argv = steps.values.texts(spot.value, "the argv of notify", spot.names)
    if isinstance(spot.value, Items) and not (argv and argv[0].parts):
        steps.wrong(spot.value.place, "notify needs a program: an argv list")
    return NotifyStep(spot.id, argv, _env(steps, spot), steps.when(spot), spot.place)


# --- restore ------------------------------------------------------------------------------------


def _read_restore(steps: StepReader, spot: Spot) -> RestoreStep | QueueStep | None:
    what = steps.values.reader.choice(spot.value, spot.what, (_ORPHANS, BACKUP))
    if what == BACKUP:
        return read_shared_step(steps, spot)
    if what is None:
        return None
    refuse_queue_keys(steps, spot, frozenset({"queue"}))
    values = steps.values
    return RestoreStep(
        id=spot.id,
        queue=optional(spot, "queue", values.plain_text, "*"),
        older_than=optional(spot, "older_than", values.duration, 0.0),
        vouched=optional(spot, "vouched", values.plain_text, ""),
        when=steps.when(spot),
        place=spot.place,
    )


def _read_activate(steps: StepReader, spot: Spot) -> ActivateStep | None:
    release = steps.values.release(spot.value, f"the release of {spot.what}")
    on = _host(steps, spot)
    if on is None:
        return None
    return ActivateStep(spot.id, release, on, steps.timeout(spot), steps.when(spot), spot.place)


# --- roll ---------------------------------------------------------------------------------------


def _read_roll(steps: StepReader, spot: Spot) -> Roll:
    values, keys = steps.values, spot.keys
    inner = _inner_steps(steps, spot)
    verify = _read_verify(steps, spot, keys["verify"]) if "verify" in keys else None
    order = _choice(steps, spot, "order", Order)
    on_fail = _choice(steps, spot, "on_fail", OnFail)
    workers = values.workers(spot.value, spot.what)
    if verify is None:
        verify = Verify(
            (), Constant(0.0), Constant(0.0), spot.place
        )  # refused: its absence is noted
    return Roll(
        id=spot.id,
        workers=workers,
        order=Order(order or Order.FEWEST_ACTIVE_FIRST),
        canary=optional(spot, "canary", values.integer, 1),
        batch=optional(spot, "batch", values.at_least_one, Count(1)),
        keep_available=optional(spot, "keep_available", values.count, Count(75, percent=True)),
        max_failed=optional(spot, "max_failed", values.integer, 0),
        settle=optional(spot, "settle", values.duration, 5.0),
        on_fail=OnFail(on_fail or OnFail.ASK),
        offline=offline(steps, spot),
        steps=inner,
        verify=verify,
        place=spot.place,
        when=steps.when(spot),
        running=None
        if "running" not in keys
        else values.integer(keys["running"], f"running of {spot.what}"),
    )


def _inner_steps(steps: StepReader, spot: Spot) -> tuple[InnerStep, ...]:
    node = spot.keys.get("steps")
    if node is None:
        return ()
    if isinstance(node, Items) and not node.nodes:
        steps.wrong(node.place, f"{spot.what} has no steps")
    found = steps.steps(node, Where.ROLL, f"{spot.id}.")
    return tuple(step for step in found if isinstance(step, InnerStep))


def _read_verify(steps: StepReader, spot: Spot, node: Node) -> Verify:
    values, what = steps.values, f"verify of {spot.what}"
    keys = steps.table(
        node,
        what,
        ("that", "hold", "timeout"),
        {"that": "what must be seen of every worker", "timeout": _NOTHING_WAITS_FOR_EVER},
    )
    names = values.names(in_roll=True)
    that = values.conditions(keys["that"], f"that of {what}", names) if "that" in keys else ()
    hold = keys.get("hold")
    timeout = keys.get("timeout")
    return Verify(
        that=that,
        hold=Constant(10.0) if hold is None else values.duration(hold, f"hold of {what}"),
        timeout=Constant(0.0)
        if timeout is None
        else values.some_time(timeout, f"timeout of {what}"),
        place=node.place,
    )


def _choice(steps: StepReader, spot: Spot, key: str, choices: Iterable[str]) -> str | None:
    node = spot.keys.get(key)
    return (
        None if node is None else steps.values.reader.choice(node, f"{key} of {spot.what}", choices)
    )


# --- all of them --------------------------------------------------------------------------------

_NOTHING_WAITS_FOR_EVER = "nothing waits for ever"
_STEPS = frozenset({Where.STEPS})
_ANYWHERE = frozenset({Where.STEPS, Where.ROLL})
_TIMEOUT = {"timeout": _NOTHING_WAITS_FOR_EVER}
_REVOKED = ("ids", "task", "filter", "unseen", "timeout", "when")
_RETRIES = ("retries", "retry_pause")
_WORKER_KEYS = ("timeout", "when", "keep_available")
_STARTING_VERB = Verb(read_worker_step, _ANYWHERE, ("timeout", "when", *_RETRIES))

VERBS: Mapping[str, Verb] = {
    "drain": Verb(
        read_worker_step,
        _ANYWHERE,
        ("timeout", "on_timeout", OFFLINE, "when", "queue", "keep_available"),
        {"timeout": "the longest that a running task may take to finish"},
    ),
    "resume": Verb(read_worker_step, _ANYWHERE, ("timeout", "when", "queue", OWED_BY)),
    "stop": Verb(
        read_worker_step,
        _ANYWHERE,
        (*_WORKER_KEYS, *OF_BEAT, OFFLINE, GIVE_BACK, "for_good"),
    ),
    "start": Verb(read_worker_step, _ANYWHERE, (*_STARTING_VERB.keys, OWED_BY, *OF_BEAT)),
    "restart": Verb(read_worker_step, _ANYWHERE, (*_STARTING_VERB.keys, "keep_available")),
    "forget": Verb(read_forget, _STEPS, ("when",)),
    "wait": Verb(
        _read_wait,
        _ANYWHERE,
        ("until", "timeout", "when"),
        {"until": "the condition that is waited for", **_TIMEOUT},
    ),
    "check": Verb(_read_check, frozenset(Where), ("message", "when", *_RETRIES)),
    "doctor": Verb(_read_doctor, frozenset({Where.PREFLIGHT})),
    "confirm": Verb(_read_confirm, frozenset({Where.STEPS})),
    "run": Verb(
        _read_run,
        _ANYWHERE,
        ("on", "env", "timeout", "takes", "undo", "once_per", "when", *_RETRIES),
    ),
    "scale": Verb(read_scale, _ANYWHERE, ("to", "by", "timeout", "when")),
    "control": Verb(read_control, _ANYWHERE, ("on", "args", "timeout", "takes", "when")),
    "probe": Verb(read_probe, _ANYWHERE, ("timeout", "optional", "first", "priorities", "when")),
    "notify": Verb(_read_notify, frozenset({Where.STEPS, Where.FINALLY}), ("env", "when")),
    "restore": Verb(
        _read_restore,
        _STEPS,
        ("queue", "older_than", "vouched", "when", "file", "rate", "again"),
    ),
    "revoke": Verb(read_revoke, _STEPS, _REVOKED),
    "terminate": Verb(read_revoke, _STEPS, (*_REVOKED, "signal")),
    "retry": Verb(
        read_retry,
        _STEPS,
        ("ids", "task", "filter", "ended", "to", "limit", "rate", "again", "when"),
    ),
    "hold": Verb(
        read_hold,
        _STEPS,
        ("task", "queues", "unknown_to", "untold", "timeout", "when"),
    ),
    "release": Verb(read_release, _STEPS, ("task", "parked", "rate", "timeout", "when")),
    "pause": Verb(read_queue_step, _STEPS, ("timeout", "when")),
    "backup": Verb(read_queue_step, _STEPS, ("file", "when")),
    "park": Verb(read_queue_step, _STEPS, ("filter", "limit", "when")),
    "unpark": Verb(read_queue_step, _STEPS, ("to", "rate", "when")),
    "move": Verb(
        read_queue_step,
        _STEPS,
        ("to", "filter", "limit", "rate", "when"),
        {"to": "the queue that the messages go to"},
    ),
    "return": Verb(read_queue_step, _STEPS, ("to", "filter", "limit", "rate", "when")),
    "unwrap": Verb(
        read_queue_step,
        _STEPS,
        (*OF_THE_ORIGINAL, "to", "filter", "limit", "rate", "when"),
        {
            "original_task": "where a wrapper has the name of its original",
            "original_id": "where a wrapper has the id of its original",
        },
    ),
    "purge": Verb(read_queue_step, _STEPS, ("filter", "file", "when")),
    "watch": Verb(
        read_watch,
        _ANYWHERE,
        ("for", "max_failures", "when"),
        {"for": "how long the tasks that end are counted"},
    ),
    "activate": Verb(_read_activate, _ANYWHERE, ("on", "timeout", "when")),
    "roll": Verb(
        _read_roll,
        frozenset({Where.STEPS}),
        (
            "order",
            "canary",
            "batch",
            "keep_available",
            "max_failed",
            "settle",
            "on_fail",
            "offline",
            "running",
            "steps",
            "verify",
            "when",
        ),
        {
            "steps": "what is done to each worker",
            "verify": "what proves that a worker came through",
        },
    ),
}
"""Every verb of the language."""
