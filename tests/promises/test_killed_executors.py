"""An executor is killed in the act, and the run gone on with: it ends as if nothing had happened.

Real workers under load, a real scheduler, the real command. Each verb, killed before its effect,
while it takes place, and after it. Six of all these deaths are died each time; with `--every-death`
all of them are, and the runs that nobody disturbs too, against the same expectations:

    python -m pytest -n 2 --every-death tests/promises/test_killed_executors.py
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.terminal import Terminal
from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.mortal import Death, When
from tests.rig.operations import COMMON, Operations, Program, operations
from tests.rig.operator import Said
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

SEED = 20261125
FIRSTS = itertools.count(0, 100_000)
"""The number of the first task of each test."""
SAMPLE = 6
NODE = "w@rig"
BEAT = "supervisord beat on local"
ALONE = ("-p", "allow_gap=w")
MARKED = """
name: marked
summary: Drains a worker, runs a command that leaves its mark, and gives the queues back.
risk: low
params:
  workers: {type: workers}
steps:
  - roll: ${{ params.workers }}
    batch: 1
    steps:
      - drain: worker
        timeout: 1m
      - run: [sh, -c, 'echo done >> marks']
        timeout: 10s
      - resume: worker
        timeout: 1m
    verify:
      that: [worker.online]
      timeout: 1m
"""
RESIZED = """
name: resized
summary: Gives a pool another size.
risk: low
params:
  to: {type: integer}
steps:
  - scale: w@rig
    to: ${{ params.to }}
    timeout: 1m
"""
LIMITED = """
name: limited
summary: Limits a task's rate.
risk: low
steps:
  - control: rate_limit
    on: w@rig
    args: {task_name: rig.limited, rate_limit: 2/h}
"""
TOLD = """
name: told
summary: Tells somebody, and nothing else.
risk: low
steps:
  - notify: [sh, -c, 'echo told >> marks']
"""
REBEAT = """
name: rebeat
summary: Another life of the scheduler.
risk: low
steps:
  - restart: beat
"""
RUNBOOKS = {
    "marked": MARKED, "resized": RESIZED, "limited": LIMITED, "told": TOLD, "rebeat": REBEAT,
}  # fmt: skip
LIMIT_SET = "New rate limit for tasks of type rig.limited"


@dataclass(frozen=True)
class Came:
    """What is left of a run: the same however often its executor died."""

    state: str = "succeeded"
    ending: str = "done"
    done: tuple[str, ...] = (NODE,)
    lives: int = 0
    """How many new incarnations there were, of the worker and of the scheduler."""
    taken: tuple[str, ...] = ()
    queues: tuple[str, ...] | None = (COMMON, "w")
    """What the worker consumes; None: it is stopped."""
    marks: int = 0
    """How often a command or a control command was carried out."""
    processes: int = 1
    """In the worker's pool; 0: it is stopped."""
    beat: bool = True


@dataclass(frozen=True)
class Case:
    """A command, the acts in it, and how it ends."""

    command: tuple[str, ...]
    acts: tuple[str, ...]
    came: Came
    before: tuple[str, ...] = ()
    mend: tuple[str, ...] = ()
    asks: bool = False
    """Only somebody who looks can tell whether it was done."""
    owes: str = ""
    """What is left drained until that was told."""

    @property
    def moments(self) -> tuple[When, ...]:
        """A command is over with the next word that is heard of it."""
        return (When.BEFORE, When.AFTER) if self.asks or "notify" in self.acts else tuple(When)


DRAIN = ("worker", "drain", NODE, *ALONE)
RESUME = ("worker", "resume", NODE)
STOP = ("worker", "stop", NODE, *ALONE)
START = ("worker", "start", NODE)
PAUSE = ("queue", "pause", "w")
GIVE_BACK = ("queue", "resume", "w")
CASES = {
    "drain": Case(DRAIN, ("drain",), Came(taken=(f"queues:{NODE}",), queues=()), mend=RESUME),
    "resume": Case(RESUME, ("resume",), Came(), before=DRAIN),
    "stop": Case(
        STOP, ("stop",), Came(taken=(f"service:{NODE}",), queues=None, processes=0), mend=START
    ),
    "start": Case(START, ("start",), Came(lives=1), before=STOP),
    "restart": Case(
        ("worker", "restart", NODE, *ALONE, "-p", "hold=1s"), ("stop", "start"), Came(lives=1)
    ),
    "run": Case(
        ("runbook", "marked", "-p", f"workers={NODE}", *ALONE), ("run",), Came(marks=1),
        asks=True, owes=f"worker resume {NODE}",
    ),
    "scale": Case(
        ("runbook", "resized", "-p", "to=2"), ("scale",), Came(processes=2),
        mend=("runbook", "resized", "-p", "to=1"),
    ),
    "control": Case(("runbook", "limited"), ("control",), Came(marks=1), asks=True),
    "notify": Case(("runbook", "told"), ("notify",), Came(done=(), marks=1)),
    "pause-queue": Case(
        PAUSE, ("pause queue",), Came(done=(), taken=(f"paused:{NODE}:w",), queues=(COMMON,)),
        mend=GIVE_BACK,
    ),
    "resume-queue": Case(GIVE_BACK, ("resume queue",), Came(done=()), before=PAUSE),
    "stop-beat": Case(
        ("beat", "stop"), ("stop",), Came(done=(BEAT,), taken=(f"service:{BEAT}",), beat=False),
        mend=("beat", "start"),
    ),
    "start-beat": Case(
        ("beat", "start"), ("start",), Came(done=(BEAT,), lives=1), before=("beat", "stop")
    ),
    "restart-beat": Case(
        ("runbook", "rebeat"), ("stop", "start"), Came(done=(BEAT,), lives=1)
    ),
}  # fmt: skip
NOT_TOLD = Came(done=(), marks=0)
"""Nobody is told twice: what was begun is not begun again, though it may never have been done."""


@dataclass(frozen=True)
class Scene:
    """A case, and where its executor dies; None: nowhere."""

    case: str
    death: Death | None

    def __str__(self) -> str:
        return f"{self.case}-{self.death or 'undisturbed'}"


def every_scene(case: str) -> list[Scene]:
    """All deaths of a verb."""
    return [
        Scene(case, Death(act, when)) for act in CASES[case].acts for when in CASES[case].moments
    ]


def some_scenes() -> list[Scene]:
    """One death of each of some verbs, the same ones each time."""
    cases = sorted(CASES, key=_drawn)[:SAMPLE]
    return [min(every_scene(case), key=lambda scene: _drawn(str(scene))) for case in cases]


def _drawn(name: str) -> str:
    return hashlib.sha256(f"{SEED} {name}".encode()).hexdigest()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scene" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--every-death"):
        scenes = [scene for case in CASES for scene in (Scene(case, None), *every_scene(case))]
    else:
        scenes = some_scenes()
    metafunc.parametrize("scene", scenes, ids=str)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    programs = (Program("w", pool="prefork"), Program("other"), Program("beat", beat=True))
    with operations(tmp_path_factory.mktemp("fleet"), *programs) as made:
        for name, text in RUNBOOKS.items():
            write_runbook(made.folder, name, text)
        yield made


@pytest.fixture
def load(fleet: Operations) -> Iterator[None]:
    """Numbered tasks all the time, in the worker's own queue too; in the end each ran once."""
    with Load(fleet.fleet, "w", COMMON, first=next(FIRSTS), every=0.3) as load:
        wait_until(lambda: load.sent > 2, what="some tasks")
        yield
    wait_until(lambda: fleet.consumes_all("w", "other"), what="all is as it was")
    load.settle()
    assert load.twice() == []
    assert fleet.nothing_is_taken()


@pytest.mark.usefixtures("load")
def test_a_run_whose_executor_is_killed_in_the_act_ends_as_if_it_had_not_been(
    scene: Scene, fleet: Operations, ann: Operator
) -> None:
    case = CASES[scene.case]
    if case.before:
        begun = ann.do(*case.before, "--yes")
        assert begun.code == 0, begun.all
    before = so_far(fleet)
    if scene.death is None:
        said = ann.do(*case.command, "--yes")
    else:
        said = killed_and_resumed(scene, fleet, ann)
    assert said.code == 0, said.all
    is_not_told = scene.case == "notify" and scene.death == Death("notify", When.BEFORE)
    assert came_of(fleet, ann, before) == (NOT_TOLD if is_not_told else case.came), said.all
    (ann.home / "marks").unlink(missing_ok=True)
    if case.mend:
        mended = ann.do(*case.mend, "--yes")
        assert mended.code == 0, mended.all


def killed_and_resumed(scene: Scene, fleet: Operations, ann: Operator) -> Said:
    assert scene.death is not None
    case = CASES[scene.case]
    variables = scene.death.variables(ann.home / "mortal")
    said = ann.do(*case.command, "--yes", **variables)
    run = ann.journals()[-1].stem
    has_taken = any(record["run"] == run for record in taken(fleet).values())
    assert said.code == (4 if has_taken else 9), said.all
    assert f"celery-ops runs resume {run} goes on with it" in said.err
    assert ann.do("runs", "--json").json["runs"][0]["state"] == "interrupted"
    resumed = ann.do("runs", "resume")
    if not case.asks:
        return resumed
    # Nobody is asked without a terminal, and what was taken before stays taken.
    assert resumed.code == (4 if case.owes else 8), resumed.all
    assert "it is not known how it ended. Nobody is there to say so" in resumed.all
    assert case.owes in resumed.all
    return resumed_by_hand(ann, "again" if scene.death.when is When.BEFORE else "done")


def resumed_by_hand(ann: Operator, answer: str) -> Said:
    """In a terminal, where it is asked whether the command was done."""
    argv = ann.argv("runs", "resume")
    terminal = Terminal(argv, cwd=ann.home, env=ann.environment())
    terminal.wait_for("done, again or stop?")
    terminal.type(f"{answer}\n")
    return Said(terminal.end(), terminal.seen, "")


def taken(fleet: Operations) -> dict[str, dict[str, str]]:
    """What is taken, as the broker has it, by key."""
    entries: Any = fleet.redis.hgetall("celery-ops:taken")
    return {key.decode(): json.loads(value) for key, value in entries.items()}


def so_far(fleet: Operations) -> tuple[int, int]:
    """New incarnations, and control commands that were carried out."""
    return fleet.spawned("w") + fleet.spawned("beat"), fleet.rig.log("w").count(LIMIT_SET)


def came_of(fleet: Operations, ann: Operator, before: tuple[int, int]) -> Came:
    outcome = ann.events()[-1]["outcome"]
    marks = ann.home / "marks"
    pid = fleet.pid("w")
    lives, limits = (now - then for now, then in zip(so_far(fleet), before, strict=True))
    return Came(
        state=outcome["state"],
        ending=outcome["ending"],
        done=tuple(outcome["report"].get("done", ())),
        lives=lives,
        taken=tuple(taken(fleet)),
        queues=tuple(queue["name"] for queue in fleet.consumed_by(NODE)) if pid else None,
        marks=limits + (len(marks.read_text().splitlines()) if marks.exists() else 0),
        processes=len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) if pid else 0,
        beat=fleet.pid("beat") > 0,
    )
