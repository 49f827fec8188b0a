"""Selectors: what each term means, and that a mistake never leaves workers out in silence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.errors import UsageError
from celery_ops.model import (
    ConsumedQueue,
    FleetSnapshot,
    Reading,
    Service,
    ServiceRef,
    TakenRecord,
    Worker,
    WorkerState,
)
from celery_ops.runbook.selectors import Selector, select

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def a_worker(
    name: str,
    queues: tuple[str, ...] | None = ("default",),
    *,
    state: WorkerState = WorkerState.ONLINE,
    host: str | None = None,
    owed: tuple[str, ...] = (),
    mine: bool = True,
) -> Worker:
    consumed = None if queues is None else tuple(ConsumedQueue(queue, "{}") for queue in queues)
    record = TakenRecord(
        kind="queues",
        worker=name,
        incarnation=None,
        queues=tuple(ConsumedQueue(queue, "{}") for queue in owed),
        service=None,
        run="run",
        operator="ann@desk",
        at=NOW,
    )
    return Worker(
        name,
        state,
        consuming=None if consumed is None else Reading(consumed, NOW),
        service=None if host is None else Service(ServiceRef(host, "systemd", name), None),
        taken=record if owed else None,
        mine=mine,
    )


FLEET = (
    a_worker("worker1@web1", ("default", "mail")),
    a_worker("worker2@web2", ("default",)),
    a_worker("bulk@web1", ("bulk",), state=WorkerState.STALLED),
    a_worker("bulk@pod-7f", (), state=WorkerState.DRAINED, host="web2", owed=("mail",)),
    a_worker("mute@web3", None, state=WorkerState.SILENT),
    a_worker("worker1@theirs", ("default",), mine=False),
)


def a_fleet(*workers: Worker) -> FleetSnapshot:
    return FleetSnapshot("production", "redis://", NOW, True, workers, ())


def selected(text: str, *workers: Worker) -> list[str]:
    return [worker.name for worker in select(Selector.parse(text), a_fleet(*(workers or FLEET)))]


ALL_OF_OURS = ["worker1@web1", "worker2@web2", "bulk@web1", "bulk@pod-7f", "mute@web3"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("*", ALL_OF_OURS),
        ("worker2@web2", ["worker2@web2"]),
        ("bulk@web1, worker1@web1", ["worker1@web1", "bulk@web1"]),
        ("bulk@web1 worker1@web1,worker1@web1", ["worker1@web1", "bulk@web1"]),
        ("worker?@*", ["worker1@web1", "worker2@web2"]),
        ("queue:mail", ["worker1@web1", "bulk@pod-7f"]),
        ("queue:ma*", ["worker1@web1", "bulk@pod-7f"]),
        ("host:web1", ["worker1@web1", "bulk@web1"]),
        ("host:web2", ["worker2@web2", "bulk@pod-7f"]),
        ("state:drained", ["bulk@pod-7f"]),
        ("state:s*", ["bulk@web1", "mute@web3"]),
        ("!bulk@*", ["worker1@web1", "worker2@web2", "mute@web3"]),
        ("queue:default !worker2@web2", ["worker1@web1"]),
        ("!queue:default", ["bulk@web1", "bulk@pod-7f"]),
        ("name:mute@web3", ["mute@web3"]),
    ],
)
def test_a_selector_names_workers_in_the_order_of_the_fleet(text: str, names: list[str]) -> None:
    assert selected(text) == names


def test_a_worker_whose_queues_are_unknown_is_never_meant_by_a_queue() -> None:
    assert "mute@web3" not in selected("queue:default")
    assert "mute@web3" not in selected("!queue:default")


def test_a_name_that_looks_like_a_glob_is_itself_first() -> None:
    assert selected("w[1]@h", a_worker("w[1]@h"), a_worker("x@h")) == ["w[1]@h"]


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("worker3@web1", "no worker matches 'worker3@web1'", "'worker1@web1'"),
        ("worker2", "no worker matches 'worker2'", "Did you mean 'worker2@web2'?"),
        ("* !bulc@*", "no worker matches '!bulc@*'", "'bulk@"),
        ("queue:mial", "no worker matches 'queue:mial'", "Did you mean 'mail'?"),
        ("queue:zzz", "no worker matches", "There are 'bulk', 'default', 'mail'."),
        ("host:web9", "no worker matches 'host:web9'", "'web"),
        ("state:stopped", "no worker matches 'state:stopped'", "'stalled'"),
        ("worker1@theirs", "'worker1@theirs' is outside the scope of production", "`scope`"),
        ("bulk@web1 !bulk@*", "'bulk@web1 !bulk@*' excludes every worker it names", ""),
    ],
)
def test_a_term_that_matches_nothing_is_refused(text: str, says: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        selected(text)
    assert says in caught.value.says
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no workers are named"),
        (" , ", "no workers are named"),
        ("!", "'!' names nothing"),
        ("release:", "'release:' does not say which release"),
        ("qeue:mail", "workers have no 'qeue' (did you mean queue?)"),
        ("colour:red", "workers have no 'colour' (one of name, queue, host, state, release)"),
        ("queue:", "'queue:' does not say which queue"),
        ("state:onlin", "no worker is ever 'onlin' (did you mean online?)"),
        ("state:zzz", "no worker is ever 'zzz' (one of online, "),
        ("a," * 20_000, "a selector has at most 20000 characters"),
    ],
)
def test_a_selector_that_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Selector.parse(text)
    assert says in caught.value.says


def test_an_empty_fleet_is_said_to_be_empty() -> None:
    with pytest.raises(UsageError, match="no worker is known at all"):
        select(Selector.parse("*"), a_fleet())


def refusal_of(text: str) -> str | None:
    try:
        names = selected(text)
    except UsageError as error:
        return str(error)
    assert names
    assert set(names) <= set(ALL_OF_OURS)
    return None


@given(st.text(alphabet="*?![]@:ab,- \x1bqueuestate", max_size=60))
def test_any_text_selects_workers_of_ours_or_is_refused_as_text(text: str) -> None:
    assert "\x1b" not in (refusal_of(text) or "")


@pytest.mark.parametrize("written", ["release:v1", "*,!release:v*"])
def test_a_release_can_be_named_and_is_known_of_nobody_yet(written: str) -> None:
    selector = Selector.parse(written)
    with pytest.raises(UsageError, match="it is not known which release any worker runs"):
        select(selector, a_fleet(*FLEET))
