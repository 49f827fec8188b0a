"""`config init | check | schema` on this machine: what is asked, what is written, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import load, schema, select
from celery_ops.model import ServiceRef
from tests.cli.terminal import Terminal
from tests.rig import free_port
from tests.rig.operations import PIECES, Program, operations
from tests.rig.sshd import sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import OpsCommand
    from tests.rig.operations import Operations

PASSWORD = "hunter2"


def test_the_schema_is_the_loaders_own(ops: OpsCommand) -> None:
    done = ops("config", "schema")
    assert (done.code, json.loads(done.out)) == (0, schema())


def test_without_a_broker_it_says_how_to_name_one(ops: OpsCommand) -> None:
    done = ops("config", "init", "local")
    assert done.code == 2
    assert "$CELERY_BROKER_URL" in done.err


def test_a_broker_that_is_away_is_told_before_any_host_is_asked(ops: OpsCommand) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    done = ops("config", "init", "web1", "-b", url)
    assert done.code == 69
    assert PASSWORD not in done.out + done.err
    assert not (ops.home / "celery-ops.yaml").exists()


@pytest.mark.parametrize("option", [("-n", "a b"), ("-n", ""), ("--ssh-key", "x")])
def test_options_that_make_no_sense_are_2(ops: OpsCommand, option: tuple[str, ...]) -> None:
    assert ops("config", "init", "local", "-b", "redis://127.0.0.1:1/0", *option).code == 2


def test_an_invalid_file_tells_all_its_problems(ops: OpsCommand) -> None:
    (ops.home / "celery-ops.yaml").write_text(
        "contexts:\n"
        "  production:\n"
        "    broker: redis://h/0\n"
        "    protectd: true\n"
        "    hosts: {web1: {}}\n"
        "    services:\n"
        "      - {host: wbe1, systemd: celery.service}\n"
        "      - {host: web1, systemd: celery@*.service}\n"
    )
    done = ops("config", "check")
    assert done.code == 2
    assert [line.partition(": ")[2] for line in done.err.splitlines()] == [
        "unknown key 'protectd' in context production (did you mean protected?)",
        "no host is called 'wbe1' (did you mean web1?)",
        "'celery@*.service' means many units: write an entry for each (globs: hosts only)",
    ]


def test_check_without_a_broker_still_looks_at_the_hosts(ops: OpsCommand) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    (ops.home / "celery-ops.yaml").write_text(
        f"contexts: {{c: {{broker: '{url}', services: [{{host: local, supervisord: x}}]}}}}\n"
    )
    done = ops("config", "check")
    assert done.code == 69
    assert "PROBLEM  redis://:***@127.0.0.1" in done.out
    assert "ok       local: commands run there as " in done.out
    assert PASSWORD not in done.out + done.err


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    programs = (
        Program("solo"),
        Program("pool", pool="prefork", arguments=("-B", "-s", "beat")),
        Program("off", autostart=False),
    )
    with operations(tmp_path_factory.mktemp("fleet"), *programs) as made:
        yield made


def services(fleet: Operations) -> set[ServiceRef]:
    return {
        ServiceRef("local", "supervisord", name, f"{name}@rig", server=fleet.rig.server)
        for name in ("solo", "pool", "off")
    }


@pytest.mark.rig
def test_programs_of_a_supervisord_are_found_by_its_socket(
    fleet: Operations, ops: OpsCommand
) -> None:
    done = ops("config", "init", "local", "-b", fleet.url, "-n", "mine")
    file = ops.home / "celery-ops.yaml"
    assert "pool@rig is supervisord pool" in done.err
    assert "pool@rig is a scheduler too (-B)" in file.read_text()
    assert not any(piece in file.read_bytes() for piece in PIECES)
    assert "export CELERY_BROKER_URL=" in done.err
    environ = {"CELERY_BROKER_URL": fleet.url}
    found = select(load(file, environ), None)
    assert found.name == "mine"
    assert services(fleet) <= set(found.services)

    missing = ops("config", "check")
    assert missing.code == 2
    assert "CELERY_BROKER_URL is not set" in missing.err

    checked = ops("config", "check", "--json", more=environ)
    mine = {one["subject"]: one for one in checked.document["checks"]}
    for name in ("solo", "pool"):
        one = mine[f"supervisord {name} on local"]
        assert one["ok"], one
        assert one["says"].startswith(f"is {name}@rig (pid ")
        assert "a stop waits 30s" in one["says"]
    off = mine["supervisord off on local"]
    assert off["ok"]
    assert "never started (so off@rig is not proven)" in off["says"]


@pytest.mark.rig
def test_stdout_holds_the_file_and_nothing_else(fleet: Operations, ops: OpsCommand) -> None:
    environ = {"CELERY_BROKER_URL": fleet.url}
    done = ops("config", "init", "local", "-o", "-", more=environ)
    (ops.home / "mine.yaml").write_text(done.out)
    assert services(fleet) <= set(select(load(ops.home / "mine.yaml", environ), None).services)
    assert not (ops.home / "celery-ops.yaml").exists()


@pytest.mark.rig
def test_in_a_terminal_it_asks_for_the_broker_and_the_hosts_only(
    fleet: Operations, ops: OpsCommand
) -> None:
    terminal = Terminal(ops.argv("config", "init"), cwd=ops.home, env=ops.environment())
    terminal.wait_for("Which broker do the workers use?")
    terminal.type(f"{fleet.url}\n")
    terminal.wait_for("Which hosts do the workers run on? [rig]")
    terminal.type("local\n")
    terminal.wait_for("celery-ops.yaml is written")
    terminal.end()


@pytest.mark.rig
def test_an_application_tells_its_broker_and_its_options(
    fleet: Operations, ops: OpsCommand
) -> None:
    (ops.home / "proj.py").write_text(
        "from celery import Celery\n"
        f"app = Celery('proj', broker={fleet.url!r})\n"
        "app.conf.broker_transport_options = {'visibility_timeout': 7200, 'max_retries': 3}\n"
    )
    done = ops("config", "init", "local", "-A", "proj")
    text = (ops.home / "celery-ops.yaml").read_text()
    assert "    broker_options: {visibility_timeout: 7200, max_retries: 3}\n    app: proj\n" in text
    not_found = [line for line in done.err.splitlines() if " on local: pid " in line]
    # A scheduler in another test's container may be the deployment's own, for all it tells.
    assert done.code == bool(not_found), done.err
    assert all("it runs in the container" in line for line in not_found), done.err


@pytest.mark.rig
def test_a_broker_without_workers_is_told_and_nothing_is_written(
    fleet: Operations, ops: OpsCommand
) -> None:
    done = ops("config", "init", "local", "-b", f"{fleet.url.removesuffix('/0')}/7")
    assert done.code == 1
    assert "No worker answers on redis://ops:***@127.0.0.1" in done.err
    assert "is solo@rig, which does not answer on this broker" in done.err


@pytest.mark.rig
def test_a_supervisord_is_found_over_ssh_too(fleet: Operations, ops: OpsCommand) -> None:
    with sshd() as server:
        files = ops.home / ".ssh"
        files.mkdir(mode=0o700)
        (files / "known_hosts").write_bytes(server.known_hosts.read_bytes())
        (files / "id_ed25519").write_bytes(server.key.read_bytes())
        (files / "id_ed25519").chmod(0o600)
        done = ops("config", "init", f"127.0.0.1:{server.port}", "-b", fleet.url)
        environ = {"CELERY_BROKER_URL": fleet.url}
        found = select(load(ops.home / "celery-ops.yaml", environ), None)
        checked = ops("config", "check", "--json", more=environ)
    host = next(one for one in found.hosts if not one.is_local)
    assert (host.address, host.ssh.port) == ("127.0.0.1", server.port)
    remote = {replace(one, host=host.name) for one in services(fleet)}
    assert remote <= set(found.services), done.err
    mine = {one["subject"]: one for one in checked.document["checks"]}
    assert mine[f"supervisord solo on {host.name}"]["ok"]
