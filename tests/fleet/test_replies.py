"""Replies recorded from real workers, and hostile ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.fleet import replies
from celery_ops.ports import Reply

SAMPLES = Path(__file__).parent / "samples"
AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NEARLY_A_TASK = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        [*("id", "name", "args", "kwargs"), *("time_start", "delivery_info", "request", "eta")],
        JSON,
    ),
)
NEARLY_STATS = st.fixed_dictionaries(
    {"pid": st.just(7) | JSON},
    optional=dict.fromkeys(
        [*("uptime", "pool", "total"), *("broker", "prefetch_count", "autoscaler")], JSON
    ),
)
PARSERS = (
    replies.stats,
    replies.tasks,
    replies.scheduled,
    replies.consumed,
    replies.registered,
    replies.is_pong,
)


def sample(name: str, node: str) -> Reply:
    value = json.loads((SAMPLES / f"{name}.json").read_text())[node]
    return Reply(node, AT, value)


def reply(value: Any) -> Reply:
    return Reply("w@h", AT, value)


def test_what_a_worker_sets_about_priorities_is_read_and_nothing_is_made_up() -> None:
    options = {"priority_steps": [0, 5], "sep": ":", "sentinel_kwargs": {"password": "x"}}
    told = replies.stats(reply({"pid": 7, "broker": {"transport_options": options}}))
    assert told is not None
    assert told.priority_options == {"priority_steps": (0, 5), "sep": ":"}
    silent = replies.stats(reply({"pid": 7, "broker": {"transport_options": {"sep": 5}}}))
    assert silent is not None
    assert silent.priority_options == {}


def test_stats_of_a_prefork_worker_are_read() -> None:
    stats = replies.stats(sample("stats", "pre@lab"))
    assert stats is not None
    assert (stats.pool, stats.concurrency) == ("prefork", 2)
    assert stats.started_at is not None
    assert stats.visibility_timeout == 3600.0
    assert len(stats.pool_pids) == 2


@pytest.mark.parametrize(
    ("node", "pool"), [("thr@lab", "threads"), ("solo@lab", "solo"), ("gev@lab", "gevent")]
)
def test_a_pool_is_named_as_on_the_command_line(node: str, pool: str) -> None:
    stats = replies.stats(sample("stats", node))
    assert stats is not None
    assert stats.pool == pool


def test_a_running_task_is_read_with_queue_and_start() -> None:
    tasks = replies.tasks(sample("active", "pre@lab"))
    assert tasks is not None
    assert [task.args for task in tasks] == ["(1, 8)", "(100, 4)"]
    assert tasks[0].queue == "celery"
    assert tasks[0].started_at == datetime.fromtimestamp(1795165986.4568763, UTC)


def test_a_scheduled_task_is_read_with_its_eta() -> None:
    tasks = replies.scheduled(sample("scheduled", "pre@lab"))
    assert tasks is not None
    assert tasks[0].eta == datetime(2026, 11, 20, 9, 18, 6, 462403, tzinfo=UTC)


def test_a_consumed_queue_can_be_given_back_as_it_was_declared() -> None:
    entry = {"name": "q", "exchange": {"name": "x", "type": "topic"}, "queue_arguments": {"a": 1}}
    queues = replies.consumed(reply([entry]))
    assert queues is not None
    arguments = queues[0].add_consumer_arguments()
    assert arguments["exchange"] == "x"
    assert arguments["exchange_type"] == "topic"
    assert arguments["queue_arguments"] == {"a": 1}


def test_declarations_do_not_depend_on_the_order_of_their_keys() -> None:
    one = replies.consumed(reply([{"name": "q", "a": 1}]))
    other = replies.consumed(reply([{"a": 1, "name": "q"}]))
    assert one == other


def test_registered_tasks_are_read_with_their_options() -> None:
    tasks = replies.registered(reply(["app.a [rate_limit=10/m acks_late=True]", "app.b"]))
    assert tasks is not None
    assert [(task.name, task.rate_limit, task.acks_late) for task in tasks] == [
        ("app.a", "10/m", True),
        ("app.b", None, None),
    ]


def test_the_start_of_a_life_does_not_jitter_with_the_rounding_of_uptime() -> None:
    first = replies.stats(Reply("w@h", AT, {"pid": 7, "uptime": 10}))
    later = AT + timedelta(seconds=5.9)
    second = replies.stats(Reply("w@h", later, {"pid": 7, "uptime": 15}), before=first)
    assert first is not None
    assert second is not None
    assert second.started_at == first.started_at


def test_a_reexecuted_worker_with_the_same_pid_is_a_new_life() -> None:
    first = replies.stats(Reply("w@h", AT, {"pid": 7, "uptime": 100}))
    second = replies.stats(Reply("w@h", AT, {"pid": 7, "uptime": 1}), before=first)
    assert second is not None
    assert second.started_at == AT - timedelta(seconds=1)


def test_one_unreadable_task_makes_the_list_unknown_not_shorter() -> None:
    assert replies.tasks(reply([{"id": "1", "name": "a"}, 5])) is None


def test_megabytes_of_arguments_are_cut() -> None:
    task = {"id": "1", "name": "a", "args": ["x" * 1_000_000] * 50, "kwargs": {"y": "z" * 9999}}
    tasks = replies.tasks(reply([task]))
    assert tasks is not None
    assert len(tasks[0].args) <= replies.ARGUMENTS_LENGTH


@given(value=JSON | st.lists(NEARLY_A_TASK, max_size=3) | NEARLY_STATS)
def test_no_reply_makes_a_parser_raise(value: object) -> None:
    for parse in PARSERS:
        parse(reply(value))
