"""From bare hosts to a plan, on three real systemd hosts: `config init`, `config check`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.host_fleet import host_fleet
from tests.rig.operations import PIECES, broker_url
from tests.rig.operator import Operators

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet
    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostFleet]:
    with host_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.fixture
def operators() -> Iterator[Operators]:
    hired = Operators(PIECES)
    yield hired
    hired.dismiss()


@pytest.fixture
def ann(fleet: HostFleet, operators: Operators, tmp_path: Path) -> Operator:
    """Somebody with a key and known hosts at their usual places, and no configuration."""
    hired = operators.hire(tmp_path, "ann")
    ssh = hired.home / ".ssh"
    ssh.mkdir(mode=0o700)
    (ssh / "known_hosts").write_bytes(fleet.known_hosts.read_bytes())
    (ssh / "id_ed25519").write_bytes(fleet.key.read_bytes())
    (ssh / "id_ed25519").chmod(0o600)
    return hired


def hosts(fleet: HostFleet, *names: str) -> list[str]:
    return [f"ops@{host.address}" for host in fleet.hosts.values() if host.name in names]


def url(fleet: HostFleet) -> dict[str, str]:
    return {"CELERY_BROKER_URL": broker_url(fleet.server)}


def test_three_commands_lead_from_bare_hosts_to_a_plan(
    fleet: HostFleet, operators: Operators, ann: Operator
) -> None:
    lives = fleet.incarnations()
    found = ann.do("config", "init", *hosts(fleet, "web1", "web2", "web3"), **url(fleet))
    assert found.code == 0, found.err
    file = ann.home / "celery-ops.yaml"
    addresses = {name: host.address for name, host in fleet.hosts.items()}
    assert file.read_text() == textwrap.dedent(
        f"""\
        # yaml-language-server: $schema=celery-ops.schema.json
        # (for your editor: celery-ops config schema > celery-ops.schema.json)
        default: production
        contexts:
          production:
            broker: ${{CELERY_BROKER_URL}}
            ssh: {{user: ops, sudo: true}}
            hosts:
              web1: {{address: {addresses["web1"]}}}
              web2: {{address: {addresses["web2"]}}}
              web3: {{address: {addresses["web3"]}}}
            services:
              - {{hosts: [web1, web2, web3], systemd: celery@w1.service, worker: "w1@%h"}}
              - {{hosts: [web1, web2, web3], systemd: celery@w2.service, worker: "w2@%h"}}
        """
    )
    assert file.stat().st_mode & 0o777 == 0o600

    proved = ann.do("config", "check", **url(fleet))
    assert proved.code == 0, proved.all
    assert "PROBLEM" not in proved.out
    assert "systemd celery@w2.service on web3: is w2@web3" in proved.out

    plan = ann.do("runbook", "rolling-restart", "--plan", **url(fleet))
    assert plan.code == 0, plan.err
    assert all(f"{one.host}: sudo -n systemctl stop celery@" in plan.out for one in fleet.members)
    assert fleet.incarnations() == lives
    assert operators.leaks() == []


def test_a_file_that_is_there_is_not_touched_without_being_told(
    fleet: HostFleet, ann: Operator
) -> None:
    file = ann.home / "celery-ops.yaml"
    file.write_text("mine\n")
    said = ann.do("config", "init", *hosts(fleet, "web1"), **url(fleet))
    assert (said.code, file.read_text()) == (2, "mine\n")
    assert "--force" in said.err
    ann.do("config", "init", *hosts(fleet, "web1"), "--force", **url(fleet))
    assert "celery@w1.service" in file.read_text()


def test_workers_on_hosts_that_were_not_named_are_told_with_where_they_are(
    fleet: HostFleet, ann: Operator
) -> None:
    said = ann.do("config", "init", *hosts(fleet, "web1", "web2"), **url(fleet))
    assert said.code == 1
    assert "w1@web3, w2@web3: no process of it was found on web1, web2" in said.err
    assert "Name its host too: by its name that is web3." in said.err
    text = (ann.home / "celery-ops.yaml").read_text()
    assert "# Not found: w1@web3, w2@web3" in text
    checked = ann.do("config", "check", **url(fleet))
    assert checked.code == 1
    assert "PROBLEM  w2@web3: no service of this configuration runs it" in checked.out


def test_every_host_that_cannot_be_looked_at_is_told_and_nothing_is_written(
    fleet: HostFleet, ann: Operator
) -> None:
    refused = f"nobody@{fleet.hosts['web2'].address}"
    said = ann.do("config", "init", *hosts(fleet, "web1"), "wbe3", refused, **url(fleet))
    assert said.code == 69
    assert "wbe3 (did you mean web3?): The name wbe3 cannot be resolved" in said.err
    assert f"{refused} refused us" in said.err
    assert not (ann.home / "celery-ops.yaml").exists()


def test_without_hosts_and_a_terminal_it_names_those_of_the_workers(
    fleet: HostFleet, ann: Operator
) -> None:
    said = ann.do("config", "init", **url(fleet))
    assert said.code == 2
    for name in fleet.hosts:
        assert name in said.err


def test_rights_that_are_missing_are_found_without_using_them(
    fleet: HostFleet, ann: Operator
) -> None:
    """Also a rule that would ask for a password, which `sudo -n -l COMMAND` calls allowed."""
    assert ann.do("config", "init", *hosts(fleet, *fleet.hosts), **url(fleet)).code == 0
    lives = fleet.incarnations()
    rules = fleet.hosts["web3"].root / "etc/sudoers.d/ops"
    before = rules.read_text()
    try:
        rules.write_text(
            before.replace("celery@w1", "celery@other")
            + "ops ALL=(root) PASSWD: /usr/bin/systemctl stop --no-block celery@w2.service\n"
        )
        said = ann.do("config", "check", **url(fleet))
    finally:
        rules.write_text(before)
    assert said.code == 1
    problems = [line for line in said.out.splitlines() if line.startswith("PROBLEM")]
    assert [line.partition(": ")[0] for line in problems] == [
        "PROBLEM  systemd celery@w1.service on web3",
        "PROBLEM  systemd celery@w2.service on web3",
    ]
    assert "sudo does not allow it to ops" in problems[0]
    assert "sudo would ask ops for a password" in problems[1]
    assert "ops ALL=(root) NOPASSWD: /usr/bin/systemctl start --no-block celery@w1" in said.out
    assert fleet.incarnations() == lives


def test_a_stop_that_would_lose_tasks_is_a_problem(fleet: HostFleet, ann: Operator) -> None:
    assert ann.do("config", "init", *hosts(fleet, *fleet.hosts), **url(fleet)).code == 0
    host = fleet.hosts["web2"]
    folder = host.root / "etc/systemd/system/celery@w1.service.d"
    folder.mkdir()
    (folder / "kill.conf").write_text("[Service]\nKillMode=control-group\n")
    host.run("systemctl", "daemon-reload")
    try:
        said = ann.do("config", "check", "--json", **url(fleet))
    finally:
        (folder / "kill.conf").unlink()
        folder.rmdir()
        host.run("systemctl", "daemon-reload")
    assert said.code == 1
    (problem,) = [one for one in said.json["checks"] if not one["ok"]]
    assert problem["kind"] == "stop-loses-tasks"
    assert problem["subject"] == "w1@web2 (systemd celery@w1.service on web2)"
    assert "KillMode=mixed" in problem["fix"]


def test_an_instance_that_stands_still_is_found_by_what_wants_it(
    fleet: HostFleet, ann: Operator
) -> None:
    """systemd forgets a stopped unit that nobody asks for: then only a link tells of it."""
    host = fleet.hosts["web3"]
    host.run("systemctl", "stop", "celery@w2.service")
    try:
        said = ann.do("config", "init", *hosts(fleet, *fleet.hosts), **url(fleet))
    finally:
        host.run("systemctl", "start", "celery@w2.service")
        fleet.wait_until_ready()
    assert said.code == 0, said.err
    assert "web3: 1 worker with its service, 1 service that does not run" in said.err
    text = (ann.home / "celery-ops.yaml").read_text()
    assert '- {hosts: [web1, web2, web3], systemd: celery@w2.service, worker: "w2@%h"}' in text


def test_a_worker_that_does_not_answer_is_written_by_its_name_and_doubted(
    fleet: HostFleet, ann: Operator
) -> None:
    host = fleet.hosts["web1"]
    host.run("systemctl", "kill", "--signal=STOP", "celery@w1.service")
    try:
        said = ann.do("config", "init", *hosts(fleet, *fleet.hosts), **url(fleet))
    finally:
        host.run("systemctl", "kill", "--signal=CONT", "celery@w1.service")
        fleet.wait_until_ready()
    assert said.code == 1
    assert "w1@web1: pid" in said.err
    assert "bears its name, but it does not answer" in said.err
    text = (ann.home / "celery-ops.yaml").read_text()
    assert '- {hosts: [web1, web2, web3], systemd: celery@w1.service, worker: "w1@%h"}' in text


def test_a_host_that_hides_processes_is_asked_through_systemd(
    fleet: HostFleet, ann: Operator
) -> None:
    host = fleet.hosts["web1"]
    host.run("mount", "-o", "remount,hidepid=2", "/proc")
    try:
        said = ann.do("config", "init", *hosts(fleet, *fleet.hosts), **url(fleet))
    finally:
        host.run("mount", "-o", "remount,hidepid=0", "/proc")
    assert said.code == 0, said.err
    assert "it hides other users' processes (hidepid on /proc)" in said.err
    assert "w1@web1 is systemd celery@w1.service" in said.err


def test_what_else_runs_there_is_told_apart(fleet: HostFleet, ann: Operator) -> None:
    """Beat, a service that stands idle, a worker that nobody supervises, and another's."""
    host = fleet.hosts["web1"]
    units = host.root / "etc/systemd/system"
    template = (units / "celery@.service").read_text()
    beat = template.replace("worker -n %i@%H --queues $QUEUES_%i", "beat -s /tmp/beat #")
    (units / "celery-beat.service").write_text(beat)
    (units / "celery-old.service").write_text(template.replace("-A rigapp", "-A blog"))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "celery-beat.service")
    by_hand = (
        "cd /srv/rig; set -a; . ./environment; export PYTHONPATH=/opt/celery HOME=/home/celery;"
        " exec runuser -u celery -- python3 -m celery -A rigapp worker -n hand@web1 -Q other"
        " -P solo --pidfile /tmp/hand.pid >/dev/null 2>&1 &"
    )
    host.run("sh", "-c", by_hand)
    try:
        wait_until(lambda: "hand@web1" in fleet.poller.consuming(), what="hand@web1")
        said = ann.do("config", "init", *hosts(fleet, *fleet.hosts), **url(fleet))
    finally:
        host.run("sh", "-c", "kill $(cat /tmp/hand.pid)", check=False)
        host.run("systemctl", "stop", "celery-beat.service")
        for name in ("celery-beat", "celery-old"):
            (units / f"{name}.service").unlink()
        host.run("systemctl", "daemon-reload")
        wait_until(lambda: "hand@web1" not in fleet.poller.consuming(), what="its end")
    assert said.code == 1
    assert "hand@web1: pid" in said.err
    assert "no supervisor of it is known" in said.err
    text = (ann.home / "celery-ops.yaml").read_text()
    assert "      - {host: web1, systemd: celery-beat.service, beat: true}\n" in text
    assert "      # - {host: web1, systemd: celery-old.service" in text
