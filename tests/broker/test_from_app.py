"""Which broker an application names, where it names several."""

from __future__ import annotations

import pytest
from celery import Celery

from celery_ops.broker.from_app import context_of
from celery_ops.broker.results import results_at
from celery_ops.config.secret import Secret

ONE, OTHER = "sentinel://:hunter2@a:26379/1", "sentinel://:hunter2@b:26379/1"


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("redis://a/1", "redis://a/1"),
        ("redis://a/1;redis://b/1", "redis://a/1"),
        (["redis://a/1", "redis://b/1"], "redis://a/1"),
        (f"{ONE};{OTHER}", f"{ONE};{OTHER}"),
        ([ONE, OTHER], f"{ONE};{OTHER}"),
    ],
    ids=str,
)
def test_sentinels_are_one_broker_and_other_brokers_alternatives(named: object, found: str) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.broker_url = named
    app.conf.broker_transport_options = {"master_name": "m", "sentinel_kwargs": {"password": "x"}}
    context = context_of(app)
    assert context.broker == Secret(found)
    assert context.broker_options["master_name"] == "m"
    assert "hunter2" not in context.name + context.address + repr(context)


async def test_results_behind_sentinels_are_found_by_the_brokers_options() -> None:
    options = {"master_name": "m", "sentinel_kwargs": {"password": "hush"}, "global_keyprefix": "x"}
    results = results_at(Secret(f"{ONE};{OTHER}"), options)
    assert results is not None
    assert results.address == "sentinel://:***@a:26379/1;sentinel://:***@b:26379/1"
    await results.close()
    assert results_at(Secret(ONE), {}) is None
    assert results_at(None, options) is None
