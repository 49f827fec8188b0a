"""The relay's own reading of a supervisord's command line and files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from celery_ops.hosts import relay, rpc
from celery_ops.hosts.programs import Program, Programs


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "supervisord", "-n", "-c", "x.conf"],
        ["supervisord", "-nc", "x.conf"],
        ["supervisord", "-cx.conf"],
        ["supervisord", "--configuration", "x.conf", "-n"],
        ["supervisord", "--configuration=x.conf"],
    ],
)
def test_the_configuration_is_found_however_it_is_named(argv: list[str]) -> None:
    assert relay.named_file(argv) == "x.conf"


def test_a_supervisord_without_c_names_no_configuration() -> None:
    assert relay.named_file(["python", "/usr/bin/supervisord", "-n", "--nodaemon"]) == ""


def test_includes_are_followed_as_supervisord_does(tmp_path: Path) -> None:
    for name in ("b.ini", "a.ini", "sub/c.conf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    main = tmp_path / "main.conf"
    main.write_text(
        "[program:x]\nfiles = no.ini\n[include]\nfiles = *.ini ; mine\n  %(here)s/sub/*\n"
    )
    found = [Path(path).relative_to(tmp_path).as_posix() for path in relay.included(str(main))]
    assert found == ["a.ini", "b.ini", "sub/c.conf"]
    main.write_text("[include]\nfiles = %(ENV_X)s/*.ini\n")
    with pytest.raises(ValueError, match="cannot tell"):
        relay.included(str(main))


def test_no_password_of_a_configuration_leaves_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "main.conf"
    path.write_text(
        "[unix_http_server]\npassword=hush\n[program:x]\nenvironment=A=hush,\n  B=hush\n"
        "stopasgroup: true\n"
    )
    assert relay.wanted_lines(str(path)) == [
        "[unix_http_server]",
        "[program:x]",
        "stopasgroup: true",
    ]


def test_the_relay_is_understood_by_old_pythons() -> None:
    for source in (rpc.SOURCE, rpc.LOG_SOURCE):
        ast.parse(source, feature_version=(3, 6))


LINES = """\
[program:one]
stopasgroup = TRUE ; danger
[program:w]
process_name=%(program_name)s_%(process_num)02d
autorestart=true
[program:odd]
stopasgroup=%(ENV_X)s
autorestart=sometimes
[program:w_extra]
[group:celery]
programs=w,
  odd
"""


@pytest.mark.parametrize(
    ("group", "process", "program"),
    [
        ("one", "one", Program(stop_as_group=True, restarts=False)),
        ("celery", "w_07", Program(stop_as_group=False, restarts=True)),
        ("celery", "odd", Program(stop_as_group=None, restarts=None)),
        ("celery", "one", Program()),
        ("w_extra", "w_extra", Program(stop_as_group=False, restarts=False)),
        ("nothing", "nothing", Program()),
    ],
)
def test_a_process_is_matched_to_its_program(group: str, process: str, program: Program) -> None:
    assert Programs(LINES).find(group, process) == program


def test_lines_that_make_no_sense_are_unknown() -> None:
    assert Programs("what\n[is this\n").find("a", "a") == Program()
