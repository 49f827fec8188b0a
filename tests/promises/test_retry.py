"""Tasks that failed are sent again by the real command, to real workers: each once, and counted."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.mortal import Death, When
from tests.rig.operator import Operators
from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

NUMBERS = itertools.count(1)
FRAGILE = "rig.fragile"
QUEUES = ("mail", "other")
CONF = {"result_extended": True}


class Lab:
    """A fleet of one worker with a result backend, and an operator."""

    def __init__(self, folder: Path, server: RedisServer, broker: str) -> None:
        self.server = server
        self.results = server.client(1)
        self.fleet = Fleet(folder / "app", broker, server.url(1), CONF)
        self.worker = self.fleet.start("w@rig", queues=QUEUES, concurrency=2)[0]
        config = folder / "celery-ops.yaml"
        config.write_text(
            json.dumps(
                {
                    "default": "lab",
                    "contexts": {"lab": {"broker": broker, "results": server.url(1)}},
                }
            )
        )
        self._operators = Operators([])
        self.ann = self._operators.hire(folder, "ann", "--config", str(config))

    def failed(self, count: int, queue: str = "mail", **how: Any) -> dict[str, int]:
        """Tasks that have failed, by their ids; from now on none fails any more."""
        self.fleet.break_all()
        numbers = [next(NUMBERS) for _ in range(count)]
        sent = {self.fleet.send(one, task=FRAGILE, queue=queue, **how): one for one in numbers}
        wait_until(lambda: self.states(sent) == {"FAILURE"}, what="all have failed")
        self.fleet.break_all(broken=False)
        return sent

    def state(self, id_: str) -> str | None:
        stored: Any = self.results.get(f"celery-task-meta-{id_}")
        return None if stored is None else str(json.loads(stored)["status"])

    def states(self, ids: Any) -> set[str | None]:
        return {self.state(one) for one in ids}

    def ran_once_more(self, sent: dict[str, int]) -> None:
        """Each has succeeded, and began twice in all."""
        wait_until(lambda: self.states(sent) == {"SUCCESS"}, what="all succeed")
        starts, ends = self.fleet.starts(), self.fleet.ends()
        assert {starts[number] for number in sent.values()} == {2}
        assert {ends[number] for number in sent.values()} == {1}

    def close(self) -> None:
        self._operators.dismiss()
        self.fleet.stop()
        self.results.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("retry")
    server = RedisServer(folder / "redis")
    made = Lab(folder, server, server.url())
    try:
        yield made
    finally:
        made.close()
        server.stop()


@pytest.fixture
def ann(lab: Lab) -> Operator:
    return lab.ann


def told(said: Said) -> str:
    return " ".join(said.all.split())


def test_what_failed_runs_once_more_with_what_it_was_given(lab: Lab, ann: Operator) -> None:
    given = {"more": [datetime(2026, 11, 20, tzinfo=UTC), Decimal("1.50"), "x" * 3000, {"a": [1]}]}
    sent = lab.failed(2, kwargs=given)
    plan = ann.do("task", "retry", *sent, "--plan")
    assert plan.code == 0, plan.all
    assert "Send 2 tasks again," in plan.out
    assert "xxx" not in plan.all
    done = ann.do("task", "retry", *sent, "--yes")
    assert done.code == 0, done.all
    assert "2 tasks sent to mail" in told(done)
    lab.ran_once_more(sent)
    assert {lab.fleet.given()[number] for number in sent.values()} == {repr(given["more"])}
    refused = ann.do("task", "retry", *sent, "--yes")
    assert refused.code == 7, refused.all
    assert "it has succeeded: -p ended=any sends it again" in told(refused)


def test_by_name_and_filter_the_number_is_shown_and_only_these_are_sent(
    lab: Lab, ann: Operator
) -> None:
    mails, others = lab.failed(3), lab.failed(2, "other")
    judge = "queue == 'other' and exception == 'ConnectionError' and age < 1h"
    done = ann.do("task", "retry", "--name", "rig.fra*", "--filter", judge, "--yes")
    assert done.code == 0, done.all
    assert "2 tasks sent to other" in told(done)
    lab.ran_once_more(others)
    assert lab.states(mails) == {"FAILURE"}
    rest = ann.do("task", "retry", "--filter", "state == 'FAILURE'", "-p", "to=other", "--yes")
    assert rest.code == 0, rest.all
    lab.ran_once_more(mails)


def test_while_it_waits_it_is_not_sent_a_second_time(lab: Lab, ann: Operator) -> None:
    sent = lab.failed(1)
    done = ann.do("task", "retry", *sent, "-p", "to=nobody", "--yes")
    assert done.code == 0, done.all
    assert "nobody is seen to consume nobody" in told(ann.do("runs", "show"))
    again = ann.do("task", "retry", *sent, "--yes")
    assert again.code == 7, again.all
    assert "it is there still (waiting in nobody): it would run twice" in told(again)
    with lab.server.client() as redis:
        assert redis.lmove("nobody", "mail") is not None
    lab.ran_once_more(sent)


def test_what_is_not_kept_whole_is_refused(lab: Lab, ann: Operator) -> None:
    first, second = lab.failed(2)
    keys = [f"celery-task-meta-{id_}" for id_ in (first, second)]
    kept: Any = lab.results.get(keys[0])
    meta = json.loads(kept)
    bare = {name: meta[name] for name in ("status", "result", "date_done", "task_id")}
    lab.results.mset({keys[0]: json.dumps(bare), keys[1]: b"\x80\x04."})
    refused = ann.do("task", "retry", first, second, "--yes")
    assert refused.code == 7, refused.all
    assert f"{first}: its name and its arguments are not stored" in told(refused)
    assert "after result_extended=True is set" in told(refused)
    assert f"{second}: its result is not read: it is no JSON" in told(refused)
    lab.results.delete(*keys)


def test_a_run_whose_executor_is_killed_in_the_act_sends_each_once(lab: Lab, ann: Operator) -> None:
    """What was sent is in the broker, and not in the journal."""
    sent = lab.failed(3)
    variables = Death("retry", When.DURING).variables(ann.home / "mortal")
    died = ann.do("task", "retry", *sent, "--yes", **variables)
    assert died.code == 9, died.all
    lab.ran_once_more(sent)
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert "3 tasks sent to mail, 3 of them before this was resumed" in told(resumed)
    lab.ran_once_more(sent)


def test_a_revoked_task_that_workers_would_discard_is_refused(lab: Lab, ann: Operator) -> None:
    id_ = f"revoked-{next(NUMBERS)}"
    assert ann.do("task", "revoke", id_, "-p", "unseen=yes", "--yes").code == 0
    lab.fleet.send(next(NUMBERS), task=FRAGILE, queue="mail", task_id=id_)
    wait_until(lambda: lab.state(id_) == "REVOKED", what="it is discarded")
    refused = ann.do("task", "retry", id_, "--yes")
    assert refused.code == 7, refused.all
    assert "it is revoked in w@rig" in told(refused)


def test_on_rabbitmq_each_is_sent_once_too(
    rabbit: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    lab = Lab(tmp_path, own_redis, rabbit)
    try:
        sent = lab.failed(3) | lab.failed(2, "other")
        variables = Death("retry", When.DURING).variables(lab.ann.home / "mortal")
        died = lab.ann.do("task", "retry", "--name", FRAGILE, "--yes", **variables)
        assert died.code == 9, died.all
        resumed = lab.ann.do("runs", "resume")
        assert resumed.code == 0, resumed.all
        lab.ran_once_more(sent)
    finally:
        lab.close()
