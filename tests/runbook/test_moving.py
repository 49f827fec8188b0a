"""The verbs about messages, on the stand-in: planned, carried out, killed anywhere, taken back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import UsageError
from celery_ops.model import Parked, parked
from celery_ops.runbook.backups import is_there, read
from celery_ops.runbook.events import Ending, RunState
from celery_ops.runbook.inbox import Message, Word
from tests.runbook.operation import Operation
from tests.runbook.test_abort import told_at
from tests.runbook.test_resume import Killed, MortalJournal, died, killed

if TYPE_CHECKING:
    from celery_ops.ports import Clock
    from celery_ops.runbook.plan import Plan

COUNT = 20


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return with_mail(tmp_path)


def with_mail(directory: Path) -> Operation:
    """A fleet that consumes `other`, and messages of two tasks that wait in `mail`."""
    directory.mkdir(exist_ok=True, parents=True)
    made = Operation(directory)
    made.fleet.add_worker("w1@web1", queues=("default",))
    for number in range(COUNT):
        made.fleet.send("mail", 0.1, task="app.odd" if number % 2 else "app.even")
    return made


def waiting(operation: Operation) -> dict[str, list[tuple[str, str]]]:
    """Ids and addresses of what waits, by queue; no empty queues."""
    operation.fleet.settle()
    queues = operation.fleet.queues.items()
    return {name: [(one.id, one.queue) for one in queue] for name, queue in queues if queue}


def ids(operation: Operation, queue: str) -> list[str]:
    return [id_ for id_, _ in waiting(operation).get(queue, [])]


def place(plan: Plan) -> str:
    (move,) = plan.moves
    return move.parked


async def run(operation: Operation, name: str, **params: str) -> str:
    """Run it to its good end; what it came to."""
    ran = await operation.run(name, **params)
    assert ran.ending is Ending.DONE, ran.told()
    return ran.end.says


async def refused(operation: Operation, name: str, **params: str) -> str:
    """It is refused, and nothing is changed; why."""
    before = waiting(operation)
    plan = await operation.plan(name, **params)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert ran.effects == []
    assert waiting(operation) == before
    return "; ".join(plan.refusals)


# --- what they do -------------------------------------------------------------------------------


async def test_a_filtered_half_is_moved_in_order_and_addressed_anew(operation: Operation) -> None:
    sent = waiting(operation)["mail"]
    plan = await operation.plan("move-queue", queue="mail", to="other", filter="task == 'app.odd'")
    assert plan.confirmations[0].question.startswith("Move 10 messages")
    assert plan.refusals == ()
    assert any("nobody is seen to consume other" in says for says in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.end.says == "10 messages of mail moved to other; 10 wait in mail now"
    assert waiting(operation) == {
        "mail": sent[::2],
        "other": [(id_, "other") for id_, _ in sent[1::2]],
    }


async def test_a_limit_takes_those_that_are_served_first(operation: Operation) -> None:
    sent = ids(operation, "mail")
    await run(operation, "move-queue", queue="mail", to="other", limit="7")
    assert ids(operation, "other") == sent[:7]
    assert ids(operation, "mail") == sent[7:]


async def test_a_backup_that_is_not_there_is_told_with_where_to_look(
    operation: Operation,
) -> None:
    with pytest.raises(UsageError, match="There is no file /none/such") as told:
        await operation.plan("restore-queue", file="/none/such")
    assert str(operation.directory / "backups") in (told.value.fix or "")


async def test_no_directory_is_made_for_a_file_that_the_operator_names(
    operation: Operation, tmp_path: Path
) -> None:
    file = tmp_path / "a slip" / "mail.backup"
    for runbook in ("backup-queue", "purge-queue"):
        says = await refused(operation, runbook, queue="mail", file=str(file))
        assert f"there is no directory {file.parent}: mkdir -p '{file.parent}'" in says
    assert not file.parent.exists()


async def test_what_is_not_known_is_no_match_and_is_counted(operation: Operation) -> None:
    plan = await operation.plan(
        "move-queue", queue="mail", to="other", filter="age > 5m or task == 'app.odd'"
    )
    assert any("of 10 messages of mail it cannot be told" in says for says in plan.hazards)
    ran = await operation.execute(plan)
    assert "(of 10 it cannot be told whether they are meant: they stay)" in ran.end.says
    assert len(ids(operation, "mail")) == 10


async def test_a_rate_is_kept(operation: Operation) -> None:
    began = operation.clock.monotonic()
    await run(operation, "move-queue", queue="mail", to="other", rate="2/s")
    assert 9 <= operation.clock.monotonic() - began < 20
    assert len(ids(operation, "other")) == COUNT


async def test_parked_messages_are_told_of_and_go_back_to_be_served_first(
    operation: Operation,
) -> None:
    before = waiting(operation)["mail"]
    plan = await operation.plan("park-queue", queue="mail", filter="task == 'app.even'")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE
    assert waiting(operation)[place(plan)] == before[::2]
    assert ran.end.report is not None
    (left,) = ran.end.report.left_parked
    assert left.mend == f"celery-ops queue unpark {place(plan)}"
    assert parked(place(plan)) == Parked("mail", plan.run, "2")
    says = await run(operation, "unpark-queue", queue="mail")
    assert says == f"10 messages of {place(plan)} moved to mail"
    assert waiting(operation) == {"mail": before[::2] + before[1::2]}


async def test_all_that_is_parked_of_a_queue_comes_back_in_its_order(operation: Operation) -> None:
    before = waiting(operation)
    for _ in range(3):
        await run(operation, "park-queue", queue="mail", limit="5")
    plan = await operation.plan("unpark-queue", queue="mail")
    assert [move.messages for move in plan.moves] == [5, 5, 5]
    assert plan.confirmations[0].question.startswith("Give back what is parked (15 messages)")
    await operation.execute(plan)
    assert waiting(operation) == before


async def test_what_is_unparked_to_another_queue_is_addressed_to_it(operation: Operation) -> None:
    parked_by = await operation.plan("park-queue", queue="mail", limit="3")
    await operation.execute(parked_by)
    await run(operation, "unpark-queue", queue=place(parked_by), to="other")
    assert waiting(operation)["other"] == [(f"task-{n}", "other") for n in (1, 2, 3)]


async def test_a_backup_is_a_copy_and_says_so_when_it_is_restored(
    operation: Operation, tmp_path: Path
) -> None:
    before = waiting(operation)
    file = tmp_path / "mail.backup"
    says = await run(operation, "backup-queue", queue="mail", file=str(file))
    assert f"20 messages of mail copied to {file}" in says
    assert waiting(operation) == before
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await read(file)).header.copied
    plan = await operation.plan("restore-queue", file=str(file))
    assert any("is a copy" in says for says in plan.hazards)
    assert "exists already" in await refused(
        operation, "backup-queue", queue="mail", file=str(file)
    )


async def test_what_is_purged_can_be_restored_once_and_once_more_by_name(
    operation: Operation,
) -> None:
    before = waiting(operation)
    plan = await operation.plan("purge-queue", queue="mail")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert waiting(operation) == {}
    file = str(operation.directory / "backups" / f"mail-{journal_run(operation)}-2.backup")
    assert ran.end.says == (
        "20 messages of mail purged; give them back with:"
        f" {plan.where.command(f'queue restore {file}')}"
    )
    operation.fleet.send("mail", 0.1)
    later = waiting(operation)["mail"]
    says = await run(operation, "restore-queue", file=file)
    assert says == f"20 messages of {file} put into mail; 21 wait there now"
    assert waiting(operation) == {"mail": before["mail"] + later}
    assert "was restored before" in await refused(operation, "restore-queue", file=file)
    await run(operation, "restore-queue", file=file, again="night")
    assert ids(operation, "mail")[:20] == [id_ for id_, _ in before["mail"]]
    again = await refused(operation, "restore-queue", file=file, again="night")
    assert "-p again=ANOTHER-NAME" in again


async def test_a_backup_goes_into_another_queue_that_is_named_and_is_addressed_to_it(
    operation: Operation, tmp_path: Path
) -> None:
    before = ids(operation, "mail")
    file = str(tmp_path / "kept")
    await run(operation, "purge-queue", queue="mail", file=file)
    plan = await operation.plan("restore-queue", file=file, queue="other", rate="10/s")
    assert "messages of mail go to other, another queue" in plan.hazards
    assert (await operation.execute(plan)).ending is Ending.DONE
    assert waiting(operation) == {"other": [(id_, "other") for id_ in before]}


async def test_another_file_than_the_one_that_was_planned_is_not_restored(
    operation: Operation, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    await run(operation, "backup-queue", queue="mail", file=str(first))
    await run(operation, "backup-queue", queue="mail", file=str(second))
    before = waiting(operation)
    plan = await operation.plan("restore-queue", file=str(first))
    second.rename(first)
    ran = await operation.execute(plan)
    assert "is another backup than the one that was planned" in ran.end.says
    assert waiting(operation) == before


async def test_only_what_was_parked_is_destroyed(operation: Operation) -> None:
    before = waiting(operation)["mail"]
    await run(operation, "purge-queue", queue="mail", filter="task == 'app.odd'")
    assert waiting(operation) == {"mail": before[::2]}
    assert operation.broker.tickets == {}


async def test_what_cannot_be_written_is_not_destroyed_and_goes_back(
    operation: Operation, tmp_path: Path
) -> None:
    before = waiting(operation)
    plan = await operation.plan("purge-queue", queue="mail", file=str(tmp_path / "taken"))
    (tmp_path / "taken").write_text("of somebody else's")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.end.says.endswith("; the messages are back in mail")
    assert waiting(operation) == before
    assert (tmp_path / "taken").read_text() == "of somebody else's"


async def test_an_unparking_that_is_aborted_says_what_is_still_parked(
    operation: Operation,
) -> None:
    plan = await operation.plan("park-queue", queue="mail")
    await operation.execute(plan)
    path = operation.write_down(await operation.plan("unpark-queue", queue="mail", rate="2/s"))

    async def abort() -> None:
        while operation.executor is None or len(ids(operation, "mail")) < 4:
            await operation.clock.sleep(0.1)
        operation.executor.brake.pull("bob")

    ran = await operation.run_and(path, abort)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    (owed,) = ran.end.report.owed
    assert owed.mend == f"celery-ops queue unpark {place(plan)}"
    assert len(ids(operation, "mail")) + len(ids(operation, place(plan))) == COUNT


async def test_a_broker_that_puts_nothing_first_gets_them_behind_the_others(
    operation: Operation,
) -> None:
    operation.broker.puts_first = False
    before = waiting(operation)["mail"]
    plan = await operation.plan("purge-queue", queue="mail")
    await operation.execute(plan)
    operation.fleet.send("mail", 0.1)
    later = waiting(operation)["mail"]
    restoring = await operation.plan("restore-queue", file=plan.moves[0].file)
    assert "behind those that wait there" in restoring.steps[1].actions[0].does
    await operation.execute(restoring)
    assert waiting(operation) == {"mail": later + before}


async def test_a_broker_that_is_away_for_a_moment_is_waited_for(operation: Operation) -> None:
    effects = 0

    def fall() -> None:
        nonlocal effects
        effects += 1
        operation.broker.is_down = effects == 2

    async def mend() -> None:
        while not operation.broker.is_down:
            await operation.clock.sleep(0.1)
        await operation.clock.sleep(5)
        operation.broker.is_down = False

    operation.broker.after_an_effect = fall
    ran = await operation.run_while("move-queue", mend, queue="mail", to="other", rate="20/s")
    assert ran.ending is Ending.DONE, ran.told()
    assert "It is tried again." in ran.told()
    assert len(ids(operation, "other")) == COUNT


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runbook", "params", "says"),
    [
        ("move-queue", {"to": "mail"}, "mail is where they are"),
        ("move-queue", {"to": str(Parked("mail", "r", "1"))}, "a queue of parked messages"),
        ("move-queue", {"to": "other", "filter": "retries > 5"}, "that waits in mail matches"),
        ("park-queue", {"queue": "empty"}, "no message waits in empty"),
        ("purge-queue", {"queue": "empty"}, "no message waits in empty"),
        ("backup-queue", {"queue": "empty"}, "no message waits in empty"),
        ("backup-queue", {"queue": "mial"}, "waits in mial (did you mean mail?)"),
        ("unpark-queue", {"queue": "mial"}, "mial is parked (did you mean mail?)"),
        ("backup-queue", {"file": f"{__file__}/x"}, "x cannot be written"),
        ("unpark-queue", {}, "nothing of mail is parked"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("queue") else "",
)
async def test_what_makes_no_sense_is_refused(
    operation: Operation, runbook: str, params: dict[str, str], says: str
) -> None:
    assert says in await refused(operation, runbook, **{"queue": "mail", **params})


async def test_a_limit_below_nothing_is_no_limit(operation: Operation) -> None:
    with pytest.raises(UsageError, match="not a limit: -3"):
        await operation.plan("move-queue", queue="mail", to="other", limit="-3")


async def test_a_broker_whose_messages_cannot_be_moved_is_refused_with_the_reason(
    operation: Operation,
) -> None:
    operation.broker.moves_messages = False
    says = await refused(operation, "purge-queue", queue="mail")
    assert says == (
        "step 2: the messages of this kind of broker can be looked at here, and not be moved"
    )


# --- killed, and gone on with -------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A run on what a fresh fleet has; before it, these."""

    name: str
    params: dict[str, str]
    purged: bool = False


FILE = "kept.backup"
CASES = {
    "move": Case("move-queue", {"queue": "mail", "to": "other", "filter": "task == 'app.odd'"}),
    "move-some": Case("move-queue", {"queue": "mail", "to": "other", "limit": "7"}),
    "park": Case("park-queue", {"queue": "mail"}),
    "purge": Case("purge-queue", {"queue": "mail", "filter": "task == 'app.odd'", "file": FILE}),
    "restore": Case("restore-queue", {"file": FILE}, purged=True),
    "backup": Case("backup-queue", {"queue": "mail", "file": FILE}),
}


async def prepared(directory: Path, case: Case) -> tuple[Operation, Path]:
    """An operation, and the journal of the run that is to be killed."""
    operation = with_mail(directory)
    params = {key: str(directory / value) if key == "file" else value
              for key, value in case.params.items()}  # fmt: skip
    if case.purged:
        await run(operation, "purge-queue", queue="mail", file=params["file"])
    return operation, operation.write_down(await operation.plan(case.name, **params))


@pytest.mark.parametrize("name", CASES)
async def test_killed_anywhere_and_gone_on_with_it_ends_as_if_it_had_not_been(
    tmp_path: Path, name: str
) -> None:
    """At each line of its journal, and after each effect before anybody heard of it."""
    case = CASES[name]
    operation, path = await prepared(tmp_path / "undisturbed", case)
    assert (await operation.take_up(path)).ending is Ending.DONE
    expected = waiting(operation)
    kept = tmp_path / "undisturbed" / FILE
    lines = kept.read_bytes().splitlines()[1:-1] if kept.exists() else []

    async def check(operation: Operation, path: Path, where: str) -> None:
        operation.broker.after_an_effect = lambda: None
        ran = await operation.take_up(path)
        assert ran.ending is Ending.DONE, f"{where}: {ran.told()}"
        assert waiting(operation) == expected, where
        if lines:
            assert (operation.directory / FILE).read_bytes().splitlines()[1:-1] == lines

    for when in ("before", "after"):
        for line in range(2, 100):
            operation, path = await prepared(tmp_path / f"{when}-{line}", case)
            if not await killed(operation, path, line, when):
                break
            await check(operation, path, f"{when} line {line}")
    for effect in range(1, 100):
        operation, path = await prepared(tmp_path / f"effect-{effect}", case)
        if not await killed_after(operation, path, effect):
            break
        await check(operation, path, f"after effect {effect}")


async def killed_after(
    operation: Operation, path: Path, effect: int, *, undo: bool = False
) -> bool:
    """Execute a run until it dies after so many effects; False: it ended before."""
    opened: list[MortalJournal] = []
    effects = 0

    def die() -> None:
        nonlocal effects
        effects += 1
        if effects >= effect:
            opened[0].dead.set()
            raise Killed

    def open_(path: Path, clock: Clock) -> MortalJournal:
        opened.append(MortalJournal(path, clock, 0, "never"))
        return opened[0]

    operation.broker.after_an_effect = die
    return await died(operation, path, open_, undo=undo)


# --- taken back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["move", "move-some", "park", "purge"])
async def test_aborted_anywhere_the_messages_are_where_they_were(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    operation, path = await prepared(tmp_path / "undisturbed", case)
    last = len((await operation.take_up(path)).events)
    for line in range(5, last):
        operation, path = await prepared(tmp_path / str(line), case)
        sent = sorted(waiting(operation)["mail"])
        ran = await told_at(operation, path, line, Message(Word.ABORT, "bob"))
        assert ran.end.state is RunState.ABORTED, ran.told()
        found = waiting(operation)
        if set(found) == {"mail"} and len(found["mail"]) == COUNT:
            assert sorted(found["mail"]) == sent
        else:
            assert ran.ending is Ending.ABORTED, ran.told()  # when all was done
            assert line >= last - 3


async def test_an_undo_moves_back_what_is_still_there_and_says_what_is_not(
    tmp_path: Path,
) -> None:
    operation, path = await prepared(tmp_path, CASES["move"])
    before = waiting(operation)["mail"]
    await operation.take_up(path)
    taken = operation.fleet.queues["other"].popleft()
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.DONE, ran.told()
    says = "9 of 10 messages moved back to mail; 1 had been consumed, or taken elsewhere, meanwhile"
    assert ran.end.says == says
    odd = [one for one in before[1::2] if one[0] != taken.id]
    assert waiting(operation) == {"mail": odd + before[::2]}


async def test_an_undo_of_a_purge_restores_it_and_so_does_nothing_else(tmp_path: Path) -> None:
    operation, path = await prepared(tmp_path, CASES["purge"])
    before = waiting(operation)["mail"]
    await operation.take_up(path)
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.DONE, ran.told()
    assert waiting(operation) == {"mail": before[1::2] + before[::2]}
    assert ran.end.says == f"10 messages put back from {tmp_path / FILE}"
    again = await refused(operation, "restore-queue", file=str(tmp_path / FILE))
    assert "was restored before" in again


async def test_an_undo_of_a_purge_that_died_over_its_file_leaves_nothing_of_it(
    tmp_path: Path,
) -> None:
    operation, path = await prepared(tmp_path, CASES["purge"])
    before = sorted(waiting(operation)["mail"])
    await killed_after(operation, path, 1)
    operation.broker.after_an_effect = lambda: None
    left = tmp_path / f".{FILE}.{journal_run(operation)}-2.part"
    left.write_bytes(b"{")
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.DONE, ran.told()
    assert sorted(waiting(operation)["mail"]) == before
    assert not is_there(left)


@pytest.mark.parametrize("effect", range(1, 12))
async def test_an_undo_that_is_killed_gives_nothing_back_twice(tmp_path: Path, effect: int) -> None:
    for name in ("move", "park", "purge"):
        operation, path = await prepared(tmp_path / name, CASES[name])
        before = sorted(waiting(operation)["mail"])
        await operation.take_up(path)
        await killed_after(operation, path, effect, undo=True)
        operation.broker.after_an_effect = lambda: None
        ran = await operation.take_up(path, undo=True)
        assert ran.ending is Ending.DONE, ran.told()
        found = waiting(operation)
        assert set(found) == {"mail"}, name
        assert sorted(found["mail"]) == before, name


def journal_run(operation: Operation) -> str:
    (path, *_) = sorted((operation.directory / "runs").glob("*.jsonl"), reverse=True)
    plan = json.loads(path.read_text().splitlines()[0])["plan"]
    return str(plan["run"])
