"""What goes wrong with hosts in a run, on real parts: the right code, the right words, in time.

Whatever happens no worker is left drained, unless the run says so (exit 4) and names the command
that mends it. What is true afterwards is asked of the host's own systemd, and of the workers by
somebody who knows nothing of celery_ops, who also counts the consumers all the while.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.faults import Proxy, crowd, cut_off, fill_disk, frozen, power_off
from tests.rig.host_fleet import HostFleet, Member, host_fleet
from tests.rig.operator import ROOT
from tests.rig.poller import Poller, Sampler
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.rig.operator import Event, Operator, Running, Said

pytestmark = pytest.mark.rig

HOST = "web2"
VICTIM = Member(HOST, "w1")
"""The worker that is restarted: one of two that consume `mail`, of four that consume `common`."""
BYSTANDERS = {"w1@web1", "w2@web1", "w2@web2"}
QUICK = ("runbook", "quick-restart", "--yes", "-p", "hold=1s")
GIVES_UP = ("-p", "drain_timeout=6s")
"""Only where its end is waited for: elsewhere a slow moment of the machine must not end a drain."""
STOPS_SOON = {"timeout: 2m": "timeout: 15s"}
"""Likewise: how long a stop and a start may take."""


NUMBERS = itertools.count(1)
"""Of tasks: none has the number of one that was released."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostFleet]:
    """For all whose incident leaves everything as it was, or takes back what it did."""
    with host_fleet(tmp_path_factory.mktemp("fleet"), "web1", HOST) as fleet:
        yield fleet


class Incident:
    """Two hosts, an operator, and a restart of one worker while something goes wrong."""

    def __init__(self, fleet: HostFleet, ann: Operator) -> None:
        self.fleet = fleet
        self.ann = ann
        self.host = fleet.hosts[HOST]
        self.before = fleet.incarnations()
        self.held = [next(NUMBERS) for _ in range(8)]
        self.write_runbook({})

    def write_runbook(self, changes: Mapping[str, str]) -> None:
        """A team's own runbook: rolling-restart, with these changes."""
        text = (ROOT / "runbooks" / "rolling-restart.yaml").read_text()
        for old, new in {"name: rolling": "name: quick", **changes}.items():
            assert old in text
            text = text.replace(old, new)
        write_runbook(self.fleet.folder, "quick-restart", text)

    def go_through(self, proxy: Proxy) -> None:
        """Reach the host through the proxy from now on."""
        self.fleet.trust(HOST, f"[127.0.0.1]:{proxy.port}")
        there = {"address": "127.0.0.1", "port": proxy.port}
        self.fleet.config.write_text(self.fleet.configuration(web2=there))

    def put_before_sudo(self, line: str) -> None:
        """The user's `sudo` on the host becomes this. What it may run does not change."""
        self._mark().unlink(missing_ok=True)
        script = self.host.root / "usr/local/bin/sudo"
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)

    def cut_at_mark(self, proxy: Proxy) -> None:
        """Lose the connection when that `sudo` has come to its mark; it is as ever afterwards."""
        self.until_mark()
        proxy.cut()
        (self.host.root / "usr/local/bin/sudo").unlink()
        self._mark().unlink()

    def until_mark(self) -> None:
        wait_until(self._mark().exists, what="sudo at its mark")

    def _mark(self) -> Path:
        return self.host.root / "home/ops/mark"

    def set_sshd(self, line: str) -> None:
        (self.host.root / "etc/ssh/sshd_config.d/test.conf").write_text(f"{line}\n")
        self.host.run("systemctl", "restart", "ssh")

    def keep_busy(self) -> None:
        """The victim runs a task that does not end."""
        for number in self.held:
            self.fleet.fleet.send(number, task="rig.hold", queue="mail")
        wait_until(lambda: self._runs_a_task(VICTIM.node), what="a task that does not end")

    def _runs_a_task(self, node: str) -> bool:
        return any(one.node == node and one.value for one in self.fleet.poller.ask("active"))

    def let_go(self) -> None:
        self.fleet.fleet.release(*self.held)

    # --- the restart ---

    def restart(self, *options: str, node: str = VICTIM.node) -> Said:
        return self.ann.do(*QUICK, "-p", f"workers={node}", *options)

    def start(self, *options: str) -> Running:
        return self.ann.start(*QUICK, "-p", f"workers={VICTIM.node}", *options)

    def abort_twice(self, running: Running) -> None:
        """As two Ctrl-C do: the second ends even the undo."""
        running.interrupt()
        wait_until(lambda: "Ctrl-C again" in running.said, what="the first one was heard")
        running.interrupt()

    def until_result(self, step: str) -> Event:
        return self.ann.until(
            lambda event: event["event"] == "result" and event["step"] == step, f"the end of {step}"
        )

    def until_undo(self) -> Event:
        """It waits for what it has told somebody to take back."""
        return self.ann.until(
            lambda event: event["event"] == "progress" and event["step"] == "2 undo", "an undo"
        )

    def was_told(self) -> list[str]:
        """All that the run has told the victim, in order."""
        events = [one for one in self.ann.events() if one["event"] == "intent"]
        assert all(one["target"] == VICTIM.node for one in events)
        return [str(one["intent"]).split()[0] for one in events]

    def mend(self, said: Said) -> None:
        """Do what the last lines of a run tell to do, and nothing else."""
        owed = said.out.split("owed: ")[1:]
        commands = [one.split("celery-ops ", 1)[1].splitlines()[0] for one in owed]
        assert commands, said.all
        for command in commands:
            mended = self.ann.do(*shlex.split(command), "--yes")
            assert mended.code == 0, mended.all

    # --- what is true afterwards ---

    def lives_anew(self) -> bool:
        life = self.fleet.incarnations()[VICTIM.node]
        return bool(life) and life != self.before[VICTIM.node]

    def restarts(self) -> str:
        return self.fleet.show(VICTIM, "NRestarts")["NRestarts"]

    def all_is_well(self) -> None:
        """All consume everything, nothing is owed, nobody else was touched."""
        self.fleet.wait_until_ready()
        assert self.fleet.nothing_is_taken()
        assert self.ann.status()["taken"] == []
        self.bystanders_live_on()

    def consumers_are(self, expected: Mapping[str, int]) -> None:
        wait_until(lambda: self.fleet.poller.consumers() == expected, what=f"consumers: {expected}")
        assert self.fleet.poller.consumers() == expected

    def bystanders_live_on(self, *nodes: str) -> None:
        after = self.fleet.incarnations()
        for node in nodes or BYSTANDERS:
            assert after[node] == self.before[node]


@contextlib.contextmanager
def incident(folder: Path, fleet: HostFleet, *, least: int = 2) -> Iterator[Incident]:
    """At its end the guard was never broken: a run takes one worker at a time, the fault itself
    those of a host; then `common` keeps its `least` consumers, and `mail` one.
    """
    fleet.config.write_text(fleet.configuration())
    fleet.wait_until_ready()
    with Sampler(Poller(fleet.redis)) as sampler:
        yield Incident(fleet, fleet.operator(folder, "ann"))
    assert sampler.least("mail") >= 1
    assert sampler.least("common") >= least
    fleet.dismiss()
    assert fleet.leaks() == []


@contextlib.contextmanager
def on_own_hosts(
    folder: Path, *, unit: Mapping[str, str] | None = None, sudoers: list[str] | None = None
) -> Iterator[Incident]:
    """The same on hosts that nobody uses afterwards."""
    with (
        host_fleet(folder / "fleet", "web1", HOST, unit=unit, sudoers=sudoers) as fleet,
        incident(folder, fleet) as it,
    ):
        yield it


# --- hosts that are not there ---------------------------------------------------------------------


def test_a_host_that_cannot_be_reached_is_left_alone_and_others_are_restarted(
    tmp_path: Path, hosts: HostFleet
) -> None:
    with incident(tmp_path, hosts, least=1) as it:
        with cut_off(it.host):
            said = it.restart()
            assert said.code == 7, said.all
            assert f"the supervisor of {VICTIM.node} did not answer: " in said.err
            assert it.ann.journals() == []
            other = it.restart(node="w2@web1")
            assert other.code == 0, other.all
        it.fleet.wait_until_ready()
        assert it.fleet.nothing_is_taken()
        after = it.fleet.incarnations()
        assert {node for node in after if after[node] != it.before[node]} == {"w2@web1"}


def test_a_host_that_is_cut_off_in_a_run_and_comes_back_gets_its_queues_back(
    tmp_path: Path, hosts: HostFleet
) -> None:
    with incident(tmp_path, hosts) as it:
        it.keep_busy()
        running = it.start(*GIVES_UP)
        it.ann.until_draining()
        with cut_off(it.host):
            it.until_result("2.1")
        said = running.wait()
        assert said.code == 1, said.all
        silence = "did not answer since|no reply and no heartbeat since"
        assert re.search(f"not drained: not within 6s: ({silence})", said.out), said.all
        it.let_go()
        it.all_is_well()
        assert not it.lives_anew()


def test_a_frozen_host_is_given_up_and_the_named_command_mends_it(
    tmp_path: Path, hosts: HostFleet
) -> None:
    with incident(tmp_path, hosts) as it:
        it.keep_busy()
        running = it.start(*GIVES_UP)
        it.ann.until_draining()
        with frozen(it.host):
            said = running.wait()
        assert said.code == 4, said.all
        assert f"owed: {VICTIM.node} is drained" in said.out
        it.mend(said)
        it.let_go()
        it.all_is_well()
        assert not it.lives_anew()


def test_after_a_power_loss_an_operator_need_not_wait_and_both_debts_are_named(
    tmp_path: Path,
) -> None:
    with on_own_hosts(tmp_path) as it:
        it.put_before_sudo('touch ~/mark; sleep 2; exec /usr/bin/sudo "$@"')
        it.write_runbook(STOPS_SOON)
        running = it.start()
        it.until_mark()
        power_off(it.host)
        it.until_undo()
        it.abort_twice(running)
        said = running.wait()
        assert said.code == 4, said.all
        assert "did not stop: not within 15s: its supervisor: ops@" in said.out
        for verb, debt in {"resume": "is drained", "start": "may be stopped: "}.items():
            assert f"owed: {VICTIM.node} {debt}" in said.out
            assert f"celery-ops -c hosts worker {verb} {VICTIM.node}" in said.out
        it.consumers_are({"common": 2, "mail": 1})


def test_who_lost_its_power_after_the_drain_is_not_told_to_stop(tmp_path: Path) -> None:
    with on_own_hosts(tmp_path) as it:
        running = it.start(*GIVES_UP)
        it.until_result("2.1")
        power_off(it.host)
        it.until_undo()
        it.abort_twice(running)
        said = running.wait()
        assert said.code == 4, said.all
        # What is found out first: that it is not drained any more, or that its host is gone.
        not_drained = "was not stopped, not drained any more: not within 6s: "
        gone = f"the supervisor of {VICTIM.node} did not answer: "
        assert not_drained in said.out or gone in said.out, said.all
        assert it.was_told() == ["cancel_consumer", "add_consumer"]
        (debt,) = said.out.split("owed: ")[1:]
        assert debt.startswith(f"{VICTIM.node} is drained")
        assert f"celery-ops -c hosts worker resume {VICTIM.node}" in debt
        it.consumers_are({"common": 2, "mail": 1})


# --- connections that are lost --------------------------------------------------------------------


def test_a_connection_that_was_lost_before_a_command_is_made_anew(
    tmp_path: Path, hosts: HostFleet
) -> None:
    with incident(tmp_path, hosts) as it, Proxy(it.host) as proxy:
        it.go_through(proxy)
        running = it.start()
        it.ann.until(lambda event: event["event"] == "intent", "a drain")
        proxy.cut()
        said = running.wait()
        assert said.code == 0, said.all
        assert proxy.connections == 3, "for the plan, for the run, and the new one"
        assert it.lives_anew()
        it.all_is_well()


WAITS_FOR_THE_CUT = "touch ~/mark; while [ -e ~/mark ]; do sleep 0.1; done; sleep 2"
SLOW_SUDO = {
    "before its effect": f'{WAITS_FOR_THE_CUT}; exec /usr/bin/sudo "$@"',
    "after its effect": f'/usr/bin/sudo "$@"; {WAITS_FOR_THE_CUT}',
}


@pytest.mark.parametrize("when", SLOW_SUDO)
def test_a_command_whose_connection_was_lost_is_settled_by_looking(
    tmp_path: Path, hosts: HostFleet, when: str
) -> None:
    with incident(tmp_path, hosts) as it, Proxy(it.host) as proxy:
        it.go_through(proxy)
        it.put_before_sudo(SLOW_SUDO[when])
        running = it.start()
        it.cut_at_mark(proxy)
        said = running.wait()
        assert said.code == 0, said.all
        assert "it is not known how it ended: sudo -n systemctl stop celery@w1.service" in said.out
        assert said.out.count("systemctl stop celery@w1.service  (only while") == 1
        assert it.lives_anew()
        it.all_is_well()


def test_a_command_that_was_lost_with_its_connection_is_not_believed_to_be_done(
    tmp_path: Path, hosts: HostFleet
) -> None:
    with incident(tmp_path, hosts) as it, Proxy(it.host) as proxy:
        it.go_through(proxy)
        it.put_before_sudo(f"{WAITS_FOR_THE_CUT}; exit 1")
        it.write_runbook(STOPS_SOON)
        running = it.start()
        it.cut_at_mark(proxy)
        said = running.wait()
        assert said.code == 1, said.all
        assert "did not stop: not within 15s: its supervisor says running" in said.out
        assert not it.lives_anew()
        it.all_is_well()


def test_an_sshd_that_takes_no_more_logins_is_told(tmp_path: Path, hosts: HostFleet) -> None:
    with incident(tmp_path, hosts) as it:
        it.set_sshd("MaxStartups 2")
        with crowd(it.host, 2):
            said = it.restart()
        assert said.code == 7, said.all
        assert f"the supervisor of {VICTIM.node} did not answer: ops@{it.host.address}" in said.err
        assert "too many log in there at once (MaxStartups of sshd)" in said.err
        assert it.ann.journals() == []
        said = it.restart()
        assert said.code == 0, said.all
        it.all_is_well()
        it.set_sshd("")


def test_a_slow_line_only_takes_longer(tmp_path: Path, hosts: HostFleet) -> None:
    with incident(tmp_path, hosts) as it, Proxy(it.host, delay=0.1) as proxy:
        it.go_through(proxy)
        said = it.restart()
        assert said.code == 0, said.all
        assert proxy.connections == 2, "for the plan, and for the run"
        assert it.lives_anew()
        it.all_is_well()


# --- machines that do not do as they are told -----------------------------------------------------


def test_a_refused_sudo_gives_the_queues_back_and_tells_what_to_allow(tmp_path: Path) -> None:
    with on_own_hosts(tmp_path, sudoers=[]) as it:
        said = it.restart()
        assert said.code == 1, said.all
        assert f"sudo was refused on {HOST}: sudo: a password is required" in said.out
        assert "visudo: USER ALL=(root) NOPASSWD: /usr/bin/systemctl start --no-block" in said.out
        assert not it.lives_anew()
        it.all_is_well()


def test_a_masked_unit_is_not_stopped(tmp_path: Path, hosts: HostFleet) -> None:
    with incident(tmp_path, hosts) as it:
        it.host.run("systemctl", "mask", "--runtime", VICTIM.service.name)
        said = it.restart()
        assert said.code == 7, said.all
        assert f"{VICTIM.node} could not be started: " in said.err
        assert "masked: it cannot be started" in said.err
        assert it.ann.journals() == []
        assert not it.lives_anew()
        it.all_is_well()
        it.host.run("systemctl", "unmask", "--runtime", VICTIM.service.name)


def test_a_unit_that_starts_and_dies_needs_a_human_and_the_named_command_mends_it(
    tmp_path: Path,
) -> None:
    with on_own_hosts(tmp_path, unit={"RestartSec": "100ms", "StartLimitBurst": "3"}) as it:
        fault = it.host.root / "srv/rig/faults/w1.dies"
        fault.touch()
        said = it.restart()
        assert said.code == 4, said.all
        assert "did not come back: it does not start: ended with exit code 1" in said.out
        assert f"owed: {VICTIM.node} is stopped" in said.out
        it.consumers_are({"common": 3, "mail": 1})
        fault.unlink()
        # Else systemd refuses further starts for ten seconds: whoever mends a cause takes longer.
        it.host.run("systemctl", "reset-failed", VICTIM.service.name)
        it.mend(said)
        it.all_is_well()


def test_a_stop_that_ends_in_sigkill_is_told_and_the_worker_is_started(tmp_path: Path) -> None:
    with on_own_hosts(tmp_path, unit={"TimeoutStopSec": "8"}) as it:
        it.write_runbook({"on_timeout: fail": "on_timeout: proceed"})
        it.keep_busy()
        said = it.restart(*GIVES_UP)
        assert said.code == 0, "that was agreed to: on_timeout: proceed"
        ended = said.out.split("ended: ")[1]
        assert f"{VICTIM.node} did not stop cleanly: not drained" in ended
        assert "it runs rig.hold" in ended, "what was cut off is named at the end"
        assert it.lives_anew()
        it.let_go()
        it.all_is_well()


def test_a_full_disk_is_in_nobodys_way(tmp_path: Path, hosts: HostFleet) -> None:
    with incident(tmp_path, hosts) as it:
        fill_disk(it.host)
        said = it.restart()
        assert said.code == 0, said.all
        assert it.lives_anew()
        it.all_is_well()
        it.host.run("rm", "/filled")


def test_what_a_login_shell_prints_is_not_taken_for_an_answer(
    tmp_path: Path, hosts: HostFleet
) -> None:
    with incident(tmp_path, hosts) as it:
        profile = it.host.root / "home/ops/.bashrc"
        banner = "echo ActiveState=inactive; echo Welcome >&2\n"
        before = profile.read_text()
        profile.write_text(banner + before)
        said = it.restart()
        assert said.code == 0, said.all
        assert it.lives_anew()
        it.all_is_well()
        profile.write_text(before)
