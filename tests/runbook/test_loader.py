"""Reading runbooks: what a good one becomes, and every text that a bad one is refused with."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.units import Count
from celery_ops.errors import InvalidDocument, PreconditionFailed, UsageError
from celery_ops.runbook.facts import TargetsFacts
from celery_ops.runbook.library import Library
from celery_ops.runbook.loader import (
    load,
    loads,
    params_of,
    parse_params,
    render,
    render_argument,
    resolve,
)
from celery_ops.runbook.roll_words import OnFail, Order
from celery_ops.runbook.schema import (
    CheckStep,
    ConfirmStep,
    Constant,
    CurrentWorker,
    DoctorStep,
    OnTimeout,
    ParamType,
    Reference,
    RestoreStep,
    Risk,
    Roll,
    Runbook,
    RunStep,
    Text,
    WaitStep,
    WorkerStep,
    WorkerVerb,
)

AS_DESIGNED = """\
# yaml-language-server: $schema=runbook.json
name: rolling-restart
summary: Restart workers a few at a time; no task is lost and no queue goes unconsumed.
risk: medium                       # low | medium | high: high asks for the context's name

params:
  workers:        {type: workers,  default: "*",  help: "Which workers"}
  batch:          {type: count,    default: 25%,  help: "How many at once"}
  keep_available: {type: count,    default: 75%,  help: "Consumers every queue keeps"}
  drain_timeout:  {type: duration, default: 10m,  help: "Longest a running task may take"}
  hold:           {type: duration, default: 10s}

preflight:
  - check: fleet.unsupervised == 0
    message: "Some workers have no supervisor: a restart would lose them."
  - doctor: [purges-on-start, stop-loses-tasks]

steps:
  - confirm: "Restart ${{ targets.count }} workers, ${{ params.batch }} at a time?"
  - roll: ${{ params.workers }}
    order: fewest_active_first     # or unhealthy_first, by_host, by_name
    canary: 1                      # first batch is one worker
    batch: ${{ params.batch }}
    keep_available: ${{ params.keep_available }}
    max_failed: 0
    settle: 5s                     # between batches
    on_fail: ask                   # ask | stop | undo; without a terminal ask means stop
    steps:
      - drain: worker
        timeout: ${{ params.drain_timeout }}
        on_timeout: fail
      - restart: worker
        timeout: 2m
    verify:
      that:
        - worker.online
        - worker.started_at > step.started_at
        - worker.queues == before.worker.queues
      hold: ${{ params.hold }}
      timeout: 3m
finally:
  - check: fleet.left_drained == 0
"""

HEAD = """\
name: tidy
summary: Tidy up.
risk: low
x-note: ignored
params:
  who: {type: workers, default: "*"}
  how: {type: text}
  many: {type: count, default: 2}
  long: {type: duration, default: 1m}
  tries: {type: integer, default: 3}
  sure: {type: boolean, default: false}
"""
"""11 lines: what follows starts on line 12."""

GOOD_STEPS = "steps:\n  - check: fleet.online > 0\n"


def tidy(text: str) -> Runbook:
    return loads(HEAD + dedent(text), "tidy.yaml")


def problems(text: str) -> list[str]:
    """`line:column: says` of everything that is wrong with a whole file."""
    with pytest.raises(InvalidDocument) as caught:
        loads(text, "f.yaml")
    return [str(problem).removeprefix("f.yaml:") for problem in caught.value.problems]


# --- what a good one becomes --------------------------------------------------------------------


def test_the_rolling_restart_of_the_design_is_read_as_it_is_meant() -> None:
    runbook = loads(AS_DESIGNED, "rolling-restart.yaml")
    assert (runbook.name, runbook.risk, runbook.changes) == ("rolling-restart", Risk.MEDIUM, True)
    assert runbook.source == AS_DESIGNED
    check, doctor = runbook.preflight
    assert isinstance(check, CheckStep)
    assert (check.id, str(check.that)) == ("p1", "fleet.unsupervised == 0")
    assert isinstance(doctor, DoctorStep)
    assert (doctor.id, doctor.rules) == ("p2", ("purges-on-start", "stop-loses-tasks"))
    confirm, roll = runbook.steps
    assert isinstance(confirm, ConfirmStep)
    reference = confirm.question.parts[1]
    assert isinstance(reference, Reference)
    assert reference.path == ("targets", "count")
    assert isinstance(roll, Roll)
    assert (roll.id, roll.order, roll.on_fail) == ("2", Order.FEWEST_ACTIVE_FIRST, OnFail.ASK)
    assert (roll.canary, roll.max_failed, roll.settle) == (Constant(1), Constant(0), Constant(5.0))
    drain, restart = roll.steps
    assert isinstance(drain, WorkerStep)
    assert isinstance(restart, WorkerStep)
    assert (drain.id, drain.verb, drain.on_timeout) == ("2.1", WorkerVerb.DRAIN, OnTimeout.FAIL)
    assert (restart.id, restart.target, restart.timeout) == (
        "2.2",
        CurrentWorker(),
        Constant(120.0),
    )
    assert [str(one) for one in roll.verify.that] == [
        "worker.online",
        "worker.started_at > step.started_at",
        "worker.queues == before.worker.queues",
    ]
    assert [step.id for step in runbook.finally_] == ["f1"]


def test_what_is_left_out_has_a_careful_default() -> None:
    runbook = tidy("""\
        steps:
          - roll: "*"
            steps: [{resume: worker}]
            verify: {that: worker.online, timeout: 1m}
          - wait: queues are empty
            until: fleet.ready == 0
            timeout: 5m
            when: params.sure
          - run: [true]
            on: web1
        """)
    roll, wait, run = runbook.steps
    assert isinstance(roll, Roll)
    assert (roll.canary, roll.batch) == (Constant(1), Constant(Count(1)))
    assert roll.keep_available == Constant(Count(75, percent=True))
    assert (roll.max_failed, roll.settle, roll.on_fail) == (Constant(0), Constant(5.0), OnFail.ASK)
    assert (roll.verify.hold, roll.verify.timeout) == (Constant(10.0), Constant(60.0))
    assert isinstance(roll.steps[0], WorkerStep)
    assert roll.steps[0].timeout == Constant(120.0)
    assert isinstance(wait, WaitStep)
    assert (wait.timeout, str(wait.when)) == (Constant(300.0), "params.sure")
    assert isinstance(run, RunStep)
    assert (run.on, run.takes_worker, run.undo, run.when) == (Constant("web1"), False, (), None)
    assert not tidy(GOOD_STEPS).changes


def test_what_a_restore_leaves_out_is_all_queues_and_nobodys_word() -> None:
    text = "name: a\nsummary: b\nrisk: low\nsteps: [{restore: orphans}]\n"
    runbook = loads(text, "a.yaml")
    (step,) = runbook.steps
    assert isinstance(step, RestoreStep)
    assert (step.queue, step.older_than, step.vouched) == (
        Constant("*"),
        Constant(0.0),
        Constant(""),
    )
    assert runbook.changes
    assert params_of(runbook) == (), "no capacity is taken, so no gap can be allowed"


def test_a_command_is_an_argv_with_references_in_its_words() -> None:
    runbook = tidy("""\
        steps:
          - roll: ${{ params.who }}
            steps:
              - run: [deploy, "--node=${{ worker.name }}", "${{ params.long }}"]
                takes: worker
                env: {HOW: "${{ params.how }}!"}
                undo: [deploy, --back]
            verify: {that: worker.online, timeout: 1m}
        """)
    (roll,) = runbook.steps
    assert isinstance(roll, Roll)
    (run,) = roll.steps
    assert isinstance(run, RunStep)
    assert (run.on, run.takes_worker) == (CurrentWorker(), True)
    scope = {"worker": TargetsFactsLike("w@h"), "params": {"long": 90.0, "how": "a b"}}
    assert [render_argument(text, scope) for text in run.argv] == ["deploy", "--node=w@h", "1m30s"]
    assert [(name, render_argument(text, scope)) for name, text in run.env] == [("HOW", "a b!")]
    with pytest.raises(PreconditionFailed, match=r"worker\.name is not known, and a command needs"):
        render_argument(run.argv[1], {**scope, "worker": None})


class TargetsFactsLike:
    def __init__(self, name: str) -> None:
        self.name = name


def test_values_are_shown_to_people_as_they_write_them() -> None:
    names = [
        *("params.many", "params.long", "params.sure", "params.how"),
        *("targets.names", "fleet.ready", "at"),
    ]
    text = Text(tuple(part for name in names for part in (" ", a_reference(name))))
    scope = {
        "params": {"many": Count(25, percent=True), "long": 600.0, "sure": True, "how": "[b]x"},
        "targets": TargetsFacts(2, frozenset({"b@h", "a@h"})),
        "fleet": None,
        "at": datetime(2026, 11, 20, 3, 12, tzinfo=UTC),
    }
    assert render(text, scope) == " 25% 10m true [b]x a@h, b@h unknown 03:12:00.000 UTC"


def a_reference(name: str) -> Reference:
    step = tidy('steps: [{confirm: "${{ params.how }}"}]').steps[0]
    assert isinstance(step, ConfirmStep)
    (reference,) = step.question.parts
    assert isinstance(reference, Reference)
    return Reference(tuple(name.split(".")), reference.place)


def test_a_reference_keeps_the_type_of_its_parameter() -> None:
    assert resolve(a_reference("params.many"), {"params": {"many": Count(2)}}) == Count(2)
    assert resolve(Constant(5.0), {}) == 5.0
    with pytest.raises(UsageError, match=r"\$\{\{ params\.many \}\} has no value"):
        resolve(a_reference("params.many"), {"params": {}})


# --- parameters ---------------------------------------------------------------------------------


def test_parameters_become_values_of_their_type() -> None:
    given_ = {
        "who": "a@h, queue:mail",
        "how": "",
        "many": "10%",
        "long": "1h30m",
        "tries": "-1",
        "sure": "true",
    }
    assert parse_params(tidy(GOOD_STEPS), given_) == {
        "who": "a@h, queue:mail",
        "how": "",
        "many": Count(10, percent=True),
        "long": 5400.0,
        "tries": -1,
        "sure": True,
    }
    assert parse_params(tidy(GOOD_STEPS), {"how": "x"}) == {
        "who": "*",
        "how": "x",
        "many": Count(2),
        "long": 60.0,
        "tries": 3,
        "sure": False,
    }


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"meny": "1"}, "tidy has no parameter 'meny' (did you mean many?)"),
        ({}, "tidy needs how, text, for example any text"),
        (
            {"many": "x"},
            "many cannot be 'x': not a count: 'x' (write a number or a percentage: 2, 25%); "
            "it is count, for example 2 or 25%",
        ),
        ({"long": "30"}, "long cannot be '30': not a duration: '30'"),
        ({"long": "31d"}, "'31d' is longer than 30d"),
        ({"tries": "1.5"}, "not a whole number: '1.5'; it is integer, for example 3"),
        (
            {"sure": "surely"},
            "neither true nor false: 'surely'; it is boolean, for example true or false",
        ),
        ({"who": ""}, "no workers are named"),
        ({"who": "state:gone"}, "no worker is ever 'gone'"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_type_and_example(
    given_: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_params(tidy(GOOD_STEPS), given_)
    assert says in caught.value.says
    assert caught.value.fix == "Parameters of tidy: who, how, many, long, tries, sure."


def test_allow_gap_is_understood_wherever_capacity_is_taken() -> None:
    changing = loads(AS_DESIGNED, "f.yaml")
    assert parse_params(changing, {"allow_gap": "mail"})["allow_gap"] == "mail"
    assert parse_params(changing, {})["allow_gap"] == ""
    assert "allow_gap" not in [param.name for param in params_of(tidy(GOOD_STEPS))]


def test_every_type_of_parameter_has_an_example() -> None:
    for type_ in ParamType:
        text = f"name: n\nsummary: s\nrisk: low\nparams: {{p: {{type: {type_}}}}}\n" + GOOD_STEPS
        with pytest.raises(UsageError, match=f"n needs p, {type_}, for example "):
            parse_params(loads(text, "n.yaml"), {})


# --- refusals -----------------------------------------------------------------------------------

ROLL = """\
steps:
  - roll: "*"
    steps:
      - {step}
    verify: {{that: worker.online, timeout: 1m}}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the document
        ("steps: []", "12:8: a runbook has at least one step"),
        ("steps: {}", "12:8: the steps must be a list, not a mapping"),
        ("stepz: []", "12:1: unknown key 'stepz' in a runbook (did you mean steps?)"),
        ("steps: [check]", "12:9: step 1 must be a verb and its value, not 'check'"),
        # verbs
        ("steps: [{}]", "12:9: step 1 has no verb (possible here: drain, resume, stop, start, "),
        ("steps: [{timeout: 1m}]", "12:9: step 1 has no verb"),
        (
            "steps: [{drian: a@h, timeout: 1m}]",
            "12:10: unknown verb 'drian' (did you mean drain?)",
        ),
        ("steps: [{explode: a@h}]", "12:10: unknown verb 'explode' (possible here: drain,"),
        # queues and releases
        (
            "steps: [{move: mail}]",
            "12:9: move (step 1) needs the key 'to': the queue that the",
        ),
        ("steps: [{purge: queue}]", "12:17: purge (step 1): name the queue, as in `purge: mail`"),
        ("steps: [{drain: queue, timeout: 1m}]", "12:9: drain (step 1) needs the key 'queue'"),
        ("steps: [{drain: a@h, timeout: 1m, to: b}]", "12:35: unknown key 'to' in drain (step 1)"),
        (
            "steps: [{drain: queue, queue: a, timeout: 1m, on_timeout: fail}]",
            "12:59: `drain: queue` has no key 'on_timeout'",
        ),
        (
            ROLL.format(step="{resume: queue, queue: a}"),
            "15:18: `resume: queue` cannot stand in the steps of a roll",
        ),
        ("steps: [{restore: backup}]", "12:9: restore (step 1) needs the key 'file'"),
        ("steps: [{restore: orphans, file: x}]", "12:34: `restore: orphans` has no key 'file'"),
        (
            "steps: [{move: a, to: b, filter: tsak == 'x'}]",
            "12:34: filter of move (step 1): unknown name 'tsak' (did you mean task?)",
        ),
        (
            "steps: [{park: a, filter: worker.online}]",
            "12:27: filter of park (step 1): worker is not known of a message",
        ),
        ("steps: [{move: a, to: b, rate: 5}]", "12:32: rate of move (step 1): not a rate: '5'"),
        ("steps: [{move: a, to: b, limit: 0}]", "12:33: limit of move (step 1): must be at least"),
        ("steps: [{activate: r1}]", "12:9: activate (step 1) needs the key 'on': the host"),
        ("steps: [{revoke: a}]", "12:18: revoke (step 1)"),
        ("steps: [{revoke: tasks}]", "12:9: revoke (step 1) needs one of the keys 'ids', 'task'"),
        (
            "steps: [{terminate: tasks, ids: a, signal: HUP}]",
            "12:44: signal of terminate (step 1) is one of TERM, KILL",
        ),
        (
            "steps: [{revoke: tasks, filter: tsak == 'x'}]",
            "12:33: filter of revoke (step 1): unknown name 'tsak' (did you mean task?)",
        ),
        (
            "steps: [{revoke: tasks, ids: a, unseen: maybe}]",
            "12:41: unseen of revoke (step 1): neither true nor false: 'maybe'",
        ),
        ("steps: [{revoke: tasks, ids: a, signal: TERM}]", "12:33: unknown key 'signal' in revoke"),
        ("steps: [{probe: []}]", "12:17: probe (step 1) names no queue"),
        ("steps: [{probe: 'ma*'}]", "12:17: probe (step 1): 'ma*' is a pattern, and each queue"),
        ("steps: [{probe: worker}]", "12:17: worker is only known inside a roll; name the queues"),
        ("steps: [{probe: a, timeout: 0s}]", "12:29: timeout of probe (step 1): no time at all"),
        ("steps: [{probe: [a, {}]}]", "12:21: probe (step 1) must be text"),
        ("steps: [{probe: a, retries: 1}]", "12:20: unknown key 'retries' in probe (step 1)"),
        (
            "steps: [{control: shutdown, on: a@h}]",
            "12:19: `shutdown` takes workers away: say `takes: worker`, inside a roll, so that it",
        ),
        ("steps: [{control: rate_limit}]", "12:9: control (step 1) needs the key 'on'"),
        ("steps: [{control: hello, on: a@h}]", "12:19: `hello` is never sent"),
        ("steps: [{control: Rate-Limit, on: a@h}]", "12:19: 'Rate-Limit' is no name of a control"),
        (
            "steps: [{control: ping, on: a@h, args: {destination: [x]}}]",
            "12:41: 'destination' cannot be an argument here",
        ),
        (
            "finally: [{check: fleet.online > 0, retries: 2}]\n" + GOOD_STEPS,
            "12:46: nothing is tried again in finally",
        ),
        (
            "steps: [{run: [x], on: h, retry_pause: 2s}]",
            "12:40: retry_pause of run (step 1) needs the key 'retries' too",
        ),
        (
            "steps: [{run: [x], on: h, once_per: host}]",
            "12:37: `once_per: host` is only possible inside a roll",
        ),
        ("steps: [{scale: a@h}]", "12:9: scale (step 1) needs one of the keys 'to' and 'by'"),
        ("steps: [{scale: a@h, to: 0}]", "12:26: to of scale (step 1): must be at least 1"),
        ("steps: [{scale: a@h, by: 0}]", "12:26: by of scale (step 1): not a whole number other"),
        ("steps: [{notify: []}]", "12:18: notify needs a program: an argv list"),
        (
            "steps: [{stop: a@h, start: a@h}]",
            "12:21: one verb a step: step 1 has 'stop' and 'start'",
        ),
        (
            "steps: [{doctor: [x]}]",
            "12:10: 'doctor' cannot stand in the steps (possible here: drain",
        ),
        (
            "preflight: [{stop: a@h}]\n" + GOOD_STEPS,
            "12:14: 'stop' cannot stand in preflight (possible here: check, doctor)",
        ),
        (
            "finally: [{run: [x], on: h}]\n" + GOOD_STEPS,
            "12:12: 'run' cannot stand in finally (possible here: check, notify)",
        ),
        (ROLL.format(step="confirm: sure?"), "15:9: 'confirm' cannot stand in the steps of a roll"),
        # keys
        (
            "steps: [{stop: a@h, timeuot: 1m}]",
            "12:21: unknown key 'timeuot' in stop (step 1) (did you mean timeout?)",
        ),
        (
            "steps: [{stop: a@h, retries: 3}]",
            "12:21: unknown key 'retries' in stop (step 1)",
        ),
        (
            "steps: [{stop: a@h, on_timeout: fail}]",
            "12:21: unknown key 'on_timeout' in stop (step 1)",
        ),
        # timeouts
        (
            "steps: [{drain: a@h}]",
            "12:9: drain (step 1) needs the key 'timeout': the longest that a running task may",
        ),
        (
            "steps: [{wait: x, until: fleet.ready == 0}]",
            "12:9: wait (step 1) needs the key 'timeout': nothing waits for ever",
        ),
        (
            "steps: [{wait: x, timeout: 1m}]",
            "12:9: wait (step 1) needs the key 'until': the condition that is waited for",
        ),
        (
            "steps: [{stop: a@h, timeout: 30}]",
            "12:30: timeout of stop (step 1): not a duration: '30'",
        ),
        ("steps: [{stop: a@h, timeout: 0s}]", "12:30: timeout of stop (step 1): no time at all"),
        (
            "steps: [{drain: a@h, timeout: 1m, on_timeout: defer}]",
            "12:47: `on_timeout: defer` is for a roll: here there are no others to go on with",
        ),
        (
            "steps: [{drain: a@h, timeout: 1m, on_timeout: fial}]",
            "12:47: on_timeout of drain (step 1) cannot be 'fial' (did you mean fail?)",
        ),
        # targets
        ("steps: [{stop: worker}]", "12:16: worker is only known inside a roll; name the workers"),
        (
            "steps: [{restore: mail}]",
            "12:19: restore (step 1) cannot be 'mail' (one of orphans, backup)",
        ),
        (
            "steps: [{drain: beat, timeout: 1m}]",
            "12:17: beat can be stopped, started and restarted, and nothing else (drain)",
        ),
        ("steps: [{start: beat, retries: 2}]", "12:32: `start: beat` is not tried again"),
        ("steps: [{start: a@h, owed_by: x}]", "12:31: `start: a@h` has no key 'owed_by'"),
        ("steps: [{stop: beat, owed_by: x}]", "12:22: unknown key 'owed_by' in stop (step 1)"),
        ("steps: [{stop: 'state:gone'}]", "12:16: stop (step 1): no worker is ever 'gone'"),
        (ROLL.format(step="stop: a@h"), "15:15: inside a roll it is `stop: worker`, not 'a@h'"),
        (
            ROLL.format(step="stop: ${{ params.who }}").replace("{{{{", "{{"),
            "15:15: inside a roll it is `stop: worker`",
        ),
        # roll
        (
            "steps: [{roll: '*', steps: [{stop: worker}]}]",
            "12:9: roll (step 1) needs the key 'verify': what proves that a worker came through",
        ),
        (
            "steps: [{roll: '*', verify: {that: true, timeout: 1m}}]",
            "12:9: roll (step 1) needs the key 'steps': what is done to each worker",
        ),
        (
            "steps: [{roll: '*', steps: [], verify: {that: true, timeout: 1m}}]",
            "12:28: roll (step 1) has no steps",
        ),
        (
            "steps: [{roll: '*', steps: [{stop: worker}], verify: {that: worker.online}}]",
            "12:54: verify of roll (step 1) needs the key 'timeout': nothing waits for ever",
        ),
        (
            "steps: [{roll: '*', steps: [{stop: worker}], verify: {that: [], timeout: 1m}}]",
            "12:61: that of verify of roll (step 1) has no condition",
        ),
        (
            ROLL.format(step="stop: worker") + "    canary: -1\n",
            "17:13: canary of roll (step 1): not a whole number of at least 0: '-1'",
        ),
        (
            ROLL.format(step="stop: worker") + "    batch: 0%\n",
            "17:12: batch of roll (step 1): must be at least 1",
        ),
        (
            ROLL.format(step="stop: worker") + "    batch: ${{ params.long }}\n",
            "17:12: batch of roll (step 1) is count, and the parameter long is duration",
        ),
        (
            ROLL.format(step="stop: worker") + "    order: by_hots\n",
            "17:12: order of roll (step 1) cannot be 'by_hots' (did you mean by_host?)",
        ),
        (
            ROLL.format(step="stop: worker") + "    on_fail: retry\n",
            "17:14: on_fail of roll (step 1) cannot be 'retry'",
        ),
        (
            ROLL.format(step="roll: '*'"),
            "15:9: 'roll' cannot stand in the steps of a roll",
        ),
        # references
        (
            "steps: [{stop: '${{ params.hwo }}'}]",
            "12:17: unknown parameter 'hwo' (did you mean who?)",
        ),
        (
            "steps: [{stop: '${{ targets.names }}'}]",
            "12:17: only a parameter can stand here, as ${{ params.NAME }}",
        ),
        (
            "steps: [{stop: 'a-${{ params.who }}'}]",
            "12:16: stop (step 1): ${{ params.who }} must stand alone to keep its type",
        ),
        (
            "steps: [{stop: a@h, timeout: '${{ params.long + 1 }}'}]",
            "12:31: '${{ params.long + 1 }}': ${{ }} holds one name and nothing else",
        ),
        (
            "steps: [{confirm: 'a ${{ targets.cuont }}?'}]",
            "12:22: targets has no 'cuont' (did you mean count?)",
        ),
        (
            "steps: [{confirm: 'a ${{ worker.name }}?'}]",
            "12:22: worker is only known inside a roll",
        ),
        ("steps: [{confirm: 'a ${{ params.how'}]", "12:22: this ${{ has no }}"),
        (
            f"steps: [{{confirm: '{'a' * 5000}'}}]",
            "12:19: confirm of confirm (step 1) has more than",
        ),
        (
            f"steps: [{{confirm: '{'${{ targets.count }}' * 31}'}}]",
            "12:19: confirm of confirm (step 1) has more than 30 references",
        ),
        # doctor
        (
            "preflight: [{doctor: []}]\n" + GOOD_STEPS,
            "12:22: doctor needs at least one rule",
        ),
        (
            "preflight: [{doctor: [a, a]}]\n" + GOOD_STEPS,
            "12:26: the rule 'a' is named twice",
        ),
        ("preflight: [{doctor: [A]}]\n" + GOOD_STEPS, "12:23: doctor has no rule 'A'"),
        # run
        ("steps: [{run: ls -l, on: h}]", "12:15: the argv of run must be a list, not 'ls -l'"),
        ("steps: [{run: [], on: h}]", "12:15: run needs a program"),
        (
            "steps: [{run: ['${{ params.how }}'], on: h}]",
            "12:15: run needs a program: an argv list whose first entry is written out",
        ),
        ("steps: [{run: [ls]}]", "12:9: run (step 1) needs the key 'on': the host to run it on"),
        ("steps: [{run: [ls], on: worker}]", "12:25: worker is only known inside a roll; name a"),
        (
            "steps: [{run: [ls], on: h, takes: worker}]",
            "12:35: `takes: worker` is only possible inside a roll",
        ),
        (
            ROLL.format(step="{run: [ls], takes: host}"),
            "15:28: takes of run (step 1.1) cannot be 'host' (one of worker)",
        ),
        (
            "steps: [{run: [ls], on: h, env: {A-B: c}}]",
            "12:34: 'A-B' is no name of an environment variable",
        ),
        (
            ROLL.format(step="run: [systemctl, restart, x]"),
            "15:14: `systemctl restart` takes workers away: say `takes: worker`",
        ),
        (
            "steps: [{run: [systemctl, restart, x], on: h}]",
            "12:15: `systemctl restart` takes workers away: only a roll can guard that",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_position_and_reason(text: str, expected: str) -> None:
    found = problems(HEAD + text)
    assert any(one.startswith(expected) for one in found), found


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("name: Tidy", "1:7: name 'Tidy': lower-case letters, digits and - only"),
        ("name: check", "1:7: name check: `celery-ops runbook check` means something else"),
        ("name: [a]", "1:7: name must be text, not a list"),
        ("risk: extreme", "1:7: risk cannot be 'extreme' (one of low, medium, high)"),
        ("params: [a]", "1:9: params must be a mapping, not a list"),
        ("params: {a: text}", "1:13: the parameter 'a' must be a mapping, not 'text'"),
        ("params: {a: {}}", "1:13: the parameter 'a' needs the key 'type'"),
        (
            "params: {a: {type: txt}}",
            "1:20: type of the parameter 'a' cannot be 'txt' (did you mean",
        ),
        ("params: {a-b: {type: text}}", "1:10: the parameter 'a-b': a name is lower-case letters"),
        ("params: {and: {type: text}}", "1:10: the parameter 'and': a name is lower-case letters"),
        (
            "params: {a: {type: count, default: lots}}",
            "1:36: default of the parameter 'a': not a count: 'lots'",
        ),
        (
            "params: {a: {type: workers, default: 'state:x'}}",
            "1:38: default of the parameter 'a': no worker is ever 'x'",
        ),
        (
            "params: {keep_available: {type: duration}}",
            "1:33: the parameter 'keep_available' is what the guard goes by: its type is count",
        ),
        ("summary: ''", "1:10: summary is empty"),
    ],
)
def test_a_mistake_in_the_head_is_refused_with_its_position_and_reason(
    head: str, expected: str
) -> None:
    found = problems(head + "\n" + GOOD_STEPS)
    assert any(one.startswith(expected) for one in found), found


def test_all_problems_of_a_file_are_reported_at_once_and_in_its_order() -> None:
    text = """\
        nam: tidy
        risk: hgih
        params:
          long: {type: duration, default: 5}
        steps:
          - drian: a@h
          - wait: forever
            until: fleet.raedy == 0 and targets.count == 'x'
          - roll: "*"
            steps:
              - drain: worker
        """
    assert problems(dedent(text)) == [
        "1:1: unknown key 'nam' in a runbook (did you mean name?)",
        "1:1: a runbook needs the key 'name'",
        "1:1: a runbook needs the key 'summary'",
        "2:7: risk cannot be 'hgih' (did you mean high?)",
        "4:35: default of the parameter 'long': not a duration: '5' (write a number with a unit: "
        "30s, 10m, 1h30m)",
        "6:5: unknown verb 'drian' (did you mean drain?)",
        "7:5: wait (step 2) needs the key 'timeout': nothing waits for ever",
        "8:12: until: fleet has no 'raedy' (did you mean ready?)",
        "8:33: until: a number cannot be compared with text",
        "9:5: roll (step 3) needs the key 'verify': what proves that a worker came through",
        "11:9: drain (step 3.1) needs the key 'timeout': the longest that a running task may take "
        "to finish",
    ]


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("fleet.online > xyz", "13:27"),
        ('"fleet.online > xyz"', "13:28"),
        ("'fleet.online > xyz'", "13:28"),
        ("'''a'' in targets.names and xyz'", "13:40"),
        ('"\\"a\\" in targets.names and xyz"', "13:40"),
        ("fleet.online >\n        xyz", "14:9"),
        ("|\n        fleet.online >\n          xyz", "15:11"),
        (">-\n        fleet.online\n        > xyz", "15:11"),
        ('"fleet.online \\x3e xyz"', "13:12"),
        ("fleet.online  >  xyz", "13:29"),
    ],
)
def test_positions_inside_conditions_are_those_of_the_file(written: str, place: str) -> None:
    (found,) = problems(HEAD + f"steps:\n  - check: {written}\n")
    assert found.startswith(f"{place}: check: unknown name 'xyz'")


def test_a_byte_order_mark_and_windows_line_ends_do_not_shift_positions() -> None:
    text = "\ufeff" + (HEAD + "steps:\n  - check: xyz\n").replace("\n", "\r\n")
    assert problems(text)[0].startswith("13:12: ")


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("run: [ls, ${{ params.how }}]", "a ${{ … }} must be quoted"),
        ("check: 'a' in targets.names", "quote the whole of it, or none of its beginning"),
        ("check: &a true", "anchors (&name) are not supported"),
        ("check: *a", "aliases (*name) are not supported"),
        ("check: !!python/name:os.system x", "tags (!name) are not supported"),
        ("check: true\n    check: true", "duplicate key 'check'"),
    ],
)
def test_yamls_own_refusals_say_what_to_do(step: str, says: str) -> None:
    assert says in "\n".join(problems(HEAD + f"steps:\n  - {step}\n"))


def test_files_are_bounded_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a" * 300_000)
    with pytest.raises(InvalidDocument, match="larger than 200000 bytes"):
        load(path)
    path.write_bytes(b"name: ok\nsummary: \xff\n")
    with pytest.raises(InvalidDocument, match="2:10: not UTF-8 text"):
        load(path)
    with pytest.raises(UsageError, match=r"missing\.yaml cannot be read: No such file"):
        load(tmp_path / "missing.yaml")
    steps = "".join("  - check: true\n" for _ in range(201))
    assert problems(HEAD + "steps:\n" + steps) == ["13:3: the steps: more than 200 steps"]


# --- texts nobody meant -------------------------------------------------------------------------

SHIPPED = tuple(entry.path.read_text() for entry in Library(None).entries())
WORDS = [
    *(
        "name",
        "summary",
        "risk",
        "params",
        "preflight",
        "steps",
        "finally",
        "roll",
        "verify",
        "that",
    ),
    *("drain", "run", "check", "wait", "until", "timeout", "when", "doctor", "confirm", "takes"),
    *(
        "env",
        "on",
        "batch",
        "canary",
        "type",
        "default",
        "low",
        "worker",
        "1m",
        "25%",
        "worker.pid",
    ),
    *("${{ params.x }}", "${{", "*", "'", "x-y", "", "true", "null", "a@h", "fleet.online > 0"),
]


def places_of_problems(text: str) -> list[tuple[int, int]]:
    try:
        loads(text, "f.yaml")
    except InvalidDocument as error:
        return [(problem.line, problem.column) for problem in error.problems] or [(0, 0)]
    return []


def all_exist(places: list[tuple[int, int]], text: str) -> bool:
    last = len(text.splitlines()) + 1
    return all(1 <= line <= last and column >= 1 for line, column in places)


@given(st.text(max_size=400))
def test_any_text_is_a_runbook_or_refused_with_positions(text: str) -> None:
    assert all_exist(places_of_problems(text), text)


@given(
    st.recursive(
        st.sampled_from(WORDS) | st.integers() | st.booleans() | st.none() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6)
        ),
        max_leaves=30,
    )
)
def test_any_structure_is_a_runbook_or_refused_with_positions(root: object) -> None:
    text = yaml.safe_dump(root, allow_unicode=True)
    assert all_exist(places_of_problems(text), text)


@given(
    st.sampled_from(SHIPPED),
    st.lists(
        st.tuples(
            st.integers(0, 3000),
            st.integers(0, 40),
            st.sampled_from([*WORDS, *string.punctuation, "\n", "\n  ", "\t", "\x00", "é"]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_any_damage_to_a_good_runbook_is_survived_or_refused_with_positions(
    text: str, damages: list[tuple[int, int, str]]
) -> None:
    for start, length, instead in damages:
        text = text[:start] + instead + text[start + length :]
    assert all_exist(places_of_problems(text), text)
