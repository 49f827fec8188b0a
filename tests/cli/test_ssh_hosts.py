"""Fleets whose hosts are reached by SSH, through the real command: real sshd, supervisord, workers.

Who a host is, and a key with a passphrase: asked for once, handed on to the executor, and written
nowhere.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import OpsCommand
from tests.cli.terminal import Terminal
from tests.rig import end, wait_until
from tests.rig.operations import COMMON, Operations, Program, operations
from tests.rig.sshd import Sshd, fingerprint, make_key, sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.rig

PASSPHRASE = "correct horse-Bättery"
PIECE = b"correct horse"
WORKER = "worker@rig"
ASKED = "Passphrase of the key"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    folder = tmp_path_factory.mktemp("fleet")
    programs = [Program(name, queues=(COMMON,)) for name in ("worker", "other")]
    with operations(folder, *programs) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd() as started:
        yield started


@pytest.fixture(scope="module")
def locked(server: Sshd) -> Path:
    """A key with a passphrase, which the server accepts."""
    key = make_key(server.directory / "locked", passphrase=PASSPHRASE)
    server.authorize(key)
    return key


class Ssh(OpsCommand):
    """The command of somebody whose fleet is on the server; with this key and these known hosts."""

    def __init__(
        self, home: Path, fleet: Operations, server: Sshd, key: Path, known_hosts: Path
    ) -> None:
        super().__init__(home)
        self.config = home / "celery-ops.yaml"
        services = "".join(
            f"      - {{host: web1, supervisord: {name}, worker: {name}@rig,"
            f" server: '{fleet.rig.server}'}}\n"
            for name in ("worker", "other")
        )
        self.config.write_text(
            f"default: rig\ncontexts:\n  rig:\n    broker: '{fleet.url}'\n"
            f"    ssh: {{user: {getpass.getuser()}, port: {server.port}, keys: ['{key}'],"
            f" known_hosts: '{known_hosts}', config: '{server.client_config}'}}\n"
            f"    hosts:\n      web1: {{address: 127.0.0.1}}\n    services:\n{services}"
        )

    def terminal(self, *arguments: str) -> Terminal:
        return Terminal(self.argv(*arguments), cwd=self.home, env=self.environment())

    def journal(self) -> str:
        """The newest run's."""
        *_, newest = sorted((self.state / "runs").glob("*.jsonl"))
        return newest.read_text()

    def leaks(self) -> list[str]:
        """The files below the home in which the passphrase can be read."""
        files = (path for path in self.home.rglob("*") if path.is_file())
        return [str(path) for path in files if PIECE in path.read_bytes()]


@pytest.fixture
def ssh(tmp_path: Path, fleet: Operations, server: Sshd) -> Callable[..., Ssh]:
    def made(*, key: Path | None = None, known_hosts: Path | None = None) -> Ssh:
        keys, known = key or server.key, known_hosts or server.known_hosts
        return Ssh(tmp_path / "home", fleet, server, keys, known)

    return made


def refuses_to_restart(ops: Ssh, fleet: Operations) -> str:
    """What a restart says that changes nothing, and that a human or a script can tell from 7."""
    pid = fleet.pid("worker")
    done = ops("worker", "restart", WORKER, "--yes")
    assert done.code == 7, done.err
    assert "nothing was changed" in done.err
    assert fleet.pid("worker") == pid
    assert not (ops.state / "runs").exists() or not list((ops.state / "runs").glob("*.jsonl"))
    return done.err


@pytest.mark.parametrize("kind", ["unknown", "changed"])
def test_a_host_key_that_is_not_the_known_one_is_shown_and_refused(
    kind: str, tmp_path: Path, ssh: Callable[..., Ssh], server: Sshd, fleet: Operations
) -> None:
    known = tmp_path / "known_hosts"
    other = make_key(tmp_path / "other")
    if kind == "changed":
        known.write_text(f"{server.name} {other.with_suffix('.pub').read_text()}")
    ops = ssh(known_hosts=known)
    ways = {
        "unknown": (f"ssh-keyscan -p {server.port} 127.0.0.1 >> {known}",),
        "changed": (fingerprint(other), f"ssh-keygen -R '{server.name}'"),
    }
    status = ops("status", "--json")
    [problem] = [one for one in status.document["problems"] if one["subject"] == "web1"]
    shown = (" ".join((problem["says"], problem["fix"] or "")), refuses_to_restart(ops, fleet))
    for said in shown:
        assert fingerprint(server.host_key) in said
        assert all(way in said for way in ways[kind])


def test_without_a_terminal_a_locked_key_is_refused_with_the_way_out(
    ssh: Callable[..., Ssh], locked: Path, fleet: Operations
) -> None:
    ops = ssh(key=locked)
    status = ops("status", "--json", typed=f"{PASSPHRASE}\n")
    [problem] = [one for one in status.document["problems"] if one["subject"] == "web1"]
    assert f"ssh-add {locked}" in problem["says"] + (problem["fix"] or "")
    assert f"ssh-add {locked}" in refuses_to_restart(ops, fleet)


def test_a_passphrase_is_asked_for_in_the_terminal_and_not_shown(
    ssh: Callable[..., Ssh], locked: Path
) -> None:
    ops = ssh(key=locked)
    terminal = ops.terminal("workers")
    try:
        terminal.wait_for(f"{ASKED} {locked}")
        terminal.type(f"{PASSPHRASE}\n")
        assert terminal.end() == 0
        assert "web1" in terminal.seen
        assert "passphrase is unknown" not in terminal.seen
        assert terminal.seen.count(ASKED) == 1
        assert PIECE.decode() not in terminal.seen
        assert not ops.leaks()
    finally:
        terminal.close()
        end(terminal.process)


@pytest.mark.parametrize(("typed", "says"), [("wrong\n", "does not open"), ("\n", "is encrypted")])
def test_a_passphrase_that_is_wrong_or_not_known_is_asked_for_once(
    typed: str, says: str, ssh: Callable[..., Ssh], locked: Path
) -> None:
    terminal = ssh(key=locked).terminal("worker", "restart", WORKER, "--yes")
    try:
        terminal.wait_for(ASKED)
        terminal.type(typed)
        assert terminal.end() == 7
        assert says in terminal.seen
        assert f"ssh-add {locked}" in " ".join(terminal.seen.split())
        assert terminal.seen.count(ASKED) == 1
    finally:
        terminal.close()
        end(terminal.process)


def test_ctrl_c_at_the_question_ends_the_command_and_shows_what_is_typed_again(
    ssh: Callable[..., Ssh], locked: Path
) -> None:
    ops = ssh(key=locked)
    # The shell keeps the terminal open, so that its settings can be looked at afterwards.
    script = 'trap : INT; "$@"; code=$?; stty -a; echo "ended with $code"'
    argv = ("/bin/sh", "-c", script, "sh", *ops.argv("status"))
    terminal = Terminal(argv, cwd=ops.home, env=ops.environment())
    try:
        terminal.wait_for(ASKED)
        terminal.type("\x03")
        terminal.wait_for("ended with")
        assert " echo " in terminal.seen
        assert " -echo " not in terminal.seen
    finally:
        terminal.close()
        end(terminal.process)


def test_a_run_goes_on_with_the_passphrase_that_its_operator_typed(
    ssh: Callable[..., Ssh], locked: Path, fleet: Operations
) -> None:
    ops, pid = ssh(key=locked), fleet.pid("worker")
    terminal = ops.terminal("worker", "restart", WORKER, "--yes")
    try:
        terminal.wait_for(ASKED)
        terminal.type(f"{PASSPHRASE}\n")
        terminal.wait_for("leased")
        wait_until(lambda: bool(executors(ops)), what="an executor")
        shown = [(path / name).read_bytes() for path in executors(ops) for name in OF_A_PROCESS]
        assert shown
        assert terminal.end() == 0, terminal.seen
        assert fleet.pid("worker") not in {0, pid}
        assert terminal.seen.count(ASKED) == 1
        assert not any(PIECE in one for one in (*shown, terminal.seen.encode()))
        assert not ops.leaks()
        assert '"ended"' in ops.journal()
    finally:
        terminal.close()
        end(terminal.process)


def test_the_app_asks_in_a_screen_and_goes_on(
    ssh: Callable[..., Ssh], locked: Path, server: Sshd
) -> None:
    ops, before = ssh(key=locked), server.connections()
    terminal = ops.terminal()
    try:
        terminal.wait_for("enter opens it")
        assert str(locked) in terminal.seen
        terminal.type(f"{PASSPHRASE}\r")
        wait_until(lambda: server.connections() > before, what="a login with that key")
        terminal.type("q")
        assert terminal.end() == 0
        assert PIECE.decode() not in terminal.seen
        assert not ops.leaks()
    finally:
        terminal.close()
        end(terminal.process)


OF_A_PROCESS = ("cmdline", "environ")


def executors(ops: Ssh) -> list[Path]:
    """The processes that execute runs of this operator."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            is_ours = str(ops.home).encode() in (path / "environ").read_bytes()
        except OSError:
            continue
        if b"_execute" in words and is_ours:
            found.append(path)
    return found
