"""Runs of the real command on a real demo: what is asked, what happens, how it ends.

One demo for all of them, since starting one takes seconds; each test leaves its workers online.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import OpsCommand
from tests.cli.terminal import Terminal
from tests.demo.conftest import require_servers
from tests.rig import end, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Done

pytestmark = pytest.mark.rig

_FAILS = """
name: fails-{how}
summary: Drains a worker, and then finds a condition that never holds.
risk: low
params:
  workers: {{type: workers}}
steps:
  - confirm: "Really?"
  - roll: ${{{{ params.workers }}}}
    batch: 1
    keep_available: 0
    on_fail: {how}
    steps:
      - drain: worker
        timeout: 60s
      - check: worker.pid == 0
    verify:
      that: [worker.online]
      timeout: 30s
"""
_LINGERS = """
name: lingers
summary: Drains a worker and then waits for what does not come.
risk: high
params:
  workers: {type: workers}
steps:
  - confirm: "Linger on ${{ targets.count }} worker?"
  - roll: ${{ params.workers }}
    batch: 1
    keep_available: 0
    on_fail: ask
    steps:
      - drain: worker
        timeout: 60s
      - wait: for ever
        until: worker.pid == 0
        timeout: 5m
    verify:
      that: [worker.online]
      timeout: 30s
"""
_IDLES = """
name: idles
summary: Waits for what does not come, and changes nothing.
risk: low
steps:
  - wait: for ever
    until: fleet.workers == 0
    timeout: 5m
"""


class Fleet:
    """A demo that runs without a screen, and the command on it."""

    def __init__(self, home: Path) -> None:
        self.ops = OpsCommand(home)
        self.start()

    def start(self) -> None:
        self._process = self.ops.start("demo", "--headless")
        assert self._process.stdout is not None
        self.greeting = self._process.stdout.readline().decode()
        self.name = self.greeting.partition(" ")[0]
        wait_until(self.is_well, what="four workers of the demo", timeout=60)
        config = json.loads((self.ops.state / "demos" / f"{self.name}.json").read_text())["config"]
        self.logs = Path(config).parent / "logs"
        runbooks = Path(config).parent / "runbooks"
        runbooks.mkdir()
        for how in ("stop", "undo", "ask"):
            (runbooks / f"fails-{how}.yaml").write_text(_FAILS.format(how=how))
        (runbooks / "lingers.yaml").write_text(_LINGERS)
        (runbooks / "idles.yaml").write_text(_IDLES)
        found = re.search(r"redis://:([^@]+)@[0-9.:]+/0", Path(config).read_text())
        assert found is not None
        self.broker, self.password = found[0], found[1]

    def __call__(self, *arguments: str) -> Done:
        return self.ops("-c", "demo", *arguments)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self("status", "--json").document
        return document

    def is_well(self) -> bool:
        done = self("status", "--json")
        if done.code != 0:
            return False
        states = [worker["state"] for worker in done.document["workers"]]
        owes = done.document["taken"] or done.document["holder"]
        return states == ["online"] * 4 and not owes

    def worker(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(
            worker for worker in self.status()["workers"] if worker["name"] == name
        )
        return found

    def terminal(self, *arguments: str) -> Terminal:
        argv = self.ops.argv("-c", "demo", *arguments)
        return Terminal(argv, cwd=self.ops.home, env=self.ops.environment())

    def newest_run(self) -> dict[str, Any]:
        run: dict[str, Any] = self("runs", "--json").document["runs"][0]
        return run

    def executor(self) -> int:
        """The pid of the newest run's executor."""
        path = self.ops.state / "runs" / f"{self.newest_run()['id']}.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        started = next(event for event in events if event["event"] == "started")
        return int(started["intent"].split()[1])

    def traces_of_lost(self, told: str) -> str:
        """What the ledger told, and the lines of the demo's logs that name what was lost."""
        ids = re.findall(r"^lost: ([^/ ]+)", told, re.MULTILINE)
        lines = [
            f"{log.name}: {line}"
            for log in sorted(self.logs.glob("*.log*"))
            for line in log.read_text(errors="replace").splitlines()
            if any(id_ in line for id_ in ids) or " ERROR" in line or "Traceback" in line
        ]
        return "\n".join([told, *lines])

    def put_right(self) -> None:
        """So that a test that failed fails alone."""
        for run in self("runs", "--json").document["runs"]:
            if run["state"] in {"planned", "waiting", "running", "paused"}:
                self("runs", "abort", run["id"])
                self("runs", "follow", run["id"])
        for record in self.status()["taken"]:
            self("worker", "resume", record["worker"], "--yes", "--wait", "1m")

    def stop(self) -> tuple[int, str]:
        """Stop it from another terminal; its exit code, and what it said at its end."""
        assert self._process.stderr is not None
        assert self._process.stdout is not None
        with self._process.stdout, self._process.stderr:
            assert self("demo", "stop").code == 0
            code = self._process.wait(30)
            return code, self._process.stderr.read().decode()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def abandon(self) -> None:
        end(self._process)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    require_servers()
    fleet = Fleet(tmp_path_factory.mktemp("cli") / "home")
    yield fleet
    fleet.abandon()


@pytest.fixture
def fleet(demo: Fleet) -> Iterator[Fleet]:
    if demo.has_ended():
        demo.start()
    yield demo
    demo.put_right()
    wait_until(demo.is_well, what="all workers online, nothing taken or held", timeout=60)


@pytest.fixture
def on_terminal(fleet: Fleet) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*arguments: str) -> Terminal:
        opened.append(fleet.terminal(*arguments))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()
        end(terminal.process)


def events_of(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def test_a_plan_names_everything_and_changes_nothing(fleet: Fleet) -> None:
    before = fleet.newest_run() if (fleet.ops.state / "runs").exists() else None
    done = fleet("runbook", "rolling-restart", "--plan")
    assert done.code == 0, done.err
    for words in ("prefork1@demo", "cancel_consumer", "supervisorctl", "undo:", "1 canary"):
        assert words in done.out
    as_json = fleet("runbook", "rolling-restart", "--plan", "--json")
    assert len(as_json.document["targets"]) == 4
    assert before == (fleet.newest_run() if before else None)


def test_a_restart_is_done_and_every_event_of_it_is_a_line_of_json(fleet: Fleet) -> None:
    before = fleet.worker("prefork1@demo")["pid"]
    done = fleet("worker", "restart", "prefork1@demo", "-p", "hold=1s", "--yes", "--json")
    assert done.code == 0, done.err
    events = events_of(done)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["event"] == "planned"
    assert events[-1]["outcome"]["ending"] == "done"
    assert "succeeded" in done.err
    assert fleet.worker("prefork1@demo")["pid"] != before
    run = fleet.newest_run()
    assert run["state"] == "succeeded"
    assert fleet("runs", "show", run["id"]).code == 0
    assert fleet("runs", "show", run["id"][-4:], "--json").out == done.out
    assert fleet("runs", "follow", run["id"]).code == 0


def test_drain_shows_what_is_taken_and_resume_gives_it_back(fleet: Fleet) -> None:
    assert fleet("worker", "drain", "prefork1@demo", "--yes").code == 0
    status = fleet.status()
    assert [one["worker"] for one in status["taken"]] == ["prefork1@demo"]
    assert status["taken"][0]["queues"] == ["default", "reports"]
    shown = fleet("status").out
    assert "taken: prefork1@demo: queues default, reports by" in shown, shown
    assert "give it back: celery-ops -c demo worker resume prefork1@demo" in shown
    assert fleet("worker", "resume", "prefork1@demo", "--yes").code == 0


def test_1_stopped_on_a_failure_with_what_was_taken_given_back(fleet: Fleet) -> None:
    done = fleet("runbook", "fails-stop", "-p", "workers=threads1@demo", "--yes")
    assert done.code == 1, done.out + done.err
    assert "failed: threads1@demo" in done.out


def test_1_a_question_that_nobody_can_answer_means_stop(fleet: Fleet) -> None:
    done = fleet("runbook", "fails-ask", "-p", "workers=threads1@demo", "--yes")
    assert done.code == 1, done.out + done.err
    assert "nobody is there to answer" in done.out


def test_3_failed_and_the_batch_was_undone(fleet: Fleet) -> None:
    done = fleet("runbook", "fails-undo", "-p", "workers=threads1@demo", "--yes")
    assert done.code == 3, done.out + done.err


def test_4_a_killed_executor_leaves_a_worker_drained_and_it_is_said(fleet: Fleet) -> None:
    process = fleet.ops.start(
        "-c", "demo", "runbook", "lingers", "-p", "workers=prefork2@demo", "--yes"
    )
    try:
        wait_until(lambda: bool(fleet.status()["taken"]), what="prefork2 drained", timeout=30)
        os.kill(fleet.executor(), signal.SIGKILL)
        out, err = process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 4, (out, err)
    assert f"celery-ops -c {fleet.name} worker resume prefork2@demo" in err.decode()
    run = fleet.newest_run()
    assert run["state"] == "interrupted"
    for command in (("resume", run["id"]), ("undo", run["id"], "--yes")):
        refused = fleet.ops("-b", fleet.broker.removesuffix("0") + "1", "runs", *command)
        assert refused.code == 7, (refused.out, refused.err)
        assert "this is another broker" in refused.err
    assert fleet.newest_run() == run
    # Another operator, who has neither the journal nor the configuration. The dead run's lease
    # expires by itself, which is waited for.
    other = OpsCommand(fleet.ops.home.parent / "other")
    told = other("-b", fleet.broker, "status", "--json")
    assert [one["run"] for one in told.document["taken"]] == [fleet.newest_run()["id"]]
    assert other("-b", fleet.broker, "runs", "adopt", "nosuchrun", "--yes").code == 2
    mend = ("runs", "adopt", fleet.newest_run()["id"], "--yes", "--wait", "1m")
    mended = other("-b", fleet.broker, *mend)
    assert mended.code == 0, mended.err


def test_6_somebody_else_holds_the_lease_and_is_named(fleet: Fleet) -> None:
    lingering = ("runbook", "lingers", "-p", "workers=prefork2@demo", "--yes", "--detach")
    run = fleet(*lingering)
    assert run.code == 0, run.err
    id_ = run.out.strip()
    try:
        wait_until(lambda: fleet.status()["holder"] is not None, what="the lease", timeout=30)
        done = fleet("worker", "drain", "threads1@demo", "--yes")
        assert done.code == 6, done.err
        assert id_ in done.err
        assert "lingers" in done.err
        assert fleet.newest_run()["id"] == id_
        assert "lease:" in fleet("status").out
    finally:
        assert fleet("runs", "abort").code == 0
    assert fleet("runs", "follow", id_).code == 5
    assert fleet("runs", "abort", id_).code == 2


def test_7_a_guard_refuses_and_nothing_is_written(fleet: Fleet) -> None:
    before = fleet("runs", "--json").out
    both = ("worker", "drain", "prefork1@demo", "prefork2@demo")
    done = fleet(*both, "--yes")
    assert done.code == 7, done.err
    assert "reports" in done.err
    assert "allow_gap=reports" in done.err
    assert fleet(*both, "--plan").code == 7
    assert fleet("runs", "--json").out == before


def test_7_read_only_refuses_every_change(fleet: Fleet) -> None:
    drain = ("worker", "drain", "prefork1@demo")
    done = fleet.ops("--read-only", "-c", "demo", *drain, "--yes")
    assert done.code == 7
    assert "--plan" in done.err
    assert fleet.ops("--read-only", "-c", "demo", *drain, "--plan").code == 0
    assert fleet.ops("--read-only", "-c", "demo", "status").code == 0


def test_8_nobody_to_ask_and_nothing_is_written(fleet: Fleet) -> None:
    before = fleet("runs", "--json").out
    done = fleet("worker", "drain", "prefork1@demo")
    assert done.code == 8, done.err
    assert "--yes" in done.err
    assert fleet("runs", "--json").out == before


def test_9_an_executor_that_dies_before_any_effect_interrupts(fleet: Fleet) -> None:
    process = fleet.ops.start("-c", "demo", "runbook", "idles")
    try:
        wait_until(lambda: fleet.newest_run()["runbook"] == "idles", what="the run")
        wait_until(lambda: fleet.newest_run()["state"] == "running", what="its executor")
        os.kill(fleet.executor(), signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 9, err
    assert b"Nothing had been changed" in err


def test_sigterm_aborts_in_order(fleet: Fleet) -> None:
    process = fleet.ops.start(
        "-c", "demo", "runbook", "lingers", "-p", "workers=threads2@demo", "--yes"
    )
    try:
        wait_until(lambda: bool(fleet.status()["taken"]), what="threads2 drained", timeout=30)
        process.terminate()
        out, err = process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 5, (out, err)
    assert b"undoing the current batch" in err


def test_a_paused_run_waits_and_goes_on(fleet: Fleet) -> None:
    fleet("runbook", "idles", "--detach")
    assert fleet("runs", "pause").code == 0
    assert fleet("runs", "continue").code == 0
    assert fleet("runs", "abort").code == 0
    assert fleet("runs", "follow").code == 5


# --- in a terminal ---


def test_the_plan_is_shown_before_anything_is_asked(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    terminal = on_terminal("worker", "drain", "prefork1@demo")
    terminal.wait_for("[y/N]")
    assert "cancel_consumer" in terminal.seen
    terminal.type("n\n")
    assert terminal.end() == 5
    assert "nothing was changed" in terminal.seen
    assert not fleet.status()["taken"]


def test_ctrl_c_at_a_question_changes_nothing(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    before = fleet("runs", "--json").out
    terminal = on_terminal("worker", "drain", "prefork1@demo")
    terminal.wait_for("[y/N]")
    terminal.type("\x03")
    assert terminal.end() == 5
    assert fleet("runs", "--json").out == before


def test_a_name_that_has_to_be_typed_is_compared_word_for_word(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    terminal = on_terminal("runbook", "lingers", "-p", "workers=threads2@demo")
    terminal.wait_for(f"Type {fleet.name} to agree")
    terminal.type("yes\n")
    assert terminal.end() == 5


def test_5_ctrl_c_undoes_the_batch(fleet: Fleet, on_terminal: Callable[..., Terminal]) -> None:
    terminal = on_terminal("runbook", "lingers", "-p", "workers=threads2@demo")
    terminal.wait_for("to agree")
    terminal.type(f"{fleet.name}\n")
    terminal.wait_for("drained")
    wait_until(lambda: bool(fleet.status()["taken"]), what="threads2 taken")
    terminal.type("\x03")
    terminal.wait_for("aborting: undoing the current batch; Ctrl-C again to stop without undo")
    assert terminal.end() == 5
    assert not fleet.status()["taken"]


def test_4_ctrl_c_twice_leaves_it_and_says_how_to_mend_it(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    terminal = on_terminal("runbook", "lingers", "-p", "workers=threads2@demo", "--yes")
    wait_until(lambda: bool(fleet.status()["taken"]), what="threads2 taken", timeout=30)
    terminal.wait_for("ok: drained")
    executor = fleet.executor()
    os.kill(executor, signal.SIGSTOP)  # so that both are read at once
    terminal.type("\x03")
    terminal.wait_for("aborting")
    terminal.type("\x03")
    terminal.wait_for("without undo; Ctrl-C again to stop at once")
    os.kill(executor, signal.SIGCONT)
    assert terminal.end() == 4
    mend = f"celery-ops -c {fleet.name} worker resume threads2@demo"
    assert mend in terminal.seen
    assert fleet("worker", "resume", "threads2@demo", "--yes").code == 0


def test_9_ctrl_c_twice_before_any_effect_interrupts(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    terminal = on_terminal("runbook", "idles")
    terminal.wait_for("started")
    executor = fleet.executor()
    os.kill(executor, signal.SIGSTOP)  # so that both are read at once
    terminal.type("\x03")
    terminal.wait_for("aborting")
    terminal.type("\x03")
    terminal.wait_for("without undo")
    os.kill(executor, signal.SIGCONT)
    assert terminal.end() == 9
    assert fleet.newest_run()["state"] == "interrupted"


def test_what_a_run_asks_is_asked_in_its_terminal(on_terminal: Callable[..., Terminal]) -> None:
    terminal = on_terminal("runbook", "fails-ask", "-p", "workers=threads1@demo", "--yes")
    terminal.wait_for("stop, undo or continue? ")
    terminal.type("undo\n")
    assert terminal.end() == 3


def test_what_a_run_asks_is_answered_from_another_terminal(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    terminal = on_terminal("runbook", "fails-ask", "-p", "workers=threads1@demo", "--yes")
    terminal.wait_for("stop, undo or continue? ")
    wrong = fleet("runs", "answer", "perhaps")
    assert wrong.code == 2, wrong.err
    assert "stop, undo or continue?" in wrong.err
    given = fleet("runs", "answer", fleet.newest_run()["id"], "Undo")
    assert given.code == 0, given.err
    assert terminal.end() == 3
    assert "answered: undo (" in terminal.seen
    assert fleet("runs", "answer", "undo").code == 2, "it has ended"


def test_what_was_not_asked_is_not_answered(fleet: Fleet) -> None:
    fleet("runbook", "idles", "--detach")
    assert "asks nothing" in fleet("runs", "answer", "yes").err
    assert fleet("runs", "abort").code == 0
    assert fleet("runs", "follow").code == 5


def test_a_closed_terminal_does_not_stop_the_run(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    terminal = on_terminal("runbook", "idles")
    terminal.wait_for("started")
    terminal.close()
    terminal.process.wait(60)
    assert fleet.newest_run()["state"] == "running"
    assert fleet("runs", "abort").code == 0
    assert fleet("runs", "follow").code == 5


def test_ctrl_c_in_a_follower_ends_the_following_and_not_the_run(
    fleet: Fleet, on_terminal: Callable[..., Terminal]
) -> None:
    fleet("runbook", "idles", "--detach")
    terminal = on_terminal("runs", "follow")
    terminal.wait_for("started")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "The run goes on" in terminal.seen
    assert fleet.newest_run()["state"] == "running"
    assert fleet("runs", "abort").code == 0
    assert fleet("runs", "follow").code == 5


def test_an_executor_shows_no_secret_to_anybody_on_the_machine(fleet: Fleet) -> None:
    fleet("runbook", "idles", "--detach")
    wait_until(lambda: fleet.newest_run()["state"] == "running", what="the run")
    process = f"/proc/{fleet.executor()}"
    with open(f"{process}/cmdline", "rb") as cmdline, open(f"{process}/environ", "rb") as environ:
        seen = cmdline.read() + environ.read()
    assert fleet("runs", "abort").code == 0
    assert fleet("runs", "follow").code == 5
    assert fleet.password.encode() not in seen
    for path in (fleet.ops.state / "runs").iterdir():
        assert fleet.password not in path.read_text(errors="replace"), path
        assert path.stat().st_mode & 0o077 == 0, path


# Last where they run in order, since it counts what all others have done to the tasks.
def test_the_ledger_is_counted_and_the_demo_stops(demo: Fleet) -> None:
    told = demo.ops("demo", "ledger", "--json", "--settle")
    assert told.code == 0, told.err
    assert set(told.document) == {"sent", "done", "running", "lost", "twice"}
    assert (told.document["lost"], told.document["twice"]) == (0, 0), demo.traces_of_lost(told.err)
    assert demo.stop() == (0, f"{demo.name} is stopped, and nothing of it is left\n")
    assert demo("status").code == 2
