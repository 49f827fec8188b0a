"""What a demo consists of: files that others cannot read, and a fleet that can be restarted."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from celery_ops.config import contexts
from celery_ops.config.secret import Secret
from celery_ops.demo import layout as files
from celery_ops.demo.orders import MAX_COUNTDOWN, order

PASSWORD = "correct-horse"
ADDRESSES = files.Addresses(6399, Secret(PASSWORD))


@pytest.fixture
def layout(tmp_path: Path) -> files.Layout:
    tmp_path.chmod(0o700)
    layout = files.Layout(tmp_path)
    files.write(layout, "demo-0001", ADDRESSES)
    return layout


def supervisor_programs(layout: files.Layout) -> dict[str, configparser.SectionProxy]:
    parser = configparser.ConfigParser()
    parser.read_string(files.supervisor_config(layout))
    sections = (name for name in parser.sections() if name.startswith("program:"))
    return {name.removeprefix("program:"): parser[name] for name in sections}


def test_every_queue_has_two_consumers_or_more() -> None:
    for queue in files.QUEUES:
        assert sum(queue in worker.queues for worker in files.WORKERS) >= 2, queue


def test_there_are_two_groups_of_two_workers() -> None:
    pools = [worker.pool for worker in files.WORKERS]
    assert sorted(pools) == ["prefork", "prefork", "threads", "threads"]


def test_a_stop_waits_longer_than_the_longest_task_and_spares_the_children(
    layout: files.Layout,
) -> None:
    longest = max(order(number).seconds for number in range(1, 500))
    for program in supervisor_programs(layout).values():
        assert int(program["stopwaitsecs"]) > 3 * longest
        assert not program.getboolean("stopasgroup")
        assert program["stopsignal"] == "TERM"


def test_celery_ops_can_read_the_configuration_it_is_given(layout: files.Layout) -> None:
    configuration = contexts.load(layout.config, {})
    assert configuration.default == "demo-0001"
    context = configuration.contexts["demo-0001"]
    assert context.broker == ADDRESSES.broker
    workers = [service.worker for service in context.services if service.worker]
    assert workers == [worker.node for worker in files.WORKERS]
    assert [service.name for service in context.services if service.beat] == ["beat"]
    assert {service.server for service in context.services} == {
        f"unix://{layout.supervisor_socket}"
    }


def test_nobody_else_can_read_what_was_written(layout: files.Layout) -> None:
    for path in layout.directory.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_command_line_contains_the_password(layout: files.Layout) -> None:
    assert PASSWORD not in layout.supervisor_config.read_text()
    assert PASSWORD not in repr(files.Addresses.read(layout))


def test_a_percent_sign_in_the_path_is_not_expanded_by_supervisord() -> None:
    layout = files.Layout(Path("/srv/100%(here)s"))
    programs = supervisor_programs(layout)
    assert programs["beat"]["stdout_logfile"] == "/srv/100%(here)s/logs/beat.log"
    assert "/srv/100%(here)s/beat-schedule" in programs["beat"]["command"]


def test_redis_keeps_its_messages_and_listens_to_this_machine_only(layout: files.Layout) -> None:
    lines = layout.redis_config.read_text().splitlines()
    assert "bind 127.0.0.1" in lines
    assert "appendonly yes" in lines
    assert "maxmemory-policy noeviction" in lines


def test_orders_take_a_tenth_of_a_second_to_three_seconds() -> None:
    orders = [order(number) for number in range(1, 2000)]
    assert min(one.seconds for one in orders) >= 0.1
    assert 2.5 < max(one.seconds for one in orders) <= 3.0
    assert any(one.countdown for one in orders)
    assert all(0 < one.countdown <= MAX_COUNTDOWN for one in orders if one.countdown)
    assert {one.arguments.get("failures") for one in orders} >= {None, 0, 1, 3}
    assert [one.number for one in orders] == list(range(1, 2000))


def test_six_of_eight_slots_suffice_for_all_orders_and_two_for_the_reports() -> None:
    producing_interval = 0.18
    orders = [order(number) for number in range(1, 2001)]
    attempts = [min(one.arguments.get("failures", 0), 2) + 1 for one in orders]
    work = [one.seconds * times for one, times in zip(orders, attempts, strict=True)]
    duration = producing_interval * len(orders)
    reports = sum(w for one, w in zip(orders, work, strict=True) if "report" in one.task)
    assert sum(work) / duration < 0.9 * 6
    assert reports / duration < 0.8 * 2
