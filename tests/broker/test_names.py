"""What kombu calls things, from the options of the fleet."""

from __future__ import annotations

import pytest

from celery_ops.broker.names import Names, from_options
from celery_ops.errors import UsageError


def names(db: int = 0, **options: object) -> Names:
    return from_options(db, options)


def test_the_usual_names() -> None:
    usual = names(3)
    assert usual.control_channels == ("/3.celery.pidbox",)
    assert usual.heartbeats == ("PSUBSCRIBE", "/3.celeryev/worker.*")
    assert usual.task_events == ("PSUBSCRIBE", "/3.celeryev/task.*")
    assert usual.keys("mail") == ("mail", "mail\x06\x163", "mail\x06\x166", "mail\x06\x169")
    assert usual.binding("mail") == "_kombu.binding.mail"
    assert usual.unacked == "unacked"
    assert usual.lease == "celery-ops:lease"


def test_a_prefix_is_part_of_every_name() -> None:
    prefixed = names(0, global_keyprefix="app*:")
    assert prefixed.control_channels == ("app*:/0.celery.pidbox",)
    assert prefixed.heartbeats == ("PSUBSCRIBE", "app\\*:/0.celeryev/worker.*")
    assert prefixed.keys("mail")[0] == "app*:mail"
    assert prefixed.unacked_index == "app*:unacked_index"
    assert prefixed.taken == "app*:celery-ops:taken"
    assert prefixed.queue_of("app*:mail\x06\x166") == ("mail", 6)
    assert prefixed.queue_of("mail") is None


def test_fanout_options() -> None:
    assert names(0, fanout_prefix=False).control_channels == ("celery.pidbox",)
    assert names(2, fanout_prefix="/{db}/x.").control_channels == ("/2/x.celery.pidbox",)
    assert names(0, fanout_patterns=False).heartbeats == ("SUBSCRIBE", "/0.celeryev")


def test_with_sentinel_workers_of_older_releases_listen_to_another_channel() -> None:
    both = from_options(2, {}, by_sentinels=True)
    assert both.control_channels == ("/2.celery.pidbox", "/{db}.celery.pidbox")
    assert both.heartbeats == (
        "PSUBSCRIBE", "/2.celeryev/worker.*", "/{db}.celeryev/worker.*",
    )  # fmt: skip
    older = from_options(2, {"sentinel_fanout_compat": True}, by_sentinels=True)
    assert older.control_channels == ("/{db}.celery.pidbox",)
    same = from_options(2, {"fanout_prefix": "x."}, by_sentinels=True)
    assert same.control_channels == ("x.celery.pidbox",)


def test_other_exchanges() -> None:
    other = names(0, control_exchange="ctl", event_exchange="ev")
    assert other.control_channels == ("/0.ctl.pidbox",)
    assert other.heartbeats == ("PSUBSCRIBE", "/0.ev/worker.*")
    assert other.node("w1@lab.ctl.pidbox") == "w1@lab"
    assert other.node("w1@lab.celery.pidbox") is None


def test_other_steps_and_separator() -> None:
    other = names(0, priority_steps=[5, 1], sep=":")
    assert other.keys("q") == ("q:1", "q:5")
    assert other.suffix(0) == ":5", "kombu takes the last step where none is small enough"


def test_our_own_lists_and_those_of_celery_are_no_queues() -> None:
    usual = names()
    for plumbing in ("w1@lab.celery.pidbox", "x.reply.celery.pidbox", usual.reply_list("x")):
        assert usual.is_plumbing(plumbing)
    assert not usual.is_plumbing("pidbox-mail")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"global_keyprefx": "x"}, "'global_keyprefx' is not a broker option"),
        ({"priority_steps": 3}, "priority_steps is not a list of numbers"),
        ({"priority_steps": []}, "priority_steps is not a list of numbers"),
        ({"global_keyprefix": 3}, "global_keyprefix is not a str"),
        ({"credential_provider": "x"}, "not supported yet"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        from_options(0, options)
    assert says in refused.value.says


def test_a_misspelt_option_names_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match="global_keyprefix"):
        from_options(0, {"global_keyprefx": "x"})


def test_options_that_only_workers_need_are_accepted() -> None:
    assert names(0, visibility_timeout=43200, health_check_interval=10) == names()
