"""supervisord, the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
import threading
import time
import xmlrpc.client
import zlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.config.contexts import only_broker
from celery_ops.config.secret import Secret
from celery_ops.errors import CommandFailed
from celery_ops.hosts import HostPool
from celery_ops.hosts.local import LocalShell
from celery_ops.hosts.relay import MARK
from celery_ops.hosts.supervisord import USUAL_SERVERS, Supervisord
from celery_ops.model import ServiceRef, ServiceState
from celery_ops.ports import Completed
from tests.hosts.contract import DaemonContract, Program, Supervised
from tests.rig.supervisord import Rig, supervisord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery_ops.model import ServiceStatus

pytestmark = pytest.mark.rig

SLEEP = "sh -c 'trap \"{}\" TERM; while :; do sleep 0.05; done'"
RUNNING = {"command": SLEEP.format("exit 0"), "startsecs": "0"}
PROGRAMS: dict[str, dict[str, str]] = {
    Program.POLITE: RUNNING,
    Program.STUBBORN: RUNNING | {"command": SLEEP.format(""), "stopwaitsecs": "1"},
    Program.SLOW: RUNNING | {"command": SLEEP.format("sleep 1; exit 0")},
    Program.GROUP: RUNNING | {"stopasgroup": "true"},
    Program.BROKEN: {"command": "false", "startretries": "0"},
    Program.IDLE: RUNNING | {"autostart": "false"},
}


def service(rig: Rig, name: str) -> ServiceRef:
    return ServiceRef("local", "supervisord", name, server=rig.server)


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with supervisord(PROGRAMS) as rig:
        pool = HostPool(only_broker("redis://unused"))
        services = {program: service(rig, program.value) for program in Program}
        yield Supervised(pool.shell("local"), pool.supervisor("supervisord"), services, rig.kill)


class TestSupervisord(DaemonContract):
    """The contract of all supervisors."""


async def statuses(
    rig: Rig, *names: str, adapter: Supervisord | None = None
) -> list[ServiceStatus]:
    adapter = adapter or Supervisord()
    services = [service(rig, name) for name in names]
    completed = await LocalShell().run(adapter.status(services), timeout=10)
    read = adapter.read_status(services, completed)
    return [read[one] for one in services]


async def start(one: ServiceRef) -> None:
    adapter = Supervisord()
    adapter.read_effect(one, await LocalShell().run(adapter.start(one), timeout=20))


GROUPED = {
    "w": RUNNING | {"numprocs": "2", "process_name": "%(program_name)s_%(process_num)d"},
    "alone": RUNNING | {"autorestart": "true ; always", "stopsignal": "QUIT", "stopwaitsecs": "33"},
    "danger": RUNNING | {"stopasgroup": "yes", "autorestart": "false"},
    "kill": RUNNING | {"killasgroup": "true"},
}


@pytest.mark.parametrize("included", [False, True], ids=["one-file", "included"])
async def test_what_xml_rpc_does_not_tell_is_read_from_the_configuration(*, included: bool) -> None:
    with supervisord(GROUPED, groups={"celery": "w, danger"}, included=included) as rig:
        found = await statuses(rig, "celery:w_1", "alone", "celery:danger", "kill")
        told = [
            (one.signals_children, one.restarts_itself, one.stop_signal, one.stop_grace)
            for one in found
        ]
    assert told == [
        (False, False, "SIGTERM", 10),
        (False, True, "SIGQUIT", 33),
        (True, False, "SIGTERM", 10),
        (False, False, "SIGTERM", 10),
    ]


async def test_a_configuration_that_changed_since_proves_nothing() -> None:
    names = ("danger", "kill", "alone")
    with supervisord(GROUPED) as rig:
        os.utime(rig.config, (time.time() + 60, time.time() + 60))
        danger, kill, alone = await statuses(rig, *names)
        rig.config.unlink()
        unread = await statuses(rig, *names)
    assert danger.signals_children is True
    assert kill.signals_children is None
    assert alone.signals_children is False
    assert [one.restarts_itself for one in (danger, kill, alone, *unread)] == [None] * 6
    assert [one.signals_children for one in unread] == [None, None, False]


async def test_a_process_of_a_group_is_named_with_its_group() -> None:
    with supervisord(GROUPED, groups={"celery": "w"}) as rig:
        [found] = await statuses(rig, "w_0")
        with pytest.raises(CommandFailed) as caught:
            await start(service(rig, "w_0"))
        assert (await statuses(rig, "celery:w_0"))[0].pid
    assert "did you mean celery:w_0?" in found.says
    assert "did you mean celery:w_0?" in caught.value.says
    assert caught.value.fix == "It knows: alone, celery:w_0, celery:w_1, danger, kill."


@pytest.mark.parametrize("name", ["celery:*", "celery:", "a\nb", "\x1b[31m"])
def test_a_name_that_is_not_one_process_is_refused(name: str) -> None:
    one = ServiceRef("local", "supervisord", name)
    adapter = Supervisord()
    for build in (adapter.start, partial(adapter.stop, expect=None)):
        with pytest.raises(CommandFailed, match="is not one program") as caught:
            build(one)
        assert caught.value.says.isprintable()
    with pytest.raises(CommandFailed, match="is not one program"):
        adapter.status([one])


def test_services_of_two_supervisords_are_not_asked_in_one_command() -> None:
    one = ServiceRef("local", "supervisord", "a")
    with pytest.raises(ValueError, match="not of one supervisord"):
        Supervisord().status([one, replace(one, server="unix:///s")])


async def test_a_password_opens_the_door_and_shows_nowhere() -> None:
    with supervisord({"a": RUNNING}, user="me", password="hu:sh") as rig:
        assert rig.password is not None
        adapter = Supervisord({rig.server: rig.password})
        [found] = await statuses(rig, "a", adapter=adapter)
        assert found.pid
        command = adapter.stop(service(rig, "a"), expect=found.identity)
        for wrong in ({}, {rig.server: Secret("wrong")}):
            with pytest.raises(CommandFailed, match="user and a password") as caught:
                await statuses(rig, "a", adapter=Supervisord(wrong))
            assert "server: unix://USER" in str(caught.value.fix)
    text = f"{command} {command!r} {adapter!r} {' '.join(command.argv)}"
    assert "hu:sh" not in text
    assert "bWU6aHU6c2g=" not in text


async def test_a_program_that_cannot_be_executed_is_refused_in_supervisords_words() -> None:
    programs = {"gone": {"command": "/no/such/program", "autostart": "false"}}
    refused = pytest.raises(CommandFailed, match=r"NO_FILE: .*/no/such/program")
    with supervisord(programs) as rig, refused:
        await start(service(rig, "gone"))


async def test_a_program_that_is_tried_again_and_again_is_starting() -> None:
    with supervisord({"loop": {"command": "false", "startretries": "99"}}) as rig:
        says = ""
        async with asyncio.timeout(10):
            while "tries again" not in says:
                [found] = await statuses(rig, "loop")
                assert found.state is ServiceState.STARTING
                says = found.says
                await asyncio.sleep(0.02)
    assert found.clean_exit is None


async def test_a_program_that_ends_by_itself_says_how() -> None:
    ends = {"startsecs": "0", "autorestart": "false"}
    programs = {"good": ends | {"command": "true"}, "bad": ends | {"command": "sh -c 'exit 3'"}}
    with supervisord(programs) as rig:
        async with asyncio.timeout(10):
            found = await statuses(rig, "good", "bad")
            while any(one.state is not ServiceState.STOPPED for one in found):
                await asyncio.sleep(0.02)
                found = await statuses(rig, "good", "bad")
    good, bad = found
    assert (good.clean_exit, bad.clean_exit) == (True, False)
    assert "exit code 0" in good.says
    assert bad.says == "Bad exit code 3"


async def test_where_nobody_listens_the_way_out_is_named(tmp_path: Path) -> None:
    one = ServiceRef("local", "supervisord", "a", server=f"unix://{tmp_path}/s")
    with pytest.raises(CommandFailed, match="is not running on local") as caught:
        await start(one)
    assert "server: unix:///path" in str(caught.value.fix)


def test_a_socket_that_is_closed_to_us_is_no_missing_supervisord() -> None:
    completed = relayed(("failed", b"PermissionError\tunix:///s\tPermission denied"))
    with pytest.raises(CommandFailed, match="does not let this user in") as caught:
        Supervisord().read_effect(ServiceRef("web1", "supervisord", "a"), completed)
    assert "chmod" in str(caught.value.fix)


@contextlib.contextmanager
def pretender(*answers: bytes) -> Iterator[str]:
    """Somebody else behind the socket: each connection gets the next answer and is closed."""
    with (
        tempfile.TemporaryDirectory(prefix="sv-") as folder,
        socket.socket(socket.AF_UNIX) as server,
    ):
        server.bind(f"{folder}/s")
        server.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"unix://{folder}/s"
        thread.join(10)
        assert not thread.is_alive()


async def test_something_else_behind_the_socket_is_not_believed() -> None:
    answers = b"HTTP/1.0 200 OK\r\n\r\n<html>", b"HTTP/1.0 500 no\r\n\r\n"
    with pretender(*answers) as server, pytest.raises(CommandFailed, match="not XML-RPC"):
        await start(ServiceRef("local", "supervisord", "a", server=server))


async def test_a_supervisord_that_hangs_up_in_the_middle_leaves_it_unknown() -> None:
    info = {"start": 1, "pid": 2, "state": 0}
    body = xmlrpc.client.dumps((info,), methodresponse=True).encode()
    answers = b"HTTP/1.0 200 OK\r\n\r\n" + body, b""
    with pretender(*answers) as server, pytest.raises(CommandFailed, match="hung up"):
        await start(ServiceRef("local", "supervisord", "a", server=server))


def relayed(*parts: tuple[str, bytes], before: bytes = b"", code: int = 0) -> Completed:
    framed = b"".join(f"{kind} {len(content)}\n".encode() + content for kind, content in parts)
    return Completed(code, before + MARK + zlib.compress(framed), b"", 0.1)


def answer(value: Any) -> bytes:
    body = xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True)
    return b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n" + body.encode()


SAMPLE = {
    "name": "a",
    "group": "a",
    "start": 1795168363,
    "stop": 1795168371,
    "state": 0,
    "spawnerr": "",
    "exitstatus": -1,
    "pid": 0,
    "description": "Nov 20 09:52 AM",
}
ONE = ServiceRef("web1", "supervisord", "a")


def test_a_banner_before_the_answer_is_ignored() -> None:
    completed = relayed(("answer", answer([[], SAMPLE])), before=b"Welcome to web1!\n")
    assert Supervisord().read_status([ONE], completed)[ONE].clean_exit is False


@pytest.mark.parametrize(
    "changed",
    [
        {"pid": "x"},
        {"start": None},
        {"state": 7},
        {"start": 2**31 - 1, "pid": 5},
        {"exitstatus": []},
    ],
)
def test_strange_values_are_unknown_and_do_no_harm(changed: dict[str, object]) -> None:
    completed = relayed(("answer", answer([[], SAMPLE | changed])))
    assert Supervisord().read_status([ONE], completed)[ONE].says


@given(st.binary(max_size=300), st.integers(0, 200))
def test_a_damaged_answer_is_refused_and_nothing_else(noise: bytes, cut: int) -> None:
    whole = relayed(("answer", answer([[SAMPLE], SAMPLE])), ("answer", answer(True)))
    framed = zlib.decompress(whole.out.partition(MARK)[2])
    position = len(framed) * cut // 200
    damaged = [
        noise,
        whole.out[: len(whole.out) * cut // 200] + noise,
        MARK + zlib.compress(noise),
        MARK + zlib.compress(framed[:position] + noise + framed[position + len(noise) :]),
        MARK + zlib.compress(b"answer %d\n" % len(noise) + noise),
    ]
    adapter = Supervisord()
    for out in damaged:
        with contextlib.suppress(CommandFailed):
            adapter.read_status([ONE], Completed(0, out, b"", 0.1))
        with contextlib.suppress(CommandFailed):
            adapter.read_effect(ONE, Completed(0, out, b"", 0.1))


def test_entities_in_an_answer_are_refused() -> None:
    bomb = b'HTTP/1.0 200 OK\r\n\r\n<!DOCTYPE x [<!ENTITY a "b">]><methodResponse/>'
    with pytest.raises(CommandFailed, match="not supervisord"):
        Supervisord().read_status([ONE], relayed(("answer", bomb)))


def test_an_order_whose_fate_is_unknown_says_so() -> None:
    reset = b"ConnectionResetError\tunix:///s\tConnection reset by peer"
    completed = relayed(("answer", answer(SAMPLE)), ("failed", reset))
    with pytest.raises(CommandFailed, match="Whether it was told before is unknown"):
        Supervisord().read_effect(ONE, completed)


def test_python_that_is_not_there_is_named() -> None:
    completed = Completed(127, b"", b"sh: python3: not found\n", 0.1)
    with pytest.raises(CommandFailed, match=r"Python 3, which is not there: sh: python3"):
        Supervisord().read_status([ONE], completed)
    with pytest.raises(CommandFailed, match=r"exit code 1"):
        Supervisord().read_effect(ONE, Completed(1, b"", b"", 0.1))


def test_a_command_can_be_compared() -> None:
    stop = Supervisord().stop(replace(ONE, server="unix:///s"), expect="1795165986:11066")
    assert stop.argv[:4] == ("python3", "-I", "-S", "-c")
    assert str(stop) == "supervisorctl -s unix:///s stop a"
    places, first, guard, then, otherwise, wants_config = json.loads(stop.stdin)
    assert (places, guard, wants_config) == (["unix:///s"], ["1795165986:11066", ""], False)
    methods = [
        xmlrpc.client.loads(request.partition("\r\n\r\n")[2])
        for request in (first, then, otherwise)
    ]
    assert methods == [
        (("a",), "supervisor.getProcessInfo"),
        (("a", False), "supervisor.stopProcess"),
        ((), "supervisor.getAllProcessInfo"),
    ]
    assert json.loads(Supervisord().start(ONE).stdin)[0] == list(USUAL_SERVERS)
