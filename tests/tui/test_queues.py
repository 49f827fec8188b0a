"""The queues: their rows, their pages with the messages, and the keys that change them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.errors import PreconditionFailed
from celery_ops.model import Flow, Queue, Reading
from celery_ops.runbook.library import Library
from celery_ops.tui import rates
from celery_ops.tui.lines import line
from celery_ops.tui.text_screen import TextScreen
from tests.tui import fleets, standins
from tests.tui.fleets import HOSTILE, NOW, ago
from tests.tui.screens import SIZES, opened
from tests.tui.standins import Drawer, PaperDesk
from tests.tui.test_hostile import assert_harmless

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import FleetSnapshot

SHRINKS = Flow(20.0, -2.0, 5.0, 3.0)
SCROLLBAR = "▁▂▃▄▅▆▇█ "
BOUND = Flow(20.0, 1.0, 0.5, 1.5, at_least=True, why="its consumers also consume mail")

HOLD_TASK = """
name: hold-task
summary: A test.
risk: low
params:
  tasks:  {type: text, help: "Which"}
  queues: {type: text, default: "", help: "Where"}
steps:
  - confirm: Sure?
"""


def queue(flow: Flow, name: str = "bulk", **changes: Any) -> Queue:
    return replace(fleets.queue(name), **{"flow": flow, "oldest": None, **changes})


def snapshot(*queues: Queue) -> FleetSnapshot:
    return replace(fleets.demo(), queues=queues, _by_name={})


@pytest.mark.parametrize(
    ("value", "at_least", "told"),
    [
        (None, False, "?"),
        (0.0, False, "0"),
        (0.0, True, "?"),
        (0.049_99, False, "3/m"),
        (0.4, True, "≥0.4/s"),
        (2.0, False, "2/s"),
        (12.34, False, "12/s"),
        (9_999.6, True, "≥10,000/s"),
    ],
)
def test_a_rate_is_short_and_no_bound_is_told_as_nothing(
    value: float | None, at_least: bool, told: str
) -> None:
    assert rates.rate(value, at_least=at_least) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ready": 97, "unacked": 3}, "50s"),
        ({"flow": replace(SHRINKS, growth=0.5)}, "grows"),
        ({"flow": replace(SHRINKS, growth=0.0)}, "steady"),
        ({"flow": replace(SHRINKS, growth=0.5), "consumers": 0}, "never"),
        ({"ready": 0}, "-"),
        ({"flow": Flow(0.0)}, "?"),
        ({"unacked": None}, "?"),
    ],
)
def test_the_time_to_drain_rests_on_what_is_known(changes: dict[str, Any], told: str) -> None:
    assert rates.drain(replace(queue(SHRINKS), **changes)).text == told


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_the_row_of_a_queue_tells_how_it_goes(size: tuple[int, int]) -> None:
    async with opened(snapshot(queue(SHRINKS, ready=97), queue(BOUND, "mail")), size=size) as there:
        await there.press("3")
        assert "5/s" in there.line("bulk ")
        assert "50s" in there.line("bulk ")
        assert "≥0.5/s" in there.line("mail ")
        assert "grows" in there.line("mail ")
        assert "0.3s" in there.line("mail ")


async def test_the_depth_is_drawn_with_gaps_where_nothing_was_read() -> None:
    def at(seconds: float, ready: int | None) -> FleetSnapshot:
        moment = NOW + timedelta(seconds=seconds)
        return replace(snapshot(queue(SHRINKS, ready=ready)), at=moment, _by_name={})

    async with opened(at(0, 0), size=(200, 50)) as there:
        await there.press("3")
        for seconds, ready in ((5, 4), (10, None), (20, 8)):
            await there.see(at(seconds, ready))
        assert "▁▅  █" in there.line("bulk ")


async def test_queues_sort_and_filter_by_their_numbers() -> None:
    some = (queue(SHRINKS), queue(BOUND, "mail", ready=2_000))
    async with opened(snapshot(*some)) as there:
        await there.press("3", *["greater_than_sign"] * 7, "i")
        assert there.text.index("mail ") > there.text.index("bulk "), "not known comes last"
        await there.press("slash")
        await there.type("ready:>1000")
        assert "1 shown" in there.text
        assert "bulk" not in there.text


async def test_enter_opens_the_page_of_a_queue_with_its_messages() -> None:
    drawer = Drawer([standins.message(number) for number in range(3)])
    waits = replace(
        queue(BOUND, ready=3, by_priority=((0, 2), (3, 1)), bytes=2048), waits_since=ago(120)
    )
    async with opened(snapshot(waits), size=(80, 24), messages=drawer) as there:
        await there.press("3", "enter")
        assert "3 ready   the oldest for ≥2m   memory ~2.0K   read 0.3s ago" in there.text
        assert "0: 2  3: 1" in there.line("priorities")
        assert "in ≥1.5/s   out ≥0.5/s   growth +1/s   over 20s" in there.text
        assert "its consumers also consume mail" in there.text
        assert "bulk1@demo ● online" in there.text
        assert "the next 3 of 3 messages, looked at 0.0s ago" in there.text
        assert "(2,)" in there.line("      3  demo.numbered")
        assert drawer.looked == [("bulk", 100)]
        await there.later(8)
        assert "looked at 8s ago" in there.text
        await there.press("r")
        assert "looked at 0.0s ago" in there.text
        await there.press("escape")
        assert "1 queue" in there.text


async def test_a_message_opens_with_all_that_it_says() -> None:
    one = standins.message(1, retries=2, eta=NOW + timedelta(minutes=5), redelivered=True)
    async with opened(snapshot(queue(SHRINKS)), messages=Drawer([one])) as there:
        await there.press("3", "enter", "enter")
        assert f"message {one.id}" in there.text
        for label, value in (("retries", "2"), ("redelivered", "yes"), ("origin", "gen1@demo")):
            assert value in there.line(f"  {label} ")


async def test_more_messages_are_looked_at_when_there_are_more() -> None:
    drawer = Drawer([standins.message(number) for number in range(150)])
    async with opened(snapshot(queue(SHRINKS)), messages=drawer) as there:
        await there.press("3", "enter")
        assert "the next 100 of 150" in there.text
        assert "m more" in there.text
        await there.press("m")
        assert "the next 150 of 150" in there.text
        assert "m more" not in there.text
        assert drawer.looked == [("bulk", 100), ("bulk", 200)]


async def test_messages_that_cannot_be_looked_at_are_no_empty_queue() -> None:
    drawer = Drawer(fails=PreconditionFailed("Looking would change them."))
    async with opened(snapshot(queue(SHRINKS)), messages=drawer) as there:
        await there.press("3", "enter")
        assert "Looking would change them." in there.text
        assert "no message waits" not in there.text


async def test_what_waits_elsewhere_stands_on_the_page() -> None:
    eta = replace(fleets.task(1, queue="bulk", started=None), eta=NOW + timedelta(minutes=5))
    worker = replace(fleets.worker("w1@demo", queues=("bulk",)), scheduled=Reading((eta,), NOW))
    held = replace(queue(SHRINKS), unacked=3, orphans=1)
    async with opened(fleets.fleet((worker,), (held,), orphans=())) as there:
        await there.press("3", "enter")
        held_line = there.line("  held ")
        assert "3 unacked   1 until their ETA (the next in 5m)" in held_line
        assert "1 of dead workers" in held_line


async def test_a_queue_that_is_gone_says_so_on_its_page() -> None:
    async with opened(snapshot(queue(SHRINKS))) as there:
        await there.press("3", "enter")
        await there.see(snapshot())
        assert "There is no such queue any more." in there.text


async def test_a_key_opens_the_plan_of_a_runbook_for_the_queue(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    shelf = standins.library(tmp_path, "pause-queue", "drain-queue")
    async with opened(desk=desk, library=shelf) as there:
        await there.press("3", "down", "P")
        assert desk.planned == [("pause-queue", {"queue": "default"})]
        assert "pause-queue  1 queue" in there.text
        await there.press("escape", "enter", "D")
        assert desk.planned[-1] == ("drain-queue", {"queue": "default"})


async def test_a_key_opens_the_plan_of_a_hold_for_the_task_under_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "hold-task.yaml").write_text(HOLD_TASK)
    shelf = Library(None, shipped_directory=tmp_path)
    one = standins.message(1)
    for read_only in (False, True):
        desk = PaperDesk(plan_made=standins.plan())
        async with opened(
            snapshot(queue(SHRINKS)), desk=desk, library=shelf, messages=Drawer([one]),
            read_only=read_only,
        ) as there:  # fmt: skip
            await there.press("3", "enter", "H")
            wanted = [] if read_only else [("hold-task", {"tasks": one.task})]
            assert desk.planned == wanted


async def test_a_key_without_a_runbook_is_not_offered(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    shelf = standins.library(tmp_path, "pause-queue")
    (tmp_path / "purge-queue.yaml").write_text("name: purge-queue\nbroken\n")
    async with opened(desk=desk, library=shelf, size=(160, 50)) as there:
        await there.press("3")
        assert "P pause" in there.text
        assert "X purge" not in there.text
        await there.press("X", "U", "M")
        assert desk.planned == []
        await there.press("question_mark")
        assert "Pause: nobody consumes it" in there.text
        assert "Purge" not in there.text


async def test_reading_only_no_queue_can_be_changed(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    shelf = standins.library(tmp_path, "pause-queue")
    async with opened(desk=desk, library=shelf, read_only=True) as there:
        await there.press("3", "P", "enter", "P")
        assert desk.planned == []
        assert "P pause" not in there.text


async def test_what_a_runbook_has_to_be_told_is_asked_for(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    shelf = standins.library(tmp_path, "move-queue", to="Where they go")
    async with opened(desk=desk, library=shelf) as there:
        await there.press("3", "M")
        assert "move-queue for bulk" in there.text
        assert "to (needed)  Where they go" in there.text
        await there.press("enter")
        assert desk.planned == []
        await there.type("other")
        await there.press("enter")
        assert desk.planned == [("move-queue", {"queue": "bulk", "to": "other"})]
        await there.press("escape", "M", "escape")
        assert len(desk.planned) == 1


async def test_one_queue_is_changed_at_a_time(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    async with opened(desk=desk, library=standins.library(tmp_path, "pause-queue")) as there:
        await there.press("3", "space", "space", "P")
        assert desk.planned == []
        assert "2 queues are marked" in there.text


async def test_the_confirmation_names_the_queue(tmp_path: Path) -> None:
    made = standins.plan(runbook="pause-queue", params={"queue": "bulk"}, targets=())
    desk = PaperDesk(plan_made=made)
    async with opened(desk=desk, library=standins.library(tmp_path, "pause-queue")) as there:
        await there.press("3", "P")
        assert "0 workers" not in there.text
        await there.press("enter")
        assert "queue bulk" in there.text


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_hostile_queues_and_messages_are_text_on_the_page(size: tuple[int, int]) -> None:
    waiting = [
        standins.message(n, id=text, task=text, args=text, origin=text)
        for n, text in enumerate(HOSTILE)
    ]
    async with opened(fleets.hostile(), size=size, messages=Drawer(waiting)) as there:
        await there.press("3")
        for _ in HOSTILE:
            await there.press("enter")
            assert_harmless(there.text, size)
            await there.press("down", "enter")
            assert_harmless(there.text, size)
            await there.press("escape", "escape", "down")


async def test_the_cursor_stays_on_its_message_when_they_are_looked_at_again() -> None:
    drawer = Drawer([standins.message(number) for number in range(9)])
    async with opened(snapshot(queue(SHRINKS)), messages=drawer) as there:
        await there.press("3", "enter", "down", "down", "down")
        del drawer.waiting[:2]
        await there.press("r", "enter")
        assert "000000000003" in there.text.split("\n")[2]


async def test_what_a_runbook_can_be_told_may_be_left_empty(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    (tmp_path / "purge-queue.yaml").write_text(
        "name: purge-queue\nsummary: A test.\nrisk: low\nparams:\n"
        "  queue: {type: text, help: Which one}\n"
        '  filter: {type: text, default: "", help: Which messages}\n'
        "  limit: {type: integer, default: 0, help: How many}\n"
        "  timeout: {type: duration, default: 1m, help: How long}\n"
        "steps:\n  - confirm: Sure?\n"
    )
    async with opened(desk=desk, library=Library(None, shipped_directory=tmp_path)) as there:
        await there.press("3", "X")
        assert "filter  Which messages" in there.text
        assert "timeout" not in there.text
        await there.press("enter")
        assert desk.planned == [("purge-queue", {"queue": "bulk"})]
        await there.press("escape", "X", "tab")
        await there.type("7")
        await there.press("enter")
        assert desk.planned[-1] == ("purge-queue", {"queue": "bulk", "limit": "7"})


async def test_a_scrollbar_hides_nothing_of_the_rows() -> None:
    many = tuple(queue(SHRINKS, f"queue{number:02}") for number in range(60))
    async with opened(snapshot(*many), size=(80, 24)) as there:
        await there.press("3")
        assert there.line("queue07").rstrip(SCROLLBAR).endswith("0.3s")


@pytest.mark.parametrize("length", range(3, 13))
async def test_a_scrollbar_hides_nothing_of_a_text(length: int) -> None:
    word = "w" * length
    text = [line(" ".join([word] * 40)) for _ in range(10)]
    async with opened(size=(80, 24)) as there:
        there.app.push_screen(TextScreen(there.app.picture, "words", text))
        await there.settle()
        shown = [part for row in there.text.split("\n")[3:-1] for part in row.split()]
        assert {part.strip(SCROLLBAR) for part in shown} - {""} == {word}


async def test_nothing_is_asked_for_that_can_stay_as_it_is(tmp_path: Path) -> None:
    desk = PaperDesk(plan_made=standins.plan())
    shelf = standins.library(tmp_path, "resume-queue")
    file = tmp_path / "resume-queue.yaml"
    told = '  queue: {type: text, help: Which}\n  run: {type: text, default: "", help: Whose}\n'
    file.write_text(file.read_text().replace("  queue: {type: text, help: Which one}\n", told))
    async with opened(desk=desk, library=shelf) as there:
        await there.press("3", "U")
        assert desk.planned == [("resume-queue", {"queue": "bulk"})]
