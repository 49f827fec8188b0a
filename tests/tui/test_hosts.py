"""The Hosts view: what it shows, and that order and filter keep their sense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_ops.model import (
    Disk,
    Finding,
    FleetSnapshot,
    Host,
    HostFacts,
    HostReleases,
    Level,
    Reading,
    Restarts,
    Service,
    ServiceRef,
    ServiceState,
    ServiceStatus,
    Usage,
    WorkerState,
)
from celery_ops.tui.hosts import HostsView
from tests.tui import fleets
from tests.tui.fleets import HOSTILE, ago
from tests.tui.screens import SIZES, opened
from tests.tui.standins import FedLogs

GIGA = 1024**3
FACTS = HostFacts(
    load=(0.52, 1.07, 0.99),
    cpus=4,
    memory=8 * GIGA,
    memory_available=6 * GIGA,
    disks=(Disk("/", 100 * GIGA, 40 * GIGA, 60 * GIGA), Disk("/var", 10 * GIGA, 9 * GIGA, GIGA)),
    uptime=200_000.0,
)


def host(name: str, **changes: Any) -> Host:
    found = Host(name, f"{name}.lan", reached_at=ago(1), facts=Reading(FACTS, ago(1)))
    return replace(found, **changes)


def service(
    name: str, on: str, state: ServiceState = ServiceState.RUNNING, *, pid: int = 7
) -> Service:
    ref = ServiceRef(on, "systemd", name, worker=f"{name}@{on}")
    runs = state is ServiceState.RUNNING
    status = ServiceStatus(
        state, pid if runs else None, "life", ago(7_300) if runs else None, None,
        "active" if runs else "ended with exit code 1", restarts=2,
    )  # fmt: skip
    usage = Reading(Usage(pid, 5, 300 * 1024**2, 1.25), ago(1)) if runs else None
    return Service(ref, Reading(status, ago(1)), usage=usage)


def fleet() -> FleetSnapshot:
    """Two hosts that are well, one that hangs, one that is gone; a worker nobody supervises."""
    services = (
        service("w1", "web1"),
        service("w2", "web1", ServiceState.FAILED),
        service("w1", "web2"),
        replace(service("w1", "web3"), error="connection refused"),
    )
    workers = (
        replace(fleets.worker("w1@web1"), service=services[0]),
        replace(fleets.worker("w1@web2", state=WorkerState.SILENT), service=services[2]),
        replace(fleets.worker("stray@web9"), service=None),
    )
    hosts = (
        host("web10"),
        host("web1"),
        host("web2", silent_since=ago(8)),
        host("web3", error="connection refused", since=ago(125)),
    )
    return fleets.fleet(workers, (), services=services, hosts=hosts)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_what_matters_at_night_is_there_at_every_size(size: tuple[int, int]) -> None:
    async with opened(fleet(), size=size) as there:
        await there.press("6")
        assert "4 hosts, 4 services" in there.text
        assert "● reachable" in there.line("1 of 2 run")
        assert "▲ failed" in there.line(" w2 ")
        assert "none answers" in there.line(" w2 ")
        assert "8s" in there.line("▲ no answer").split()
        lost = there.line("▲ unreachable")
        assert "web3" in lost
        assert "2m" in lost
        assert "no service" in there.line("stray@web9")


async def test_services_stand_below_their_hosts_in_the_order_of_names() -> None:
    async with opened(fleet(), size=(160, 30)) as there:
        await there.press("6")
        first = [line.split()[0] for line in there.text.split("\n")[4:13]]
        assert first == ["▌", "web1", "web1", "web2", "web2", "web3", "web3", "web10", "-"]


async def test_what_a_service_uses_and_what_a_host_has_left_is_shown() -> None:
    async with opened(fleet(), size=(200, 50)) as there:
        await there.press("6")
        mine = there.line("w1@web1")
        for text in ("1.25", "300M", "2h", "2", "7"):
            assert text in mine.split()
        own = there.line("1 of 2 run")
        for text in ("0.52/4", "25% of 8.0G", "90% /var", "2d"):
            assert text in own


async def test_what_is_not_known_of_a_host_is_no_zero() -> None:
    unread = replace(host("web1"), facts=None, reached_at=None)
    silent = replace(service("w1", "web1"), status=None, usage=None)
    snapshot = fleets.fleet((), (), hosts=(unread,), services=(silent,))
    async with opened(snapshot, size=(200, 50)) as there:
        await there.press("6")
        own, mine = there.line("? not read"), there.line("? unknown")
        assert own.split().count("?") >= 5
        assert mine.split().count("?") >= 6
        assert "0" not in own.partition("not read")[2]
        assert "0" not in mine.partition("unknown")[2]


async def test_services_of_a_lost_host_are_not_shown_as_running() -> None:
    async with opened(fleet(), size=(170, 30)) as there:
        await there.press("6", "slash")
        await there.type("web3")
        assert "? of 1 run" in there.text
        assert "? running" in there.text
        assert "its host is not reachable: as last known" in there.text
        assert "● running" not in there.text


async def test_only_what_is_wrong_keeps_the_host_of_what_is_wrong() -> None:
    async with opened(fleet(), size=(160, 30)) as there:
        await there.press("6", "ctrl+z")
        assert "1 of 2 run" in there.text
        assert "web10" not in there.text
        assert "w1@web1" not in there.text
        assert "w1@web2 silent" in there.text


def selected(view: HostsView) -> ServiceRef | str | None:
    row = view.table.row
    return None if row is None else view.log_of(row)


async def test_the_log_of_a_service_is_asked_for_from_its_row_and_its_description() -> None:
    logs = FedLogs()
    async with opened(fleet(), size=(160, 30), logs=logs) as there:
        await there.press("6", "l")
        assert "A host has no log of its own" in there.text
        assert logs.begun == []
        await there.press("down", "l")
        await there.press("escape", "d", "l")
        assert [(one.host, one.name) for one in logs.begun] == [("web1", "w1")] * 2


async def test_the_cursor_stays_on_its_service_when_the_rows_change() -> None:
    async with opened(fleet(), size=(160, 30)) as there:
        await there.press("6", "down", "down")
        view = there.app.screen.query_one(HostsView)
        ref = ServiceRef("web1", "systemd", "w2", worker="w2@web1")
        assert selected(view) == ref
        more = (host("db1"), *fleet().hosts)
        await there.see(replace(fleet(), hosts=more, _by_name={}))
        assert selected(view) == ref
        await there.press("greater_than_sign", "greater_than_sign", "i")
        assert selected(view) == ref
        await there.press("home")
        await there.press("less_than_sign", "less_than_sign", "i", "home")
        assert isinstance(selected(view), str)


async def test_the_gravest_comes_first_by_state() -> None:
    async with opened(fleet(), size=(160, 30)) as there:
        await there.press("6", "greater_than_sign", "greater_than_sign", "home")
        rows = there.text.split("\n")[4:13]
        assert ["web2" in rows[0], "web3" in rows[1], "web3" in rows[2], "w2" in rows[3]] == [
            True
        ] * 4


async def test_a_service_that_is_restarted_again_and_again_is_marked() -> None:
    often = replace(service("w1", "web1"), restarted=Restarts(4, ago(60), by_supervisor=True))
    async with opened(fleets.fleet((), (), hosts=(host("web1"),), services=(often,))) as there:
        await there.press("6", "down", "d")
        assert "4 by its supervisor within 1m" in there.text


async def test_a_host_is_described_with_all_its_disks_and_services() -> None:
    async with opened(fleet(), size=(120, 50)) as there:
        await there.press("6", "d")
        for text in ("host web1", "web1.lan", "0.52  1.07  0.99", "6.0G of 8.0G", "/var  90% full",
                     "systemd w2", "▲ failed", "How it is doing  read 1s ago"):  # fmt: skip
            assert text in there.text


async def test_a_lost_host_is_described_with_the_reason_and_since_when() -> None:
    async with opened(fleet(), size=(120, 50)) as there:
        await there.press("6")
        await there.press(*["down"] * 5, "d")
        assert "▲ unreachable" in there.text
        assert "12:01:06 (2m ago)" in there.text
        assert "connection refused" in there.text


async def test_a_service_is_described_and_shown_raw() -> None:
    async with opened(fleet(), size=(120, 60)) as there:
        await there.press("6", "down", "d")
        for text in ("service systemd w1 on web1", "w1@web1", "Its processes: 5", "1.25 cores"):
            assert text in there.text
        await there.press("escape", "y")
        assert '"restarts": 2' in there.text


async def test_a_worker_without_a_service_is_described_as_that_worker() -> None:
    async with opened(fleet(), size=(120, 50)) as there:
        await there.press("6", "end", "d")
        assert "worker stray@web9" in there.text


async def test_hostile_names_and_errors_of_hosts_stay_text() -> None:
    named = tuple(replace(host(text), error=text, since=ago(3), unread=text) for text in HOSTILE)
    services = tuple(replace(service(text, text), error=text) for text in HOSTILE)
    async with opened(fleets.fleet((), (), hosts=named, services=services)) as there:
        await there.press("6")
        assert "▲ unreachable" in there.text
        for key in ("d", "escape", "y", "escape", "down", "d", "escape"):
            await there.press(key)
            assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(there.text)


async def test_a_problem_of_a_host_is_described_with_the_host() -> None:
    finding = Finding("disk-nearly-full", Level.WARNING, "web1", "/var is 90% full", "look")
    async with opened(replace(fleet(), problems=(finding,), _by_name={}), size=(120, 50)) as there:
        await there.press("enter")
        for text in ("/var is 90% full", "web1.lan", "0.52  1.07  0.99"):
            assert text in there.text


def released() -> FleetSnapshot:
    """Two services of one host, one of which runs what was there before."""
    old, new = service("w1", "web1"), service("w2", "web1")
    old = replace(old, release=Reading("v41", ago(1)))
    new = replace(new, release=Reading("v42", ago(1)))
    has = HostReleases("v42", ("v41", "v42"))
    workers = tuple(
        replace(fleets.worker(f"{one.ref.name}@web1"), service=one) for one in (old, new)
    )
    made = fleets.fleet(workers, ())
    web1 = host("web1", releases=Reading(has, ago(1)))
    return replace(made, hosts=(web1,), services=(old, new))


async def test_the_releases_of_hosts_and_workers_are_seen() -> None:
    async with opened(released(), size=(160, 24)) as there:
        await there.press("6")
        assert "v42" in there.line("2 of 2 run")
        assert "v41" in there.line("w1@web1")
        await there.press("2")
        assert "v41" in there.line("w1@web1")
        assert "v42" in there.line("w2@web1")
        await there.press("d")
        assert "release" in there.text
        await there.press("escape", "6", "d")
        assert "v41  v42" in there.text
