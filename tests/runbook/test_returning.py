"""Dead letters go back to where they came from, on the stand-in: planned, killed, taken back."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import UsageError
from celery_ops.runbook.events import Ending
from tests.runbook.operation import Operation
from tests.runbook.test_moving import ids, killed_after, refused, run, waiting
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 12
ORIGINS = ("mail", "other", "gone", "dead")
MAPPING = {
    "task": "kwargs.name", "id": "kwargs.id", "args": "kwargs.args", "kwargs": "kwargs.kwargs",
    "origin": "kwargs.queue",
}  # fmt: skip


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return with_dead_letters(tmp_path)


def with_dead_letters(directory: Path) -> Operation:
    """Messages of three queues, one of which is not there, and of `dead` itself wait in `dead`."""
    made = Operation(directory)
    made.fleet.add_worker("w1@web1", queues=("default",))
    for queue in ("mail", "other"):
        made.fleet.send(queue, 0.1)
    for number in range(COUNT):
        made.fleet.send("dead", 0.1, task="app.odd" if number % 8 > 3 else "app.even")
    for number, message in enumerate(made.fleet.queues["dead"]):
        message.queue = ORIGINS[number % 4]
    return made


def with_wrappers(directory: Path) -> Operation:
    """Wrappers of tasks of two queues, and one that has no id in it."""
    made = Operation(directory)
    made.fleet.add_worker("w1@web1", queues=("default",))
    made.fleet.queues["dead"] = deque()
    for number in range(COUNT + 1):
        message = made.fleet.send("dead", 0.1, task="dead_letter.store")
        said = {"name": "shop.mail", "id": f"id-{number}", "args": [number], "kwargs": {},
                "queue": ("mail", "other")[number % 2]}  # fmt: skip
        if number == COUNT:
            del said["id"]
        made.broker.bodies[message.id] = json.dumps([[], said, {}]).encode()
    for queue in ("mail", "other"):
        made.fleet.send(queue, 0.1)
    return made


MADE = {"return": (with_dead_letters, {}), "unwrap": (with_wrappers, MAPPING)}


async def prepared(directory: Path, name: str, **params: str) -> tuple[Operation, Path]:
    make, mapping = MADE[name]
    operation = make(directory)
    plan = await operation.plan(f"{name}-queue", queue="dead", **mapping, **params)
    return operation, operation.write_down(plan)


async def test_each_goes_back_to_its_own_queue_and_the_others_stay_with_the_reason(
    operation: Operation,
) -> None:
    sent = ids(operation, "dead")
    before = {name: ids(operation, name) for name in ("mail", "other")}
    plan = await operation.plan("return-queue", queue="dead")
    assert plan.confirmations[0].question.startswith("Return 6 messages")
    assert [(move.to, move.messages) for move in plan.moves] == [("mail", 3), ("other", 3)]
    assert any("3 messages of dead will stay there: there is no queue 'gone'" in says
               for says in plan.hazards)  # fmt: skip
    assert any("3 messages of dead will stay there: they name dead itself" in says
               for says in plan.hazards)  # fmt: skip
    ran = await operation.execute(plan)
    assert ran.end.says == (
        "3 messages of dead returned to mail; 3 messages of dead returned to other;"
        " 6 wait in dead now"
    )
    assert ids(operation, "mail") == before["mail"] + sent[::4]
    assert ids(operation, "other") == before["other"] + sent[1::4]
    assert ids(operation, "dead") == [id_ for at, id_ in enumerate(sent) if at % 4 > 1]


async def test_another_queue_takes_those_that_cannot_tell(operation: Operation) -> None:
    plan = await operation.plan("return-queue", queue="dead", to="other")
    assert [(move.to, move.messages) for move in plan.moves] == [("mail", 3), ("other", 9)]
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    found = waiting(operation)
    assert set(found) == {"mail", "other"}
    assert {address for _, address in found["other"]} == {"other"}


async def test_a_filter_and_a_limit_hold_for_all_of_them_together(operation: Operation) -> None:
    sent = ids(operation, "dead")
    await run(operation, "return-queue", queue="dead", filter="task == 'app.even'", limit="3")
    gone = set(sent) - set(ids(operation, "dead"))
    assert gone == {sent[0], sent[1], sent[8]}


async def test_those_of_another_place_that_come_meanwhile_stay(operation: Operation) -> None:
    plan = await operation.plan("return-queue", queue="dead")
    late = [operation.fleet.send("dead"), operation.fleet.send("dead")]
    late[0].queue, late[1].queue = "mail", "default"
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert late[0].id in ids(operation, "mail")
    assert late[1].id in ids(operation, "dead")


async def test_a_rate_is_kept(operation: Operation) -> None:
    began = operation.clock.monotonic()
    await run(operation, "return-queue", queue="dead", to="other", rate="1/s")
    assert operation.clock.monotonic() - began >= COUNT - 4


async def test_the_original_takes_the_place_of_its_wrapper(tmp_path: Path) -> None:
    operation = with_wrappers(tmp_path)
    wrappers = ids(operation, "dead")
    plan = await operation.plan("unwrap-queue", queue="dead", **MAPPING)
    assert plan.confirmations[0].question.startswith(
        f"Put the original tasks in the place of {COUNT}"
    )
    assert any("1 message of dead will stay there: there is no kwargs.id" in says
               for says in plan.hazards)  # fmt: skip
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ids(operation, "dead") == wrappers[COUNT:]
    assert ids(operation, "mail")[1:] == [f"id-{number}" for number in range(0, COUNT, 2)]
    assert ids(operation, "other")[1:] == [f"id-{number}" for number in range(1, COUNT, 2)]
    assert {one.task for one in list(operation.fleet.queues["mail"])[1:]} == {"shop.mail"}


async def test_what_messages_name_is_shown_escaped_and_not_without_end(
    operation: Operation,
) -> None:
    for number, message in enumerate(operation.fleet.queues["dead"]):
        message.queue = f"\x1b[31mno {number}" if number else "mail"
    hazards = (await operation.plan("return-queue", queue="dead")).hazards
    assert not any("\x1b" in says for says in hazards)
    assert sum("will stay there: there is no queue" in says for says in hazards) == 8
    assert any(says.startswith("3 messages of dead will stay there, for other") for says in hazards)


async def test_an_id_that_is_there_twice_is_told(operation: Operation) -> None:
    first, *_, fifth = list(operation.fleet.queues["dead"])[:5]
    fifth.id = first.id
    plan = await operation.plan("return-queue", queue="dead")
    assert any("1 message of dead would go with an id that another" in says
               for says in plan.hazards)  # fmt: skip


async def test_a_note_that_a_crash_has_cut_is_left_out_and_spoils_no_other(tmp_path: Path) -> None:
    operation, path = await prepared(tmp_path, "return")
    before = {queue: sorted(found) for queue, found in waiting(operation).items()}
    path.with_suffix(".2.moved").write_bytes(b'["task-1", 0, "e')
    await operation.take_up(path)
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.DONE, ran.told()
    assert {queue: sorted(found) for queue, found in waiting(operation).items()} == before


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"task": ""}, "where a wrapper has the task"),
        ({"id": ""}, "where a wrapper has the id"),
        ({"args": "headers.args"}, "not a path into"),
        ({"kwargs": "kwargs..x"}, "not a path into"),
    ],
)
async def test_what_is_no_mapping_is_refused(
    tmp_path: Path, params: dict[str, str], says: str
) -> None:
    operation = with_wrappers(tmp_path)
    with pytest.raises(UsageError, match=says):
        await operation.plan("unwrap-queue", queue="dead", **{**MAPPING, **params})


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"queue": "empty"}, "no message waits in empty"),
        ({"queue": "daed"}, "did you mean dead?"),
        ({"filter": "retries > 5"}, "that waits in dead matches"),
        ({"to": "dead"}, "dead is no queue to return messages to"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    operation: Operation, params: dict[str, str], says: str
) -> None:
    assert says in await refused(operation, "return-queue", **{"queue": "dead", **params})


@pytest.mark.parametrize("name", MADE)
async def test_killed_anywhere_and_gone_on_with_it_ends_as_if_it_had_not_been(
    tmp_path: Path, name: str
) -> None:
    operation, path = await prepared(tmp_path / "undisturbed", name)
    assert (await operation.take_up(path)).ending is Ending.DONE
    expected = waiting(operation)

    async def check(operation: Operation, path: Path, where: str) -> None:
        operation.broker.after_an_effect = lambda: None
        ran = await operation.take_up(path)
        assert ran.ending is Ending.DONE, f"{where}: {ran.told()}"
        assert waiting(operation) == expected, where

    for when in ("before", "after"):
        for line in range(2, 100, 2):
            operation, path = await prepared(tmp_path / f"{when}-{line}", name)
            if not await killed(operation, path, line, when):
                break
            await check(operation, path, f"{when} line {line}")
    for effect in range(1, 100):
        operation, path = await prepared(tmp_path / f"effect-{effect}", name)
        if not await killed_after(operation, path, effect):
            break
        await check(operation, path, f"after effect {effect}")


@pytest.mark.parametrize("name", MADE)
async def test_an_undo_puts_back_what_they_were_and_says_what_is_gone(
    tmp_path: Path, name: str
) -> None:
    operation, path = await prepared(tmp_path, name)
    before = waiting(operation)
    assert (await operation.take_up(path)).ending is Ending.DONE
    gone = operation.fleet.queues["mail"].pop()
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.DONE, ran.told()
    assert "1 had been consumed, or taken elsewhere, meanwhile" in ran.end.says
    after = waiting(operation)
    assert {queue: len(found) for queue, found in after.items()} == {
        queue: len(found) - (queue == "dead") for queue, found in before.items()
    }
    assert set(after["dead"]) <= set(before["dead"])
    assert gone.id not in ids(operation, "mail")


@pytest.mark.parametrize("effect", range(1, 12))
async def test_an_undo_that_is_killed_gives_nothing_back_twice(tmp_path: Path, effect: int) -> None:
    for name in MADE:
        operation, path = await prepared(tmp_path / name, name)
        before = {queue: sorted(found) for queue, found in waiting(operation).items()}
        await operation.take_up(path)
        await killed_after(operation, path, effect, undo=True)
        operation.broker.after_an_effect = lambda: None
        ran = await operation.take_up(path, undo=True)
        assert ran.ending is Ending.DONE, ran.told()
        found = {queue: sorted(found) for queue, found in waiting(operation).items()}
        assert found == before, name
