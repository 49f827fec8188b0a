"""Conditions: three-valued logic, evidence, types checked at load, and texts nobody meant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.document import Place
from celery_ops.config.units import Count
from celery_ops.model import WorkerState
from celery_ops.runbook.expressions import Condition, Fault, InvalidExpression, Truth, condition
from celery_ops.runbook.facts import BeforeFacts, StepFacts, WorkerFacts
from celery_ops.runbook.names import Kind, Names, Type, names_at, names_of
from celery_ops.runbook.schema import Param, ParamType
from celery_ops.runbook.syntax import MAX_DEPTH, MAX_LENGTH

HERE = Place("test.yaml", 1, 1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
BOOLEANS = Names(dict.fromkeys(("a", "b", "c"), Type(Kind.BOOLEAN)))
PARAMS = tuple(
    Param(name, type_, None, "", HERE)
    for name, type_ in [
        ("batch", ParamType.COUNT),
        ("hold", ParamType.DURATION),
        ("strategy", ParamType.TEXT),
        ("force", ParamType.BOOLEAN),
        ("tries", ParamType.INTEGER),
    ]
)
IN_ROLL = names_at(PARAMS, in_roll=True)
OUTSIDE = names_at(PARAMS, in_roll=False)

WORKER = WorkerFacts(
    name="worker1@web1",
    state=WorkerState.ONLINE,
    online=True,
    drained=False,
    answers=True,
    supervised=True,
    pid=4711,
    started_at=NOON,
    queues=frozenset({"default", "mail"}),
    active=2,
    reserved=0,
    scheduled=None,
    processed=10,
    processes=None,
    concurrency=4,
    pool=None,
    version="5.7.0",
    release="v41",
)
SCOPE: dict[str, object] = {
    "worker": WORKER,
    "before": BeforeFacts(replace(WORKER, queues=frozenset({"default"}))),
    "step": StepFacts(NOON + timedelta(seconds=1.5)),
    "params": {
        "batch": Count(25, percent=True),
        "hold": 10.0,
        "strategy": "rolling",
        "force": False,
        "tries": 3,
    },
}


def compiled(source: str, names: Names = IN_ROLL) -> Condition:
    return condition(source, HERE, names)


def faults(source: str, names: Names = IN_ROLL) -> list[tuple[int, str]]:
    with pytest.raises(InvalidExpression) as caught:
        compiled(source, names)
    return [(fault.offset, fault.says) for fault in caught.value.faults]


# --- Kleene -------------------------------------------------------------------------------------

TRUE, FALSE, UNKNOWN = True, False, None


@pytest.mark.parametrize(
    ("a", "b", "both", "either"),
    [
        (TRUE, TRUE, TRUE, TRUE),
        (TRUE, FALSE, FALSE, TRUE),
        (TRUE, UNKNOWN, UNKNOWN, TRUE),
        (FALSE, TRUE, FALSE, TRUE),
        (FALSE, FALSE, FALSE, FALSE),
        (FALSE, UNKNOWN, FALSE, UNKNOWN),
        (UNKNOWN, TRUE, UNKNOWN, TRUE),
        (UNKNOWN, FALSE, FALSE, UNKNOWN),
        (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    ],
)
def test_and_and_or_follow_kleenes_tables(
    a: bool | None, b: bool | None, both: bool | None, either: bool | None
) -> None:
    scope = {"a": a, "b": b}
    assert truth("a and b", scope) is both
    assert truth("a or b", scope) is either
    assert truth("not (a and b)", scope) is negated(both)
    assert truth("not a or not b", scope) is negated(both)


def truth(source: str, scope: dict[str, bool | None]) -> bool | None:
    verdict = compiled(source, BOOLEANS).evaluate(scope)
    return {Truth.HOLDS: True, Truth.FAILS: False, Truth.UNKNOWN: None}[verdict.truth]


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


@st.composite
def boolean_sources(draw: st.DrawFn, depth: int = 4) -> str:
    if depth == 0 or draw(st.booleans()):
        leaf = st.sampled_from(["a", "b", "c", "true", "false", "a == b", "b != c"])
        return draw(leaf)
    left, right = draw(boolean_sources(depth - 1)), draw(boolean_sources(depth - 1))
    return draw(st.sampled_from([f"({left} and {right})", f"({left} or {right})", f"not ({left})"]))


@given(
    boolean_sources(),
    st.fixed_dictionaries(dict.fromkeys("abc", st.sampled_from([True, False, None]))),
    st.fixed_dictionaries(dict.fromkeys("abc", st.booleans())),
)
def test_what_was_decided_stays_so_whatever_the_unknown_turns_out_to_be(
    source: str, scope: dict[str, bool | None], revealed: dict[str, bool]
) -> None:
    before = truth(source, scope)
    known = {name: revealed[name] if value is None else value for name, value in scope.items()}
    after = truth(source, dict(known))
    assert after is not None
    assert before is None or before is after
    as_python = source.replace("true", "True").replace("false", "False")
    assert after is eval(as_python, {}, known)


# --- evidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "truth", "says"),
    [
        ("worker.online", Truth.HOLDS, "worker.online is true"),
        ("worker.drained", Truth.FAILS, "worker.drained is false"),
        ("not worker.online", Truth.FAILS, "worker.online is true"),
        ("worker.active == 0", Truth.FAILS, "worker.active is 2"),
        ("worker.active == 0 and worker.reserved == 0", Truth.FAILS, "worker.active is 2"),
        (
            "worker.active == 0 or worker.reserved != 0",
            Truth.FAILS,
            "worker.active is 2, worker.reserved is 0",
        ),
        ("worker.active >= 2 and 2.5 > worker.active", Truth.HOLDS, "worker.active is 2"),
        ("worker.scheduled == 0", Truth.UNKNOWN, "worker.scheduled is not known"),
        (
            "worker.scheduled == 0 or worker.pool == 'solo'",
            Truth.UNKNOWN,
            "worker.scheduled and worker.pool are not known",
        ),
        ("worker.scheduled == 0 and worker.drained", Truth.FAILS, "worker.drained is false"),
        (
            "worker.queues == before.worker.queues",
            Truth.FAILS,
            "worker.queues is ['default', 'mail'], before.worker.queues is ['default']",
        ),
        ("worker.queues == ['mail', \"default\"]", Truth.HOLDS, None),
        ("worker.queues == []", Truth.FAILS, "worker.queues is ['default', 'mail']"),
        ("'mail' in worker.queues", Truth.HOLDS, None),
        ("'mail' not in worker.queues", Truth.FAILS, None),
        ("worker.state in ['online', 'drained']", Truth.HOLDS, "worker.state is 'online'"),
        ("worker.active in [1, 2, 3]", Truth.HOLDS, None),
        (
            "worker.started_at > step.started_at",
            Truth.FAILS,
            "worker.started_at is 12:00:00.000 UTC, step.started_at is 12:00:01.500 UTC",
        ),
        ("params.hold >= 9s and params.hold < 1m30s", Truth.HOLDS, "params.hold is 10s"),
        ("params.batch == 25%", Truth.HOLDS, "params.batch is 25%"),
        ("params.batch == 25", Truth.FAILS, "params.batch is 25%"),
        ("params.strategy == 'rolling'", Truth.HOLDS, None),
        ("params.force == false", Truth.HOLDS, "params.force is false"),
        ("(params.tries) == 3", Truth.HOLDS, None),
        ("true", Truth.HOLDS, "it always holds"),
        ("1 == 2", Truth.FAILS, "it never holds"),
    ],
)
def test_a_verdict_says_what_it_saw(source: str, truth: Truth, says: str | None) -> None:
    verdict = compiled(source).evaluate(SCOPE)
    assert verdict.truth is truth
    assert verdict.holds is (truth is Truth.HOLDS)
    assert says is None or verdict.says == says


A_WORKER = Names(dict.fromkeys(("release", "release_notes"), Type(Kind.TEXT)))
NOTED = Names(
    {
        "worker": A_WORKER,
        "before": Names({"worker": A_WORKER}),
        "params": Names({"told": Type(Kind.TEXT)}),
    }
)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("worker.release == 'r1'", {"worker.release"}),
        ("'r1' == worker . release", {"worker.release"}),
        ("not (params.told == 'x' or true and worker.release in ['r1'])",
         {"params.told", "worker.release"}),
        ("worker.release == before.worker.release", {"worker.release", "before.worker.release"}),
        ("before.worker.release == 'r1'", {"before.worker.release"}),
        ("worker.release_notes == 'r1'", {"worker.release_notes"}),
        ("params.told == 'worker.release'", {"params.told"}),
        ("params.told in ['worker.release', \"or worker.release\"]", {"params.told"}),
        ("1 == 1 or true", set()),
    ],
)  # fmt: skip
def test_a_condition_tells_which_names_it_looks_up(source: str, names: set[str]) -> None:
    assert compiled(source, NOTED).names == names


@pytest.mark.parametrize("worker", [{"worker": None}, {}])
def test_a_part_of_something_unknown_is_unknown(worker: dict[str, object]) -> None:
    verdict = compiled("worker.online").evaluate(worker)
    assert verdict.truth is Truth.UNKNOWN
    assert verdict.unknown == ("worker.online",)


def test_an_absolute_count_equals_the_number_it_is() -> None:
    scope = {"params": {"batch": Count(2)}}
    assert compiled("params.batch == 2").evaluate(scope).holds
    assert not compiled("params.batch == 2%").evaluate(scope).holds


def test_hostile_names_are_quoted_escaped_and_cut_in_evidence() -> None:
    queues = frozenset({"\x1b[31m[red]", *(f"q{n:03}" for n in range(100)), "y" * 10_000})
    says = compiled("worker.queues == []").evaluate({"worker": replace(WORKER, queues=queues)}).says
    assert "\x1b" not in says
    assert "and 94 more" in says
    assert len(says) < 300


# --- types and form -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "offset", "says"),
    [
        # names
        ("wroker.online", 0, "unknown name 'wroker' (did you mean worker?)"),
        (
            "xyz == 1",
            0,
            "unknown name 'xyz' (known here: fleet, targets, params, worker, before, step)",
        ),
        ("1 == worker.activ", 5, "worker has no 'activ' (did you mean active?)"),
        ("params.batches == 1", 0, "params has no 'batches' (did you mean batch?)"),
        (
            "step.zzz == 1",
            0,
            "step has no 'zzz' (it has started_at, canary)",
        ),
        ("worker.pid.x == 1", 0, "worker.pid is a number and has no part 'x'"),
        (
            "step == 1",
            0,
            "step is not a value; name a part of it (step.started_at, step.canary)",
        ),
        (
            "True",
            0,
            "unknown name 'True' (known here: fleet, targets, params, worker, before, step)",
        ),
        # kinds
        (
            "worker.active",
            0,
            "worker.active is a number, and a condition must be true or false: compare it",
        ),
        ("not 'x'", 4, "'x' is text"),
        ("worker.online and 3", 18, "3 is a number, and a condition"),
        ("worker.active == 'two'", 0, "a number cannot be compared with text"),
        ("worker.active < 30s", 0, "a number cannot be compared with a duration"),
        ("worker.name == worker.queues", 0, "text cannot be compared with a set of text"),
        ("worker.name < 'x'", 0, "text has no order; compare it with == or !="),
        ("worker.queues <= ['a']", 0, "a set of text has no order"),
        ("3 < params.batch", 0, "a count has no order"),
        ("worker.online == 1", 0, "true or false cannot be compared with a number"),
        ("1 in worker.queues", 0, "a number cannot be in a set of text"),
        ("worker.queues in worker.queues", 0, "worker.queues is a set of text; in asks for one"),
        ("'x' not in worker.name", 0, "worker.name is text; not in needs a set or a list there"),
        ("(worker.online and true) == true", 1, "only names and values can be compared"),
        ("worker.state == 'onlin'", 16, "it is never 'onlin' (did you mean online?)"),
        ("'zzz' != worker.state", 0, "it is never 'zzz' (one of online, draining,"),
        ("worker.state in ['online', 'gone']", 16, "it is never 'gone'"),
        # form
        ("", 0, "the condition ends too early"),
        ("worker.active ==", 16, "the condition ends too early"),
        ("worker.", 7, "the condition ends too early"),
        ("worker.5", 7, "unexpected '5'"),
        ("worker.online worker.drained", 14, "unexpected 'worker'"),
        ("(worker.online", 14, "the condition ends too early; expected )"),
        ("worker.state in ['online'", 25, "the condition ends too early; expected ,"),
        ("worker.active = 1", 14, "write == to compare"),
        ("a && b", 2, "write and"),
        ("a || b", 2, "write or"),
        ("!a", 0, "write not"),
        ("1 + 1 == 2", 2, "there is no arithmetic in a condition"),
        ("len(worker.queues) == 0", 3, "a condition cannot call anything"),
        ("1 < worker.active < 3", 18, "comparisons cannot be chained"),
        ("worker.name == 'x", 15, "the text has no end"),
        ("worker.name == \"x'", 15, "the text has no end"),
        ("${{ params.force }}", 0, "a condition names things without ${{ }}"),
        ("worker.name == ¿", 15, "'¿' has no meaning in a condition"),
        ("worker.active in [1, 'a']", 21, "a list holds one kind of thing: a number, then text"),
        ("worker.active in [1 2]", 20, "unexpected '2'; expected ,"),
        ("worker.active in [worker.pid]", 18, "unexpected 'worker'"),
        ("params.hold > 30x", 14, "not a duration: '30x'"),
        ("params.batch == 101%", 16, "101% is more than everything"),
        ("worker.pid == 1.2.3", 14, "not a duration: '1.2.3'"),
        ("worker.pid == 1234567890123456789", 14, "is too long for a number"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused_where_it_goes_wrong(
    source: str, offset: int, says: str
) -> None:
    ((found, words), *_) = faults(source)
    assert found == offset
    assert says in words


def test_all_wrong_names_and_types_of_a_condition_are_told_at_once() -> None:
    found = faults("wroker.online and worker.active == 'x' and not worker.name")
    assert [offset for offset, _ in found] == [0, 18, 47]


def test_what_belongs_to_a_worker_is_told_to_be_known_only_inside_a_roll() -> None:
    assert faults("worker.online", OUTSIDE) == [(0, "worker is only known inside a roll")]
    assert compiled("fleet.silent == 0 and targets.count > 0", OUTSIDE)


def test_length_and_depth_are_bounded() -> None:
    assert faults("a" * (MAX_LENGTH + 1)) == [(0, "a condition has at most 2000 characters")]
    deep = "(" * MAX_DEPTH + "worker.online" + ")" * MAX_DEPTH
    assert compiled(deep).evaluate(SCOPE).holds
    assert faults(f"({deep})") == [(MAX_DEPTH, "nested more than 50 deep")]
    assert faults("not " * 400 + "true") == [(MAX_DEPTH * 4, "nested more than 50 deep")]


def test_not_binds_looser_than_a_comparison_and_and_tighter_than_or() -> None:
    assert compiled("not worker.active == 0").evaluate(SCOPE).holds
    assert compiled("true or true and false").evaluate(SCOPE).holds
    assert not compiled("(true or true) and false").evaluate(SCOPE).holds


def test_every_kind_of_field_that_facts_have_is_understood() -> None:
    assert IN_ROLL.type_of(("before", "worker", "queues")) == Type(Kind.TEXT, many=True)
    assert IN_ROLL.type_of(("worker", "started_at")) == Type(Kind.MOMENT)
    assert IN_ROLL.type_of(("worker", "state")).choices == tuple(
        state.value for state in WorkerState
    )


def test_facts_of_a_type_without_a_kind_are_a_mistake_of_ours() -> None:
    @dataclass
    class Facts:
        blob: bytes

    with pytest.raises(TypeError, match="no kind for <class 'bytes'>"):
        names_of(Facts)


# --- texts nobody meant -------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("worker.online", "worker.active", "worker.queues", "worker.state", "params.hold", "step"),
        *("==", "!=", "<", "<=", ">", ">=", "in", "not", "and", "or", "(", ")", "[", "]", ",", "."),
        *("0", "2.5", "30s", "25%", "'x'", "true", "${{", "'", '"', "=", "\n", "é"),
    ]
)


def faults_of(source: str) -> tuple[Fault, ...]:
    try:
        found = compiled(source)
    except InvalidExpression as error:
        return error.faults
    assert found.evaluate(SCOPE).says
    assert found.evaluate({}).says
    return ()


@given(st.text(max_size=200))
def test_any_text_is_a_condition_or_refused_with_a_position(source: str) -> None:
    assert all(0 <= fault.offset <= len(source) and fault.says for fault in faults_of(source))


@given(st.lists(WORDS, max_size=30).map(" ".join))
def test_any_words_are_a_condition_or_refused_with_a_position(source: str) -> None:
    assert all(0 <= fault.offset <= len(source) and fault.says for fault in faults_of(source))
