"""What an operator reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from celery_ops.cli import fleet_text
from celery_ops.cli.text import cells
from celery_ops.model import Flow, Parked, Queue, Reading, Task
from tests.cli.snapshots import (
    AT,
    HOSTILE,
    WEB1,
    hosts_snapshot,
    known_worker,
    snapshot,
    unknown_worker,
)


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(name))


def test_what_is_wrong_stands_before_everything_else() -> None:
    lines = fleet_text.status(snapshot(), 200)
    places = [
        next(place for place, line in enumerate(lines) if line.startswith(begin))
        for begin in ("production", "incomplete", "ERROR: mail", "warning: worker1", "lease:",
                      "taken:", "WORKER", "QUEUE", "note:")
    ]  # fmt: skip
    assert places == sorted(places)


def test_what_is_not_known_is_a_question_mark_and_never_a_zero() -> None:
    silent = row(fleet_text.workers(snapshot(), 200), "silent@web2").split()
    assert silent == ["silent@web2", "silent", *["?"] * 8]


def test_a_known_zero_is_a_zero() -> None:
    known = row(fleet_text.workers(snapshot(), 200), "worker1@web1").split()
    assert known[2:9] == ["0.4s", "11066", "prefork", "4", "0", "0", "0"]


def test_a_queue_that_nobody_consumes_shows_its_zero() -> None:
    lines = fleet_text.queues(snapshot(), 80)
    assert row(lines, "mail").split()[:4] == ["mail", "12", "0", "0"]
    assert row(lines, "default").split()[:4] == ["default", "17", "?", "1"]
    assert "nobody consumes mail" in lines


def test_parked_messages_are_told_with_the_command_that_gives_them_back() -> None:
    name = str(Parked("mail", "20261126-031200-abcd", "2"))
    lines = fleet_text.queues(replace(snapshot(), queues=(Queue(name, 3, 0, 0),), _by_name={}), 80)
    back = f"celery-ops queue unpark {name}"
    assert f"note: messages of mail are parked: {back} gives them back" in lines
    assert not [line for line in lines if line.startswith("nobody consumes")]


def test_the_rates_of_a_queue_are_told_with_what_is_not_known_of_them() -> None:
    flow = Flow(20.0, -1.5, 2.25, 0.75, at_least=True, why="bulk1 counts all together")
    seen = AT - timedelta(minutes=3)
    bulk = Queue("bulk", 30, 0, 1, flow=flow, waits_since=seen, bytes=2048)
    lines = fleet_text.queues(replace(snapshot(), queues=(bulk,), _by_name={}), 200)
    told = row(lines, "bulk").split()
    assert told == ["bulk", "30", "0", "1", "≥0.8/s", "≥2.2/s", "20s", "≥3m", "~2.0K", "none"]
    assert "note: rates of bulk: bulk1 counts all together" in lines


def test_one_look_claims_no_rates() -> None:
    lines = fleet_text.queues(snapshot(), 80)
    assert row(lines, "mail").split()[4:8] == ["?", "?", "never", "?"]
    assert "note: rates and times take some seconds of watching: --watch tells them" in lines


def test_tasks_that_wait_in_workers_for_their_time_are_told_beside_the_queue() -> None:
    waits = Task("id", "app.mail", "()", "default", None, AT + timedelta(minutes=5), None)
    worker = replace(known_worker(), scheduled=Reading((waits,), AT))
    lines = fleet_text.queues(snapshot(worker), 80)
    assert "note: default: 1 task in workers until their ETA, the next in 5m" in lines


def test_a_silent_worker_is_explained() -> None:
    assert "silent@web2 is silent: no heartbeat for 30 s" in fleet_text.status(snapshot(), 200)


def test_a_hostile_name_stays_on_its_line_and_changes_nothing() -> None:
    lines = fleet_text.status(snapshot(known_worker(), unknown_worker(HOSTILE)), 80)
    assert sum("evil" in line for line in lines) == 2
    assert not any(char in line for line in lines for char in "\x1b\r\n\u202e")


def test_tables_keep_to_eighty_columns() -> None:
    long = unknown_worker("w" * 10_000)
    lines = fleet_text.workers(snapshot(known_worker(), long), 80)
    header = next(place for place, line in enumerate(lines) if line.startswith("WORKER"))
    assert max(cells(line) for line in lines[header : header + 3]) <= 80
    assert "worker1@web1" in lines[header + 1]


def test_what_a_dead_worker_left_is_noted_below_the_queues() -> None:
    stuck = replace(snapshot(), queues=(Queue("mail", 0, 9, 1, orphans=7),), _by_name={})
    says = "note: mail: 7 of the unacked lie where a dead worker left them"
    assert says in fleet_text.queues(stuck, 80)


def test_services_stand_below_their_host_with_what_they_use() -> None:
    lines = fleet_text.hosts(hosts_snapshot(), 200)
    first = next(place for place, line in enumerate(lines) if line.startswith("web1"))
    assert lines[first].split() == [
        "web1", "reachable", "2s", "0.52/4", "75%", "of", "8.0G", "2d", "/", "85%",
    ]  # fmt: skip
    assert lines[first + 1].split() == [
        "celery-worker@1.service", "running", "0.0s", "1.25", "300M", "2h", "worker1@web1",
        "3", "11066",
    ]  # fmt: skip
    assert lines[first + 1].startswith("  celery")


def test_a_host_that_is_gone_says_why_and_since_when() -> None:
    lines = fleet_text.hosts(hosts_snapshot(), 200)
    assert "UNREACHABLE" in row(lines, "web2")
    assert "web2 is not reachable since 03:10:30 UTC: no route to host" in lines
    assert row(lines, "db1 ").split()[1] == "?"
    assert "db1 has not answered since 03:11:52 UTC" in lines


def test_what_does_not_fit_together_comes_last() -> None:
    assert fleet_text.hosts(hosts_snapshot(), 200)[-3:] == [
        "no worker answers for systemd celery-mail.service on web1",
        "no worker answers for systemd celery-worker@1.service on web2",
        "no service runs stray@web9",
    ]


def test_the_hosts_keep_to_eighty_columns_with_state_and_worker() -> None:
    lines = fleet_text.hosts(hosts_snapshot(), 80)
    table = lines[next(at for at, line in enumerate(lines) if line.startswith("HOST")) :][:7]
    assert max(cells(line) for line in table) <= 80
    assert "worker1@web1" in table[2]
    assert "failed" in table[3]


def test_hostile_hosts_stay_on_their_lines() -> None:
    hostile = replace(WEB1, name=HOSTILE, error=HOSTILE, unread=HOSTILE)
    lines = fleet_text.hosts(replace(snapshot(), _by_name={}, hosts=(hostile,)), 80)
    assert sum("evil" in line for line in lines) >= 3
    assert not any(char in line for line in lines for char in "\x1b\r\n\u202e")
