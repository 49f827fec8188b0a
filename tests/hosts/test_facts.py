"""What hosts print about themselves: Debian's, BusyBox's, and what is odd or missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.errors import CommandFailed
from celery_ops.hosts import HostPool, facts
from celery_ops.model import Disk, HostFacts
from celery_ops.ports import Completed, HostReading, ProcessTree

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBIAN = """\
tree 812 812 830 831
tree 900 900
/proc/loadavg:0.52 1.07 0.99 2/187 9125
/proc/uptime:86412.55 170000.11
/proc/meminfo:MemTotal:        8039316 kB
/proc/meminfo:MemAvailable:    5241872 kB
/proc/stat:cpu0 10 0 10 100 0 0 0 0 0 0
/proc/stat:cpu1 10 0 10 100 0 0 0 0 0 0
/proc/812/stat:812 (celery) S 1 812 812 0 -1 4194560 9 9 0 0 1200 300 40 10 20 0 1 0 4711 9 9
/proc/812/status:VmRSS:\t   61440 kB
/proc/830/stat:830 (celery) R 812 812 812 0 -1 4194560 9 9 0 0 500 50 0 0 20 0 1 0 4800 9 9
/proc/830/status:VmRSS:\t   40960 kB
disks
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/sda1         20510332 18459300   1000000      95% /
tmpfs               804932     1100    803832       1% /run
/dev/sda1         20510332 18459300   1000000      95% /srv/bind
/dev/mapper/a b   10255636       20  10255616       1% /var/lib/redis
"""


def read(out: str, *, truncated: bool = False) -> HostReading:
    return facts.read(Completed(0, out.encode(), b"", 0.0, truncated))


def test_all_is_read_of_a_debian_host() -> None:
    found = read(DEBIAN)
    assert found.facts == HostFacts(
        load=(0.52, 1.07, 0.99),
        cpus=2,
        memory=8039316 * 1024,
        memory_available=5241872 * 1024,
        disks=(
            Disk("/", 20510332 * 1024, 18459300 * 1024, 1000000 * 1024),
            Disk("/run", 804932 * 1024, 1100 * 1024, 803832 * 1024),
            Disk("/var/lib/redis", 10255636 * 1024, 20 * 1024, 10255616 * 1024),
        ),
        uptime=86412.55,
    )


def test_a_tree_adds_up_its_processes_and_the_children_it_had() -> None:
    """831 ended between the walk and the look."""
    assert read(DEBIAN).trees == {812: ProcessTree(2, (61440 + 40960) * 1024, 21.0, 4711)}


def test_a_main_process_that_is_gone_has_no_tree() -> None:
    assert 900 not in read(DEBIAN).trees


def test_fullness_leaves_the_reserve_of_root_out_as_df_does() -> None:
    disks = read(DEBIAN).facts.disks
    assert disks is not None
    assert disks[0].fullness == pytest.approx(0.9486, abs=0.0001)


@pytest.mark.parametrize(
    "out",
    [
        "",
        "disks\n",
        "sh: grep: not found\ndisks\ndf: /: No such device\n",
        "/proc/loadavg:\n/proc/uptime:x y\n/proc/meminfo:MemTotal: lots kB\ndisks\nheader only\n",
        "disks\nFilesystem 1024-blocks Used Available Capacity Mounted on\n- - - - - /\n",
    ],
    ids=["nothing", "no-df", "no-grep", "nonsense", "dashes"],
)
def test_what_is_missing_is_unknown_and_never_zero(out: str) -> None:
    assert read(out) == HostReading(HostFacts(), {})


def test_one_part_that_is_missing_does_not_take_the_others_along() -> None:
    without_memory = "".join(line for line in DEBIAN.splitlines(True) if "MemAv" not in line)
    found = read(without_memory).facts
    assert found.memory_available is None
    assert found.memory_fullness is None
    assert found.load == (0.52, 1.07, 0.99)


def test_an_old_kernel_that_does_not_estimate_what_is_available_is_not_guessed_for() -> None:
    assert read("/proc/meminfo:MemTotal: 1000 kB\ndisks\n").facts.memory_available is None


def test_hidden_processes_have_no_memory_and_no_tree() -> None:
    out = DEBIAN.replace("/proc/830/status:VmRSS:\t   40960 kB\n", "")
    assert read(out).trees[812].memory is None


def test_a_process_that_nobody_waited_for_holds_no_memory() -> None:
    zombie = "/proc/831/stat:831 (x) Z 812 812 812 0 -1 4 9 9 0 0 5 5 0 0 20 0 1 0 4801 9 9\n"
    tree = read(DEBIAN.replace("disks\n", zombie + "disks\n", 1)).trees[812]
    assert (tree.processes, tree.memory) == (3, (61440 + 40960) * 1024)


def test_a_process_with_a_hostile_name_moves_no_number() -> None:
    name = "x) R 1 1 1 1 1 1 1 1 1 1 9999 9999 9999 9999 1 1 1 1 1 ("
    assert read(DEBIAN.replace("(celery) S", f"({name}) S")).trees == read(DEBIAN).trees


def test_a_name_with_a_line_end_is_not_taken_for_another_line() -> None:
    split = "(a\n/proc/loadavg:9 9 9\n) S"
    assert read(DEBIAN.replace("(celery) S", split)).facts.load == (0.52, 1.07, 0.99)


@pytest.mark.parametrize(
    "number",
    ["9" * 5_000, "nan", "inf", "1e400", "-1", "٣"],
    ids=["endless", "nan", "inf", "too-large", "negative", "not-ascii"],
)
def test_a_number_that_is_none_is_unknown(number: str) -> None:
    out = (
        f"tree {number} {number}\n/proc/loadavg:{number} 1 1\n/proc/uptime:{number} 1\n"
        f"/proc/meminfo:MemTotal: {number} kB\n/proc/{number}/status:VmRSS: {number} kB\n"
        f"disks\n/dev/sda1 {number} {number} {number} 1% /\n"
    )
    assert read(out) == HostReading(HostFacts(), {})


def test_an_answer_that_was_cut_loses_only_what_may_be_incomplete() -> None:
    found = read(DEBIAN[: DEBIAN.index("/run") + 2], truncated=True)
    assert found.facts.load == (0.52, 1.07, 0.99)
    assert [one.mount for one in found.facts.disks or ()] == ["/"]


def test_a_host_without_a_shell_is_an_error() -> None:
    with pytest.raises(CommandFailed, match="facts cannot be read: sh: not found"):
        facts.read(Completed(127, b"", b"sh: not found", 0.0))


BUSYBOX = """\
tree 1 1
/proc/loadavg:0.00 0.01 0.05 1/33 12
/proc/uptime:12.00 11.00
/proc/meminfo:MemTotal:         249052 kB
/proc/meminfo:MemAvailable:     180000 kB
/proc/1/stat:1 (celery) S 0 1 1 0 -1 4194560 9 9 0 0 12 3 0 0 20 0 1 0 4 9 9
/proc/1/status:VmRSS:\t    1024 kB
disks
Filesystem           1024-blocks    Used Available Capacity Mounted on
overlay               20510332  10255166  10255166  50% /
shm                      65536         0     65536   0% /dev/shm
"""


def test_a_busybox_host_is_read() -> None:
    found = read(BUSYBOX)
    assert found.facts.cpus is None
    assert [one.mount for one in found.facts.disks or ()] == ["/", "/dev/shm"]
    assert found.trees == {1: ProcessTree(1, 1024 * 1024, 0.15, 4)}


FORKER = "import os, time\nfor _ in range(2):\n    os.fork()\nprint(flush=True)\ntime.sleep(60)"


@pytest.fixture
def forked() -> Iterator[int]:
    """The first of four processes; one of the others is its grandchild."""
    process = subprocess.Popen([sys.executable, "-c", FORKER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        for _ in range(4):
            process.stdout.readline()
        yield process.pid
    for pid in [*_below(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def busy() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def local() -> HostPool:
    return HostPool(only_broker("redis://unused"))


async def test_this_machine_tells_what_its_kernel_says(local: HostPool, forked: int) -> None:
    found = await local.facts("local", {forked, 2**22 + 1})
    pids = [forked, *_below(forked)]
    tree = found.trees[forked]
    assert list(found.trees) == [forked]
    assert tree.processes == len(pids) == 4
    assert tree.memory == pytest.approx(sum(map(_resident, pids)), rel=0.05)
    root = os.statvfs("/")
    disks = {disk.mount: disk for disk in found.facts.disks or ()}
    assert disks["/"].size == pytest.approx(root.f_blocks * root.f_frsize, rel=0.01)
    assert found.facts.cpus == os.cpu_count()
    assert found.facts.uptime == pytest.approx(_uptime(), abs=10)


async def test_time_that_is_burnt_is_told_by_two_looks(local: HostPool, busy: int) -> None:
    first = (await local.facts("local", {busy})).trees[busy]
    second = first
    async with asyncio.timeout(20):
        while second.cpu < first.cpu + 0.1:
            second = (await local.facts("local", {busy})).trees[busy]
    assert second.started == first.started


def _below(pid: int) -> list[int]:
    found = []
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(one), *_below(int(one))]
    return found


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])
