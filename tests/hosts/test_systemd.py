"""systemd: what is built for it, and what is read of it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.contexts import HostEntry, SshSettings, only_broker
from celery_ops.errors import CommandFailed, OpsError
from celery_ops.hosts import HostPool, units
from celery_ops.hosts.systemd import START, STOP, Systemd, sudoers_line
from celery_ops.model import Retry, ServiceRef, ServiceState, ServiceStatus
from celery_ops.ports import Completed

HOST = "web1"
WORKER = ServiceRef(HOST, "systemd", "celery-worker@1.service")
BEAT = ServiceRef(HOST, "systemd", "celery-beat")
LIFE = "a331699028134ec8800b187425046e61"
PLAIN = (("LC_ALL", "C"), ("TZ", "UTC"))

RUNNING = {
    "Id": "celery-worker@1.service",
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Job": "",
    "Result": "success",
    "MainPID": "46",
    "InvocationID": LIFE,
    "ExecMainStartTimestamp": "Fri 2026-11-20 09:47:06 UTC",
    "ExecMainCode": "0",
    "ExecMainStatus": "0",
    "InactiveExitTimestamp": "Fri 2026-11-20 09:47:05 UTC",
    "NRestarts": "0",
    "Type": "simple",
    "Restart": "no",
    "KillMode": "control-group",
    "KillSignal": "15",
    "SendSIGKILL": "yes",
    "TimeoutStopUSec": "20s",
}
STOPPED = RUNNING | {
    "ActiveState": "inactive",
    "SubState": "dead",
    "MainPID": "0",
    "ExecMainCode": "1",
}
FAILED = STOPPED | {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}
NEVER = STOPPED | {"ExecMainStartTimestamp": "", "ExecMainCode": "0", "InvocationID": ""}


def printed(*found: dict[str, str]) -> bytes:
    blocks = ("".join(f"{key}={value}\n" for key, value in unit.items()) for unit in found)
    return "\n".join(blocks).encode()


def completed(out: bytes = b"", err: str = "", code: int = 0) -> Completed:
    return Completed(code, out, err.encode(), 0.1)


def test_several_units_are_asked_about_in_one_command_without_sudo() -> None:
    command = Systemd(frozenset({HOST})).status([WORKER, BEAT])
    names = ("celery-worker@1.service", "celery-beat")
    asked = ("-p", ",".join(units.PROPERTIES))
    assert command.argv == ("systemctl", "show", *asked, "--", *names)
    assert command.env == PLAIN
    assert str(command) == "systemctl show celery-worker@1.service celery-beat"


def test_effects_are_a_constant_script_with_values_as_its_arguments() -> None:
    stop = Systemd().stop(WORKER, expect=LIFE)
    told = ("systemctl", "stop", "--no-block", WORKER.name)
    assert stop.argv == ("sh", "-c", STOP, "celery-ops", WORKER.name, LIFE, *told)
    assert Systemd().stop(WORKER, expect=None).argv[5] == ""
    start = Systemd(frozenset({HOST})).start(WORKER)
    sudo = ("sudo", "-n", "systemctl", "start", "--no-block", WORKER.name)
    assert start.argv == ("sh", "-c", START, "celery-ops", WORKER.name, *sudo)
    assert (stop.env, start.env) == (PLAIN, PLAIN)


def test_plans_show_what_a_person_would_type() -> None:
    root, other = Systemd(), Systemd(frozenset({HOST}))
    assert str(root.start(WORKER)) == "systemctl start celery-worker@1.service"
    assert str(other.stop(WORKER, expect=LIFE)) == "sudo -n systemctl stop celery-worker@1.service"


def test_sudo_is_a_setting_of_each_host() -> None:
    context = only_broker("redis://unused")
    entries = [HostEntry(HOST, HOST, HOST, SshSettings(sudo=True)), HostEntry("web2", "w2", "w2")]
    adapter = HostPool(replace(context, hosts=(*context.hosts, *entries))).supervisor("systemd")
    shown = [str(adapter.start(replace(WORKER, host=host))) for host in (HOST, "web2", "local")]
    assert [text.startswith("sudo -n ") for text in shown] == [True, False, False]


@pytest.mark.parametrize(
    "name",
    [
        *("celery*", "a b", "a;b", "--help", "-a", "", "\x1b[31m", "a\nb", "w?", "[w]", "/etc"),
        *("system.slice", "a.target", "a.socket", "a.timer", "w@", "w@.service"),
    ],
)
def test_a_name_that_is_not_one_service_is_refused(name: str) -> None:
    one, adapter = replace(WORKER, name=name), Systemd()
    builds = (partial(adapter.status, [one]), partial(adapter.start, one))
    for build in (*builds, partial(adapter.stop, one, expect=None)):
        with pytest.raises(CommandFailed, match="is not one service of systemd"):
            build()


def test_services_of_two_hosts_are_not_one_question() -> None:
    with pytest.raises(ValueError, match="not on one host"):
        Systemd().status([WORKER, replace(BEAT, host="web2")])


def test_all_is_read_of_a_unit_that_runs() -> None:
    assert units.status("celery-worker@1.service", RUNNING) == ServiceStatus(
        state=ServiceState.RUNNING,
        pid=46,
        identity=LIFE,
        started_at=datetime(2026, 11, 20, 9, 47, 6, tzinfo=UTC),
        clean_exit=None,
        says="active (running), pid 46",
        stop_grace=20.0,
        restarts_itself=False,
        signals_children=True,
        stop_signal="SIGTERM",
        restarts=0,
        startable=True,
    )


@pytest.mark.parametrize(
    ("load_state", "startable"),
    [("loaded", True), ("masked", False), ("not-found", False), ("bad-setting", False), ("", None)],
)
def test_what_runs_without_its_unit_file_could_not_be_started_again(
    load_state: str, startable: bool | None
) -> None:
    status = units.status("celery-worker@1.service", RUNNING | {"LoadState": load_state})
    assert status.state is ServiceState.RUNNING
    assert status.startable is startable


STATES = {
    "starts": ("activating", "start-pre", "", ServiceState.STARTING, LIFE, None),
    "waits-to-restart": ("activating", "auto-restart", "", ServiceState.STARTING, LIFE, None),
    "reloads": ("reloading", "reload", "", ServiceState.RUNNING, LIFE, None),
    "stops": ("deactivating", "stop-sigterm", "7", ServiceState.STOPPING, LIFE, None),
    "stop-is-queued": ("active", "running", "7", ServiceState.STOPPING, LIFE, None),
    "start-is-queued": ("inactive", "dead", "7", ServiceState.STARTING, None, True),
    "start-is-queued-again": ("failed", "failed", "7", ServiceState.STARTING, None, False),
    "stopped": ("inactive", "dead", "", ServiceState.STOPPED, None, True),
    "failed": ("failed", "failed", "", ServiceState.FAILED, None, False),
    "restarts": ("inactive", "dead-before-auto-restart", "", ServiceState.STARTING, None, True),
    "strange": ("maintenance", "x", "", ServiceState.UNKNOWN, LIFE, None),
}


@pytest.mark.parametrize(
    ("active", "sub", "job", "state", "identity", "clean"), STATES.values(), ids=STATES
)
def test_states(
    active: str,
    sub: str,
    job: str,
    state: ServiceState,
    identity: str | None,
    *,
    clean: bool | None,
) -> None:
    unit = RUNNING | {"ActiveState": active, "SubState": sub, "Job": job}
    read = units.status("x", unit)
    assert (read.state, read.identity, read.clean_exit) == (state, identity, clean)


ENDS: dict[str, tuple[dict[str, str], bool | None, str]] = {
    "clean": (STOPPED, True, "stopped cleanly"),
    "never-ran-or-forgotten": (NEVER, None, "not running; systemd has no record of a run"),
    "never-ran-failed": (
        NEVER | {"ActiveState": "failed", "Result": "resources"},
        None,
        "the machine has no resources for it",
    ),
    "killed-at-stop": (
        FAILED | {"Result": "timeout", "ExecMainCode": "2", "ExecMainStatus": "9"},
        False,
        "it took too long; ended by signal SIGKILL",
    ),
    # The code of the main process is no proof: the rest of the unit may have been killed.
    "rest-killed": (FAILED | {"Result": "timeout"}, False, "it took too long"),
    "exit-code": (FAILED | {"ExecMainStatus": "1"}, False, "ended with exit code 1"),
    "no-command": (
        FAILED | {"ExecMainStatus": "203"},
        False,
        "ended with exit code 203 (its command cannot be executed)",
    ),
    "out-of-memory": (
        FAILED | {"Result": "oom-kill", "ExecMainCode": "2", "ExecMainStatus": "9"},
        False,
        "the kernel killed it for want of memory; ended by signal SIGKILL",
    ),
    "gave-up": (
        FAILED | {"Result": "start-limit-hit", "NRestarts": "5"},
        False,
        "it was started too often too quickly, and systemd gave up; restarted by systemd: 5x;"
        " it may refuse another start for some seconds (systemctl reset-failed)",
    ),
    "new-in-later-versions": (FAILED | {"Result": "odd"}, False, "failed (odd)"),
    "tries-again": (
        FAILED | {"ActiveState": "activating", "SubState": "auto-restart", "ExecMainStatus": "1"},
        None,
        "ended with exit code 1; systemd tries again",
    ),
    "masked": (
        STOPPED | {"LoadState": "masked"},
        True,
        "stopped cleanly; masked: it cannot be started",
    ),
    "broken-file": (
        NEVER | {"LoadState": "bad-setting"},
        None,
        "not running; systemd has no record of a run; its unit file cannot be used (bad-setting)",
    ),
    "unit-file-removed": (
        RUNNING | {"LoadState": "not-found"},
        None,
        "active (running), pid 46; its unit file is gone",
    ),
    "restarted": (
        RUNNING | {"NRestarts": "2"},
        None,
        "active (running), pid 46; restarted by systemd: 2x",
    ),
}


@pytest.mark.parametrize(("unit", "clean", "says"), ENDS.values(), ids=ENDS)
def test_how_it_ended_is_told_by_its_result(
    unit: dict[str, str], *, clean: bool | None, says: str
) -> None:
    read = units.status("x", unit)
    assert (read.clean_exit, read.says) == (clean, says)


def test_celery_multi_has_no_main_pid_and_runs_all_the_same() -> None:
    forking = {"MainPID": "0", "Type": "forking", "ExecStop": "{ path=/bin/celery ; ... }"}
    read = units.status("x", RUNNING | forking)
    assert (read.state, read.pid, read.identity) == (ServiceState.RUNNING, None, LIFE)
    assert read.started_at == datetime(2026, 11, 20, 9, 47, 5, tzinfo=UTC)
    assert read.signals_children is None


@pytest.mark.parametrize(
    ("mode", "reaches"),
    [("control-group", True), ("mixed", False), ("process", False), ("none", False), ("", None)],
)
def test_only_a_control_group_is_signalled_whole(mode: str, *, reaches: bool | None) -> None:
    assert units.status("x", RUNNING | {"KillMode": mode}).signals_children is reaches


SPANS = {
    "20s": 20.0,
    "1min 30s": 90.0,
    "500ms": 0.5,
    "1h 2min 3.500s": 3723.5,
    "1d": 86400.0,
    "1w 2d": 777600.0,
    "100us": 0.0001,
    "infinity": None,
    "0": None,
    "": None,
    "[not set]": None,
    "1 min": None,
}


@pytest.mark.parametrize(("span", "expected"), SPANS.items(), ids=str)
def test_time_spans(span: str, expected: float | None) -> None:
    assert units.seconds(span) == expected


def test_there_is_no_grace_where_sigkill_never_comes() -> None:
    assert units.status("x", RUNNING | {"SendSIGKILL": "no"}).stop_grace is None


@pytest.mark.parametrize("text", ["", "n/a", "Fri 2026-11-20 09:47:06 CET", "yesterday"])
def test_a_moment_that_is_not_in_utc_is_unknown(text: str) -> None:
    assert units.moment(text) is None


@pytest.mark.parametrize(
    ("setting", "expected"), [("3", "SIGQUIT"), ("SIGINT", "SIGINT"), ("", None), ("99", None)]
)
def test_the_stop_signal_has_a_name(setting: str, expected: str | None) -> None:
    assert units.status("x", RUNNING | {"KillSignal": setting}).stop_signal == expected


def test_only_always_restarts_whatever_happened() -> None:
    read = [units.status("x", RUNNING | {"Restart": word}) for word in ("always", "on-failure", "")]
    assert [one.restarts_itself for one in read] == [True, False, None]


def test_units_are_read_in_the_order_they_were_asked_about() -> None:
    unknown = {"Id": "celery-beat.service", "LoadState": "not-found", "ActiveState": "inactive"}
    read = Systemd().read_status([WORKER, BEAT], completed(printed(RUNNING, unknown)))
    assert read[WORKER].pid == 46
    assert (read[BEAT].state, read[BEAT].says) == (
        ServiceState.UNKNOWN,
        "systemd finds no unit 'celery-beat'",
    )


def test_an_answer_that_may_be_cut_off_is_no_answer() -> None:
    cut = replace(completed(printed(RUNNING)), truncated=True)
    for answer in (completed(), completed(printed(RUNNING, RUNNING)), cut):
        with pytest.raises(CommandFailed, match="not the one to what was asked"):
            Systemd().read_status([WORKER], answer)


@given(out=st.binary())
def test_hostile_output_is_an_error_or_a_status(out: bytes) -> None:
    adapter = Systemd()
    with contextlib.suppress(OpsError):
        assert set(adapter.read_status([WORKER], completed(out))) == {WORKER}
    with contextlib.suppress(OpsError):
        adapter.read_effect(WORKER, completed(out))


def test_nothing_a_host_prints_reaches_a_terminal_as_more_than_text() -> None:
    strange = RUNNING | {"SubState": "\x1b[2Jrun\x85ning"}
    read = Systemd().read_status([WORKER], completed(printed(strange)))
    assert read[WORKER].says.isprintable()
    with pytest.raises(CommandFailed) as caught:
        Systemd().read_effect(WORKER, completed(err="\x1b]0;owned\x07no", code=1))
    assert caught.value.says.isprintable()


REFUSALS = {
    "no-systemctl": (127, "sh: 1: systemctl: not found", "has no systemctl", "another supervisor"),
    "no-systemd": (
        1,
        "System has not been booted with systemd as init system (PID 1). Can't operate.",
        "systemd is not running on web1",
        "container",
    ),
    "password": (
        1,
        "sudo: a password is required",
        "sudo was refused on web1: sudo: a password is required",
        "USER ALL=(root) NOPASSWD: /usr/bin/systemctl start --no-block celery-worker@1.service,"
        " /usr/bin/systemctl stop --no-block celery-worker@1.service,",
    ),
    "not-this-command": (
        1,
        "Sorry, user ops is not allowed to execute '/usr/bin/systemctl stop' as root on web1.",
        "sudo was refused on web1: Sorry, user ops",
        "NOPASSWD",
    ),
    "no-sudo": (127, "sh: 26: exec: sudo: not found", "sudo was refused", "NOPASSWD"),
    "no-right": (
        1,
        "Failed to stop celery-worker@1.service: Interactive authentication required.",
        "systemd refused: Failed to stop",
        "Set `sudo: true`",
    ),
    "masked": (
        1,
        "Failed to start celery-worker@1.service: Unit celery-worker@1.service is masked.",
        "is masked",
        "systemctl unmask celery-worker@1.service",
    ),
}


@pytest.mark.parametrize(("code", "err", "says", "fix"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_to_do(code: int, err: str, says: str, fix: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        Systemd().read_effect(WORKER, completed(printed(RUNNING), err, code))
    assert says in caught.value.says
    assert fix in str(caught.value.fix)


def test_an_unknown_unit_is_compared_with_those_there_are() -> None:
    seen = {"LoadState": "not-found", "ActiveState": "inactive", "Effect": "unknown"}
    listed = b"celery-worker@2.service loaded active running x\ngone.service not-found inactive\n"
    with pytest.raises(CommandFailed, match=r"did you mean celery-worker@2\.service"):
        Systemd().read_effect(WORKER, completed(printed(seen) + listed))


def test_a_sudoers_line_names_nothing_but_this_service() -> None:
    assert sudoers_line(replace(WORKER, name=r"a:b\x20c")) == (
        r"USER ALL=(root) NOPASSWD: /usr/bin/systemctl start --no-block a\:b\\x20c,"
        r" /usr/bin/systemctl stop --no-block a\:b\\x20c,"
        r" /usr/bin/systemctl enable --now --no-block a\:b\\x20c,"
        r" /usr/bin/systemctl disable --now --no-block a\:b\\x20c,"
        r" /usr/bin/systemctl reset-failed a\:b\\x20c"
    )


@pytest.mark.parametrize(
    ("told", "at_boot", "comes_back"),
    [
        ({"UnitFileState": "enabled", "WantedBy": "multi-user.target"}, "enabled", ""),
        ({"UnitFileState": "disabled", "WantedBy": ""}, "", ""),
        ({"UnitFileState": "enabled-runtime", "WantedBy": "a.target"}, "", "a.target"),
        ({"UnitFileState": "static", "RequiredBy": "celery.target"}, "", "celery.target"),
        ({}, None, ""),
    ],
)
def test_how_a_unit_starts_at_boot(
    told: dict[str, str], at_boot: str | None, comes_back: str
) -> None:
    status = Systemd().read_status([WORKER], completed(printed(RUNNING | told)))[WORKER]
    assert status.at_boot == at_boot
    assert status.comes_back == (f"systemd starts it with {comes_back}" if comes_back else "")


def test_a_stop_for_good_and_the_start_after_it_are_one_command_each() -> None:
    stop = Systemd().stop_for_good(WORKER, expect=LIFE)
    disable = ("systemctl", "disable", "--now", "--no-block", WORKER.name)
    assert stop.argv == ("sh", "-c", STOP, "celery-ops", WORKER.name, LIFE, *disable)
    start = Systemd(frozenset({HOST})).start_for_good(WORKER, at_boot="enabled")
    enable = ("sudo", "-n", "systemctl", "enable", "--now", "--no-block", WORKER.name)
    assert start.argv == ("sh", "-c", START, "celery-ops", WORKER.name, *enable)
    assert str(start) == f"sudo -n systemctl enable --now {WORKER.name}"
    with pytest.raises(ValueError, match="masked"):
        Systemd().start_for_good(WORKER, at_boot="masked")


GIVEN_UP = FAILED | {
    "Restart": "always",
    "NRestarts": "5",
    "ExecMainExitTimestamp": "Fri 2026-11-20 09:47:06 UTC",
}


@pytest.mark.parametrize(
    ("changes", "retry"),
    [
        ({"ActiveState": "activating", "SubState": "auto-restart"}, Retry.AGAIN),
        ({"ActiveState": "activating", "SubState": "auto-restart-queued"}, Retry.AGAIN),
        ({"ActiveState": "inactive", "SubState": "dead-before-auto-restart"}, Retry.AGAIN),
        (FAILED | {"Result": "start-limit-hit"}, Retry.GAVE_UP),
        (GIVEN_UP, Retry.GAVE_UP),
        (GIVEN_UP | {"Restart": "no"}, None),
        (GIVEN_UP | {"NRestarts": "0"}, None),
        (GIVEN_UP | {"Result": "timeout"}, None),
        (GIVEN_UP | {"ExecMainExitTimestamp": "Fri 2026-11-20 12:00:00 UTC"}, None),
        (GIVEN_UP | {"ExecMainExitTimestamp": ""}, None),
        ({}, None),
    ],
)
def test_what_systemd_does_about_an_end_is_read(
    changes: dict[str, str], retry: Retry | None
) -> None:
    assert units.status("a.service", RUNNING | changes).retry is retry


@pytest.mark.parametrize(
    ("text", "restarts"), [("7", 7), ("0", 0), ("", None), (None, None), ("9" * 5_000, None)]
)
def test_restarts_by_systemd_are_counted_where_it_counts(
    text: str | None, restarts: int | None
) -> None:
    unit = {key: value for key, value in RUNNING.items() if key != "NRestarts"}
    told = unit if text is None else unit | {"NRestarts": text}
    assert units.status("a.service", told).restarts == restarts
