"""A broker that goes away in the midst of a move and comes back knowing less of it, as after a
fail-over: what is said afterwards is so, on the stand-in.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import parked
from celery_ops.runbook.backups import read
from celery_ops.runbook.events import Ending, EventKind, Outcome, Result
from tests.runbook.test_moving import COUNT, ids, with_mail
from tests.runbook.test_ramp import COUNT as BACKLOG
from tests.runbook.test_ramp import PER_SECOND, RAMP, is_as_before, with_backlog

if TYPE_CHECKING:
    from celery_ops.runbook.journal import Event
    from tests.runbook.operation import Operation
    from tests.standin.parts import Message

AWAY = 5.0
"""Seconds."""
LOST = Outcome(Result.UNKNOWN, "")


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return with_mail(tmp_path)


class FailOver:
    """Goes away after an effect; forgets that one and those before it, up to `forgets` of them."""

    def __init__(self, operation: Operation, *, after: int, forgets: int) -> None:
        self._operation = operation
        self._after = after
        self._forgets = forgets
        self._known: list[tuple[dict[str, deque[Message]], Counter[str]]] = []
        self.is_over = False
        self._keep()
        operation.broker.after_an_effect = self._step

    async def over(self) -> None:
        """Until it is there again."""
        operation = self._operation
        while not operation.broker.is_down:
            await operation.clock.sleep(0.1)
        await operation.clock.sleep(AWAY)
        operation.broker.is_down = False

    def _step(self) -> None:
        if self.is_over:
            return
        self._keep()
        if len(self._known) > self._after:
            self.is_over = self._operation.broker.is_down = True
            queues, tickets = self._known[-1 - self._forgets]
            self._operation.fleet.queues = queues
            self._operation.broker.tickets = tickets

    def _keep(self) -> None:
        operation = self._operation
        self._known.append(deepcopy((operation.fleet.queues, operation.broker.tickets)))


@pytest.mark.parametrize("forgets", [0, 1, 2], ids=["nothing", "one", "two"])
async def test_a_move_goes_on_to_its_limit_and_claims_nothing_else(
    operation: Operation, forgets: int
) -> None:
    """What it could not tell it counts once, and none that it meant is said to have stayed."""
    before = ids(operation, "mail")
    odd = before[1::2]
    fail_over = FailOver(operation, after=3, forgets=forgets)
    ran = await operation.run_while(
        "move-queue", fail_over.over, queue="mail", to="other", limit="7", rate="20/s",
        filter="age > 5m or task == 'app.odd'",
    )  # fmt: skip
    assert ran.ending is Ending.DONE, ran.told()
    assert fail_over.is_over
    assert "It is tried again." in ran.told()
    assert ids(operation, "other") == odd[:7]
    assert ids(operation, "mail") == [id_ for id_ in before if id_ not in odd[:7]]
    assert "7 messages of mail moved to other" in ran.end.says
    assert ran.end.says.endswith("; 13 wait in mail now")
    assert "did not go" not in ran.end.says
    # Of the last portion nobody had been told.
    assert ("has forgotten that" in ran.told()) == (forgets > 1)


async def test_what_did_not_move_meanwhile_does_not_come_at_once(operation: Operation) -> None:
    """A rate spares whoever the tasks need: after a pause as well."""
    fail_over = FailOver(operation, after=3, forgets=0)
    moved: list[int] = []

    async def watch() -> None:
        await fail_over.over()
        while True:
            moved.append(len(ids(operation, "other")))
            await operation.clock.sleep(1.0)

    ran = await operation.run_while("move-queue", watch, queue="mail", to="other", rate="2/s")
    assert ran.ending is Ending.DONE, ran.told()
    assert len(ids(operation, "other")) == COUNT
    assert max(later - before for before, later in itertools.pairwise(moved)) <= 4


async def test_an_old_master_that_came_back_empty_is_not_believed_at_once(
    operation: Operation,
) -> None:
    """Until its sentinels have told it that it is none any more, it answers as one."""

    async def come_back() -> None:
        while len(ids(operation, "other")) < 6:
            await operation.clock.sleep(0.1)
        known = operation.fleet.queues, operation.broker.tickets
        operation.fleet.queues, operation.broker.tickets = {"mail": deque()}, Counter()
        await operation.clock.sleep(AWAY)
        operation.fleet.queues, operation.broker.tickets = known

    ran = await operation.run_while("move-queue", come_back, queue="mail", to="other", rate="2/s")
    assert ran.ending is Ending.DONE, ran.told()
    assert "that were moved are not counted: all is looked at once more in 10s" in ran.told()
    assert ran.end.says == f"{COUNT} messages of mail moved to other; 0 wait in mail now"
    assert len(ids(operation, "other")) == COUNT


@pytest.mark.parametrize("puts_first", [True, False], ids=["first", "behind"])
@pytest.mark.parametrize("forgets", [0, 1, 2], ids=["nothing", "one", "two"])
async def test_a_restore_puts_back_what_was_forgotten_and_blames_nobody(
    operation: Operation, forgets: int, puts_first: bool
) -> None:
    operation.broker.puts_first = puts_first
    before = ids(operation, "mail")
    plan = await operation.plan("purge-queue", queue="mail")
    assert (await operation.execute(plan)).ending is Ending.DONE
    assert ids(operation, "mail") == []
    fail_over = FailOver(operation, after=3, forgets=forgets)
    ran = await operation.run_while(
        "restore-queue", fail_over.over, file=plan.moves[0].file, rate="10/s"
    )
    assert ran.ending is Ending.DONE, ran.told()
    assert fail_over.is_over
    assert ids(operation, "mail") == before
    assert (f"{COUNT} wait there now") in ran.end.says
    assert ("the broker has forgotten" in ran.told()) == (forgets > 0)


@pytest.mark.parametrize("loses", [False, True], ids=["a fail-over", "all is lost"])
@pytest.mark.parametrize("undone", [False, True], ids=["ended", "undone"])
async def test_a_purge_whose_parking_was_forgotten_is_none_and_restores_nothing(
    operation: Operation, undone: bool, loses: bool
) -> None:
    """The file is written by then. Whoever restored it might have each message twice, and whoever
    removed it might have none.
    """
    before = ids(operation, "mail")
    plan = await operation.plan("purge-queue", queue="mail")
    (move,) = plan.moves
    known = deepcopy(operation.fleet.queues)

    def forget(event: Event) -> None:
        if event.event is EventKind.INTENT and event.verb == "purge":
            operation.fleet.queues = {"mail": deque()} if loses else known
            operation.broker.tickets = Counter()

    path = operation.write_down(plan)
    ran = await operation.take_up(path, then=forget)
    assert ran.ending is not Ending.DONE, ran.told()
    assert "has forgotten what was parked" in ran.end.says
    assert "purged" not in ran.end.says
    if undone:
        ran = await operation.take_up(path, undo=True)
        assert ran.ending is not Ending.DONE, ran.told()
        assert "has forgotten what was parked" in ran.told()
    assert ids(operation, "mail") == ([] if loses else before)
    assert (await read(Path(move.file))).count == COUNT


# --- between any two lines ----------------------------------------------------------------------


class Forgets:
    """Forgets the last effects, up to so many of them, at one look at the broker, whatever is asked
    then. No connection notices; and it happens before the last result, whose claims are to hold.
    """

    def __init__(self, operation: Operation, *, at: int, effects: int) -> None:
        self._operation = operation
        self._at = at
        self._effects = effects
        self._looks = 0
        self._known: list[tuple[dict[str, deque[Message]], Counter[str]]] = []
        self.is_over = False
        self.results = self.results_before = 0
        operation.broker.before_a_look = self._look

    def hears(self, event: Event) -> None:
        self.results += event.event is EventKind.RESULT

    def _look(self) -> None:
        operation = self._operation
        state = (operation.fleet.queues, operation.broker.tickets)
        if not self._known or self._known[-1] != state:
            self._known.append(deepcopy(state))
        self._looks += 1
        if self._looks == self._at and not self.is_over:
            self.is_over, self.results_before = True, self.results
            queues, tickets = self._known[max(0, len(self._known) - 1 - self._effects)]
            operation.fleet.queues, operation.broker.tickets = deepcopy((queues, tickets))


@dataclass(frozen=True)
class Case:
    """A run, and what it comes to. `undo`: it came to its end, and is taken back."""

    runbook: str
    params: dict[str, str]
    says: str
    undo: bool = False


SOME = {"queue": "mail", "filter": "task == 'app.odd'"}
EACH = {
    "move": Case("move-queue", SOME | {"to": "other"}, "10 messages of mail moved to other"),
    "park": Case("park-queue", SOME, "10 messages of mail parked"),
    "purge": Case("purge-queue", SOME, "10 messages of mail purged"),
    "restore": Case("restore-queue", {}, "20 wait there now"),
    "unpark": Case("unpark-queue", {"queue": "mail"}, "10 messages of celery-ops.parked"),
    "move, undone": Case(
        "move-queue", SOME | {"to": "other"}, "10 of 10 messages moved back to mail", undo=True
    ),
    "park, undone": Case("park-queue", SOME, "10 messages given back to mail", undo=True),
    "purge, undone": Case("purge-queue", SOME, "10 messages put back from", undo=True),
}


async def prepared(directory: Path, case: Case) -> tuple[Operation, Path]:
    """What the case begins with; and the journal of its run."""
    operation = with_mail(directory)
    params = dict(case.params)
    if case.runbook == "restore-queue":
        purged = await operation.run("purge-queue", **SOME)
        assert purged.ending is Ending.DONE
        (made,) = (directory / "backups").iterdir()
        params["file"] = str(made)
    if case.runbook == "unpark-queue":
        assert (await operation.run("park-queue", **SOME)).ending is Ending.DONE
    path = operation.write_down(await operation.plan(case.runbook, **params))
    if case.undo:
        assert (await operation.take_up(path)).ending is Ending.DONE
    return operation, path


def everywhere(operation: Operation) -> dict[str, list[str]]:
    """The ids of what waits, by where: parked messages are of one queue."""
    queues = {name: [one.id for one in queue] for name, queue in operation.fleet.queues.items()}
    return {name.partition(".mail.")[0]: found for name, found in queues.items() if found}


@pytest.mark.parametrize("effects", [1, 99], ids=["the last", "all"])
@pytest.mark.parametrize("name", EACH)
async def test_whatever_is_forgotten_before_the_result_what_that_says_is_so(
    tmp_path: Path, name: str, effects: int
) -> None:
    """It ends as it would have without that. Only a purge whose file has been written goes on with
    nothing, destroys nothing, and says so.
    """
    case = EACH[name]
    operation, path = await prepared(tmp_path / "undisturbed", case)
    assert (await operation.take_up(path, undo=case.undo)).ending is Ending.DONE
    meant = everywhere(operation)
    for at in range(1, 200):
        operation, path = await prepared(tmp_path / str(at), case)
        before = sorted(itertools.chain(*everywhere(operation).values()))
        forgets = Forgets(operation, at=at, effects=effects)
        ran = await operation.take_up(path, undo=case.undo, then=forgets.hears)
        told = f"look {at}: {ran.told()}"
        if forgets.results_before == forgets.results or not forgets.is_over:
            assert at > 5, told
            break
        if name == "purge" and ran.ending is not Ending.DONE:
            assert "nothing was destroyed" in ran.end.says, told
            assert sorted(itertools.chain(*everywhere(operation).values())) == before, told
            continue
        assert ran.ending is Ending.DONE, told
        assert case.says in ran.end.says, told
        found = everywhere(operation)
        if name == "purge" and "celery-ops.parked" in found:
            (left,) = ran.end.report.left_parked if ran.end.report else ()
            assert left.says.startswith("10 messages of mail in celery-ops.parked"), told
            del found["celery-ops.parked"]
        if name == "move, undone":  # in two parts, of which the one that was lost comes first
            found, meant = (
                {key: sorted(ids) for key, ids in one.items()} for one in (found, meant)
            )
        assert found == meant, told


async def test_a_server_that_has_lost_all_is_told_of_and_no_move_is_claimed(
    operation: Operation,
) -> None:
    """As one that keeps nothing on disk, or a replica that never had it."""

    def lose(event: Event) -> None:
        if event.event is EventKind.PROGRESS and "of about" in (event.outcome or LOST).says:
            operation.fleet.queues = {"mail": deque()}
            operation.broker.tickets = Counter()

    path = operation.write_down(
        await operation.plan("move-queue", queue="mail", to="other", rate="2/s")
    )
    ran = await operation.take_up(path, then=lose)
    assert ran.ending is Ending.DONE, ran.told()
    assert "the broker has forgotten that" in ran.told()
    assert ran.end.says.startswith("no messages of mail moved to other; ")
    assert "more had gone, which the broker has forgotten, and they were not found" in ran.end.says
    assert ran.end.says.endswith("0 wait in mail now")


async def test_a_ramp_resumes_nothing_before_its_backlog_is_parked(tmp_path: Path) -> None:
    """Where it is not parked any more, it would come all at once."""
    operation = await with_backlog(tmp_path)
    path = operation.write_down(await operation.plan("ramp-queue", **RAMP))
    known = [deepcopy(operation.fleet.queues)]

    def forget(event: Event) -> None:
        is_parked = event.event is EventKind.RESULT and event.count == BACKLOG
        if is_parked and event.target == "mail" and known:
            operation.fleet.queues = known.pop()
            operation.broker.tickets = Counter()

    began = operation.clock.elapsed
    ran = await operation.take_up(path, then=forget)
    assert ran.ending is Ending.DONE, ran.told()
    assert "has forgotten what was parked: it is parked again" in ran.told()
    assert is_as_before(operation)
    assert operation.clock.elapsed - began >= BACKLOG / PER_SECOND - 1


async def test_a_ramp_says_what_came_at_once_since_it_was_parked_no_more(tmp_path: Path) -> None:
    operation = await with_backlog(tmp_path)
    path = operation.write_down(await operation.plan("ramp-queue", **RAMP))

    def forget(event: Event) -> None:
        if event.event is EventKind.INTENT and event.verb == "unpark":
            for name in [one for one in operation.fleet.queues if parked(one) is not None]:
                operation.fleet.queues["mail"].extend(operation.fleet.queues.pop(name))
            operation.broker.tickets = Counter()

    ran = await operation.take_up(path, then=forget)
    assert ran.ending is Ending.DONE, ran.told()
    assert f"; {BACKLOG} more had been parked and were not there any more" in ran.end.says
    assert is_as_before(operation)


@pytest.mark.parametrize("name", EACH)
async def test_what_came_to_its_good_end_leaves_no_ticket_but_a_backup_s(
    tmp_path: Path, name: str
) -> None:
    """A backup can be restored as long as there is a file, and is restored once."""
    case = EACH[name]
    operation, path = await prepared(tmp_path, case)
    assert (await operation.take_up(path, undo=case.undo)).ending is Ending.DONE
    left = [ticket for ticket, count in operation.broker.tickets.items() if count]
    assert all(ticket.startswith("backup ") for ticket in left)
    assert len(left) == (name in {"restore", "purge, undone"})
