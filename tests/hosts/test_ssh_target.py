"""Where a host is reached: celery-ops.yaml over the OpenSSH configuration over the defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.contexts import HostEntry, SshSettings
from celery_ops.errors import UsageError
from celery_ops.hosts.ssh_remote import Output, ending, remote
from celery_ops.hosts.ssh_target import resolve
from celery_ops.ports import Command

if TYPE_CHECKING:
    from celery_ops.hosts.ssh_target import Target


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's `~/.ssh/config`, which is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ssh"
    folder.mkdir()
    (folder / "config").write_text("")
    return folder / "config"


def target(address: str = "web1", **settings: Any) -> Target:
    return resolve(HostEntry("name", address, "name", replace(SshSettings(), **settings)))


def test_without_a_word_it_is_as_openssh_does(config: Path) -> None:
    found = target(user="deploy")
    assert (found.hostname, found.port, found.key_name) == ("web1", 22, "web1")
    assert found.known_hosts[0] == config.parent / "known_hosts"
    assert config.parent / "id_ed25519" in found.keys
    assert (found.via, found.explicit_keys, str(found)) == (None, False, "deploy@web1")


def test_what_celery_ops_is_told_wins(config: Path) -> None:
    config.write_text("Host web1\n HostName 10.0.0.1\n Port 2222\n User other\n IdentityFile ~/a\n")
    told = target()
    assert (told.hostname, told.port, told.user) == ("10.0.0.1", 2222, "other")
    assert (told.key_name, told.keys) == ("[10.0.0.1]:2222", (config.parent.parent / "a",))
    ours = target(user="deploy", port=22, keys=(Path("/k"),), known_hosts=Path("/known"))
    assert (ours.port, ours.user, ours.keys, ours.known_hosts) == (
        22,
        "deploy",
        (Path("/k"),),
        (Path("/known"),),
    )


def test_jump_hosts_come_one_behind_the_other(config: Path) -> None:
    config.write_text("Host first\n User gate\n HostName gate.example\n")
    found = target(user="deploy", jump="first,ops@second:2222")
    assert found.via is not None
    assert found.via.via is not None
    assert str(found.via) == "ops@second:2222"
    assert (str(found.via.via), found.via.via.via) == ("gate@gate.example", None)


def test_a_jump_host_for_all_is_not_its_own(config: Path) -> None:
    config.write_text("Host *\n User deploy\n ProxyJump bastion\n")
    found = target()
    assert found.via is not None
    assert (found.via.hostname, found.via.via) == ("bastion", None)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "in a circle"),
        ("Host a\n ProxyCommand nc %h %p\n", "ProxyCommand"),
        ("Host a\n ProxyJump x:y\n", "not \\[user@\\]host"),
        ("Host a\n Port many\n", "cannot be used|many"),
    ],
    ids=["circle", "command", "hop", "port"],
)
def test_what_cannot_be_used_is_refused(config: Path, lines: str, says: str) -> None:
    config.write_text(lines)
    with pytest.raises(UsageError, match=says):
        target("a", user="deploy")


def test_a_configuration_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        target(config=tmp_path / "none")


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=8))
def test_output_is_found_behind_any_banner_in_any_pieces(banner: bytes, cuts: list[int]) -> None:
    stream = banner + b"\nm4rk 42\nout\nm4rk 1\n"
    output = Output(b"m4rk", 100)
    start = 0
    for cut in cuts:
        output.feed(stream[start : start + cut])
        start += cut
    output.feed(stream[start:])
    assert (output.group, bytes(output.kept)) == (42, b"out\nm4rk 1\n")


def test_secrets_are_not_in_the_line() -> None:
    request = remote(Command(("sh",), env=(("TOKEN", "hush"),), stdin=b"hush"))
    assert b"hush" not in request.line


def test_a_group_is_given_its_grace_in_tenths_of_a_second() -> None:
    assert ending(12, 2.0).argv[-2:] == ("12", "20")
