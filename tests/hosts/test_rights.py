"""What `sudo -l` lists, and what it means for one command."""

from __future__ import annotations

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.hosts.rights import asks_for_password, read
from celery_ops.model import ServiceRef
from celery_ops.ports import Completed

START = "/usr/bin/systemctl start --no-block celery@w1.service"
SERVICE = ServiceRef("web1", "systemd", "celery@w1.service")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([f"    (root) NOPASSWD: {START}"], False),
        ([f"    (root) {START}"], True),
        (["    (ALL : ALL) NOPASSWD: ALL"], False),
        (["    (ALL) ALL"], True),
        (["    (root) NOPASSWD: /usr/bin/systemctl"], False),
        (["    (root) NOPASSWD: /usr/bin/systemctl start *"], False),
        ([f"    (root) NOPASSWD: /usr/bin/id, {START}"], False),
        ([f"    (root) NOPASSWD: /usr/bin/id, PASSWD: {START}"], True),
        (["    (ALL) NOPASSWD: ALL", f"    (root) PASSWD: {START}"], True),
        ([f"    (root) PASSWD: {START}", "    (ALL) NOPASSWD: ALL"], False),
        ([f"    (root) NOEXEC: NOPASSWD: {START}"], False),
        (["    (root) NOPASSWD: /usr/bin/id", "    (root) CELERY_ALIAS"], None),
        (["Matching Defaults entries for ops:", "    !authenticate, env_reset"], False),
        ([], None),
    ],
)
def test_the_last_rule_that_means_it_decides(rules: list[str], expected: bool | None) -> None:
    assert asks_for_password(rules, START) is expected


def test_colons_and_equal_signs_are_escaped_in_the_list() -> None:
    rules = [r"    (root) NOPASSWD: /usr/bin/systemctl stop --no-block a\:b\=c.service"]
    assert asks_for_password(rules, "/usr/bin/systemctl stop --no-block a:b=c.service") is False


def _said(text: str, code: int = 0) -> Completed:
    return Completed(code, text.encode(), b"", 0.0)


def test_root_may_everything() -> None:
    rights = read([SERVICE], _said("user=root\nhow=root\n" + "answer=0 \n" * 4))
    assert (rights.user, rights.refused, rights.refused_for_good) == ("root", {}, {})


def test_a_refusal_comes_with_the_line_that_mends_it() -> None:
    out = f"user=ops\nhow=sudo\nanswer=0 {START}\nanswer=1 \nanswer=1 \nanswer=1 \n"
    out += f"rule=    (root) NOPASSWD: {START}\n"
    says, fix = read([SERVICE], _said(out)).refused[SERVICE]
    assert says == "sudo does not allow it to ops"
    assert "ops ALL=(root) NOPASSWD: /usr/bin/systemctl start --no-block celery@w1.service" in fix


def test_where_only_a_stop_for_good_is_missing_just_that_is_told() -> None:
    stop = START.replace("start", "stop")
    out = f"user=ops\nhow=sudo\nanswer=0 {START}\nanswer=0 {stop}\nanswer=1 \nanswer=1 \n"
    rights = read([SERVICE], _said(f"{out}rule=    (root) NOPASSWD: {START}, {stop}\n"))
    assert rights.refused == {}
    says, fix = rights.refused_for_good[SERVICE]
    assert says == "sudo does not allow it to ops"
    assert "systemctl disable --now --no-block celery@w1.service" in fix
    assert "systemctl start --no-block" not in fix


def test_without_sudo_it_is_said_that_sudo_is_not_set() -> None:
    out = "user=ops\nhow=direct\nanswer=127 sh: pkcheck: not found\n" + "answer=127 x\n" * 3
    says, fix = read([SERVICE], _said(out)).refused[SERVICE]
    assert says == "ops is not root there, and nothing else allows it"
    assert fix.startswith("Set `sudo: true` for the host, and allow it there with visudo: ops ALL")


@pytest.mark.parametrize("out", ["", "user=ops\nhow=sudo\nanswer=0 x\n", "Last login: today\n"])
def test_what_is_no_answer_is_none(out: str) -> None:
    with pytest.raises(CommandFailed):
        read([SERVICE], _said(out))
