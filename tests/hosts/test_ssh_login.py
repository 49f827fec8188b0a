"""Who a host is, who we are, and the way there: on real sshds."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.config.secret import Secret
from celery_ops.errors import HostUnreachable
from celery_ops.hosts import HostPool
from celery_ops.hosts.ssh_keys import Keyring
from celery_ops.hosts.ssh_link import MAX_CONNECTING, MAX_HANDSHAKES, Shared
from celery_ops.hosts.ssh_target import resolve
from celery_ops.ports import Command
from tests.rig.sshd import Sshd, fingerprint, make_key, sshd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery_ops.config.contexts import HostEntry
    from celery_ops.hosts.ssh_keys import AskPassphrase

pytestmark = pytest.mark.rig

ECHO = Command(("echo", "out"))
ASKED_FOR = "correct horse"


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd() as started:
        yield started


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


async def echo(*entries: HostEntry, ask: AskPassphrase | None = None) -> list[bytes]:
    """What every host answers, at once."""
    context = only_broker("redis://unused")
    pool = HostPool(replace(context, hosts=(*context.hosts, *entries)), ask_passphrase=ask)
    try:
        shells = [pool.shell(entry.name) for entry in entries]
        done = await asyncio.gather(*(shell.run(ECHO, timeout=30) for shell in shells))
        return [one.out for one in done]
    finally:
        await pool.close()


async def refusal(*entries: HostEntry, ask: AskPassphrase | None = None) -> str:
    with pytest.raises(HostUnreachable) as caught:
        await echo(*entries, ask=ask)
    return str(caught.value)


def keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, capture_output=True)


class Operator:
    """Knows a passphrase, or does not."""

    def __init__(self, answer: str | None) -> None:
        self.asked: list[Path] = []
        self._answer = answer

    async def __call__(self, path: Path) -> Secret | None:
        self.asked.append(path)
        await asyncio.sleep(0)
        return None if self._answer is None else Secret(self._answer)


async def test_an_unknown_host_is_refused_with_its_fingerprint(
    server: Sshd, tmp_path: Path
) -> None:
    says = await refusal(server.entry(known_hosts=tmp_path / "none"))
    assert "not known" in says
    assert fingerprint(server.host_key) in says
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {tmp_path / 'none'}" in says


async def test_a_changed_host_key_is_refused_with_both_fingerprints(
    server: Sshd, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other")
    known = tmp_path / "known_hosts"
    known.write_text(f"{server.name} {other.with_suffix('.pub').read_text()}")
    says = await refusal(server.entry(known_hosts=known))
    assert "has changed" in says
    assert fingerprint(server.host_key) in says
    assert fingerprint(other) in says
    assert f"ssh-keygen -R '{server.name}'" in says


async def test_a_revoked_host_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    line = server.known_hosts.read_text()
    known.write_text(f"{line}@revoked {line}")
    assert "revoked" in await refusal(server.entry(known_hosts=known))


async def test_hashed_names_and_patterns_are_known(server: Sshd, tmp_path: Path) -> None:
    hashed, pattern, negated = (tmp_path / name for name in ("hashed", "pattern", "negated"))
    hashed.write_text(server.known_hosts.read_text())
    keygen("-H", "-f", str(hashed))
    public = server.host_key.with_suffix(".pub").read_text()
    pattern.write_text(f"# comment\nbroken\nx ssh-ed25519 AAA\n[127.0.0.?]:* {public}")
    negated.write_text(f"*,!{server.name} {public}")
    assert server.name not in hashed.read_text()
    assert await echo(server.entry(known_hosts=hashed)) == [b"out\n"]
    assert await echo(server.entry(known_hosts=pattern)) == [b"out\n"]
    assert "not known" in await refusal(server.entry(known_hosts=negated))


async def test_a_host_shows_the_kind_of_key_that_is_known(tmp_path: Path) -> None:
    rsa = make_key(tmp_path / "rsa", kind="rsa")
    with sshd(f"HostKey {rsa}") as server:
        assert await echo(server.entry()) == [b"out\n"]
        server.trust(rsa)
        assert await echo(server.entry()) == [b"out\n"]


async def test_a_key_that_is_not_accepted_says_so(server: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "id")
    says = await refusal(server.entry(keys=(key,)))
    assert f"{getpass.getuser()}@127.0.0.1:{server.port} refused us" in says
    assert str(key) in says


async def test_no_key_at_all_says_so(server: Sshd, tmp_path: Path) -> None:
    assert "no key to log in with" in await refusal(server.entry(keys=(tmp_path / "none",)))


@pytest.fixture
def locked(server: Sshd, tmp_path: Path) -> Path:
    """A key with a passphrase, which the server accepts."""
    key = make_key(tmp_path / "locked", passphrase=ASKED_FOR)
    server.authorize(key)
    return key


async def test_a_passphrase_is_asked_for_once(server: Sshd, locked: Path) -> None:
    operator = Operator(ASKED_FOR)
    entries = [
        replace(server.entry(keys=(locked,), connect_timeout=10.0 + number), name=f"web{number}")
        for number in range(3)
    ]
    assert await echo(*entries, ask=operator) == [b"out\n"] * 3
    assert operator.asked == [locked]


async def test_a_passphrase_is_not_asked_for_without_need(server: Sshd, locked: Path) -> None:
    operator = Operator(ASKED_FOR)
    assert await echo(server.entry(keys=(locked, server.key)), ask=operator) == [b"out\n"]
    assert not operator.asked


async def test_a_locked_key_that_nobody_opens_says_so(server: Sshd, locked: Path) -> None:
    entry = server.entry(keys=(locked,))
    for operator, expected in (
        (None, "is encrypted"),
        (Operator(None), "is encrypted"),
        (Operator("wrong"), "does not open"),
    ):
        says = await refusal(entry, ask=operator)
        assert expected in says
        assert f"ssh-add {locked}" in says
        assert "wrong" not in says


async def test_a_passphrase_is_never_shown(locked: Path) -> None:
    keyring = Keyring(Operator(ASKED_FOR))
    await keyring.unlock(locked)
    assert ASKED_FOR not in repr(keyring)
    assert keyring.load(locked) is not None


@contextlib.contextmanager
def agent(*keys: Path) -> Iterator[str]:
    """The socket of an ssh-agent that holds keys."""
    said = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"SSH_AUTH_SOCK=([^;]+);.*SSH_AGENT_PID=(\d+)", said, re.S)
    assert found is not None
    try:
        for key in keys:
            subprocess.run(
                ["ssh-add", "-q", str(key)],
                check=True,
                env={**os.environ, "SSH_AUTH_SOCK": found[1]},
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
        yield found[1]
    finally:
        os.kill(int(found[2]), signal.SIGTERM)


async def test_the_agents_keys_are_used(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = server.entry(keys=(tmp_path / "none",))
    with agent(make_key(tmp_path / "wrong"), server.key) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        assert await echo(entry) == [b"out\n"]
        server.client_config.write_text("IdentitiesOnly yes\n")
        try:
            assert "no key to log in with" in await refusal(entry)
        finally:
            server.client_config.write_text("")


async def test_a_certificate_is_used(tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "ca"), make_key(tmp_path / "id")
    keygen("-s", str(authority), "-I", "test", "-n", getpass.getuser(), f"{key}.pub")
    with sshd(f"TrustedUserCAKeys {authority}.pub") as server:
        assert await echo(server.entry(keys=(key,))) == [b"out\n"]


async def test_the_openssh_configuration_is_honoured(server: Sshd, tmp_path: Path) -> None:
    included, config = tmp_path / "included", tmp_path / "config"
    included.write_text(f"Host web*\n  HostName 127.0.0.1\n  Port {server.port}\n")
    config.write_text(
        f"Include {included}\nHost *\n  IdentityFile {server.key}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {server.known_hosts}\n  User nobody\nHost web1\n  User other\n"
    )
    settings = server.settings(port=None, keys=(), known_hosts=None, config=config)
    entry = replace(server.entry(), address="web1", ssh=settings)
    assert await echo(entry) == [b"out\n"]


async def test_hosts_behind_one_jump_host_share_its_connection() -> None:
    with sshd() as jump, sshd() as server:
        with server.known_hosts.open("a") as file:
            file.write(jump.known_hosts.read_text())
        jump.authorize(server.key)
        route = f"{getpass.getuser()}@127.0.0.1:{jump.port}"
        near, far = server.entry("near"), server.entry("far", jump=route)
        also = replace(server.entry("also", jump=route), address="localhost")
        with server.known_hosts.open("a") as file:
            public = server.host_key.with_suffix(".pub").read_text()
            file.write(f"[localhost]:{server.port} {public}")
        assert await echo(near, far, also) == [b"out\n"] * 3
        assert (jump.connections(), server.connections()) == (1, 3)


async def test_a_jump_host_that_hangs_is_named_in_time() -> None:
    with sshd() as jump, sshd() as server:
        with server.known_hosts.open("a") as file:
            file.write(jump.known_hosts.read_text())
        jump.authorize(server.key)
        jump.freeze()
        entry = server.entry(jump=f"127.0.0.1:{jump.port}", connect_timeout=1.0)
        began = time.monotonic()
        says = await refusal(entry)
        assert f"127.0.0.1:{jump.port} did not shake hands within 1s" in says
        assert time.monotonic() - began < 10


async def test_a_host_that_the_jump_host_cannot_reach_is_named(server: Sshd) -> None:
    with sshd() as gone:
        entry = replace(
            gone.entry(jump=f"127.0.0.1:{server.port}"), ssh=server.settings(port=gone.port)
        )
    entry = replace(entry, ssh=replace(entry.ssh, jump=f"127.0.0.1:{server.port}"))
    says = await refusal(entry)
    assert "The jump host" in says
    assert f"cannot reach {getpass.getuser()}@127.0.0.1:{gone.port}" in says


async def test_thirty_hosts_log_in_within_what_sshd_allows() -> None:
    # 30 are 30 connections: as many handshakes at once would be dropped by MaxStartups.
    with sshd("MaxStartups 10:100:11") as server:
        entries = [
            server.entry(f"web{number}", connect_timeout=30.0 + number) for number in range(30)
        ]
        assert await echo(*entries) == [b"out\n"] * 30
        assert server.connections() == 30


async def test_only_hosts_with_one_address_wait_for_each_other(server: Sshd) -> None:
    one = resolve(server.entry())
    behind = replace(one, via=replace(one, hostname="jump"))
    others = [replace(one, hostname=f"web{number}") for number in range(MAX_CONNECTING)]
    shared = Shared()
    async with contextlib.AsyncExitStack() as turns:
        for target in (*[one] * MAX_HANDSHAKES, behind, *others[MAX_HANDSHAKES + 1 :]):
            async with asyncio.timeout(5):
                await turns.enter_async_context(shared.turn(target))
        for target in (one, others[0]):
            waiting = asyncio.ensure_future(turns.enter_async_context(shared.turn(target)))
            await asyncio.wait([waiting], timeout=0.05)
            assert waiting.cancel()
            await asyncio.wait([waiting])


async def test_the_library_prints_nothing_of_its_own(
    server: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await refusal(server.entry(known_hosts=tmp_path / "none"))
    with sshd() as frozen:
        frozen.freeze()
        await refusal(frozen.entry(connect_timeout=0.5))
    assert not caplog.records
