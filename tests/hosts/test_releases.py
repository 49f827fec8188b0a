"""Releases on a real host: real links, real processes, and a real application in two releases."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import CommandRelease, SymlinkRelease
from celery_ops.errors import CommandFailed, UsageError
from celery_ops.hosts.local import LocalShell
from celery_ops.hosts.releases.commands import Commands
from celery_ops.hosts.releases.symlink import Symlink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from celery_ops.ports import ReleaseLayout, ReleasesReading

TIMEOUT = 60.0


@dataclass
class Site:
    """Releases v9, v10 and v11 below `releases`, and a link to v10."""

    root: Path

    @property
    def link(self) -> Path:
        return self.root / "current"

    @property
    def layout(self) -> Symlink:
        return Symlink(SymlinkRelease(str(self.link), str(self.root / "releases")))

    def release(self, name: str) -> Path:
        return self.root / "releases" / name


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    for name in ("v10", "v9", "v11"):
        made.release(name).mkdir(parents=True)
    made.link.symlink_to("releases/v10")
    return made


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


async def look(layout: ReleaseLayout, pids: Collection[int] = ()) -> ReleasesReading:
    return layout.read(await LocalShell().run(layout.look(pids), timeout=TIMEOUT))


async def activate(layout: ReleaseLayout, release: str, expect: str | None = None) -> None:
    command = layout.activate(release, expect=expect)
    layout.read_activated(release, await LocalShell().run(command, timeout=TIMEOUT))


def sleeper(*words: str, cwd: Path) -> subprocess.Popen[bytes]:
    """A process that waits, with these words at the end of its command line."""
    argv = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()", *words]
    process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


async def test_the_current_one_and_all_there_are(site: Site) -> None:
    site.root.joinpath("releases", "latest").symlink_to("v11")
    site.root.joinpath("releases", "notes.txt").write_text("no release")
    reading = await look(site.layout)
    assert (reading.host.current, reading.host.known) == ("v10", ("v9", "v10", "v11"))
    assert reading.host.previous == "v9"


async def test_a_process_runs_what_it_was_started_in(
    site: Site, processes: list[subprocess.Popen[bytes]]
) -> None:
    by_directory = sleeper(cwd=site.link)
    by_argument = sleeper(f"{site.release('v9')}/bin/celery", cwd=site.root)
    elsewhere = sleeper(cwd=site.root)
    processes += [by_directory, by_argument, elsewhere]
    await activate(site.layout, "v11", "v10")
    reading = await look(site.layout, [one.pid for one in processes])
    assert reading.host.current == "v11"
    assert reading.runs == {by_directory.pid: "v10", by_argument.pid: "v9"}
    assert reading.since is not None
    assert reading.started[elsewhere.pid] < reading.since
    gone = await look(site.layout, [2**22 + 1])
    assert (gone.runs, gone.started) == ({}, {})


async def test_what_begins_after_a_look_is_newer_than_it(
    site: Site, processes: list[subprocess.Popen[bytes]]
) -> None:
    before = await look(site.layout)
    processes.append(sleeper(cwd=site.root))
    after = await look(site.layout, [processes[0].pid])
    # proc(5) tells it in hundredths of a second, rounded down.
    assert before.at - 0.011 <= after.started[processes[0].pid] <= after.at


async def test_a_link_stays_as_it_was_written(site: Site) -> None:
    await activate(site.layout, "v9")
    assert os.readlink(site.link) == "releases/v9"
    site.link.unlink()
    site.link.symlink_to(site.release("v9"))
    await activate(site.layout, "v10", "v9")
    assert os.readlink(site.link) == str(site.release("v10"))
    assert sorted(one.name for one in site.root.iterdir()) == ["current", "releases"]


async def test_there_is_no_moment_without_a_release(site: Site) -> None:
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.add(os.readlink(site.link))  # raises if there is none

    with_errors: list[BaseException] = []
    thread = threading.Thread(target=watch)
    previous, threading.excepthook = (
        threading.excepthook,
        lambda args: with_errors.append(args.exc_value or RuntimeError()),
    )
    try:
        thread.start()
        for _ in range(5):
            await activate(site.layout, "v9")
            await activate(site.layout, "v10")
    finally:
        over.set()
        thread.join()
        threading.excepthook = previous
    assert with_errors == []
    assert seen == {"releases/v9", "releases/v10"}


async def test_a_switch_is_meant_for_what_was_seen(site: Site) -> None:
    with pytest.raises(CommandFailed, match="'v10', another one than was planned for"):
        await activate(site.layout, "v11", "v9")
    assert os.readlink(site.link) == "releases/v10"
    await activate(site.layout, "v10", "v9")  # it is what was wanted


async def test_a_release_that_is_not_there_is_refused_with_those_that_are(site: Site) -> None:
    with pytest.raises(CommandFailed, match="no release 'v12'") as caught:
        await activate(site.layout, "v12")
    assert caught.value.fix == "There are: v9, v10, v11."
    for name in ("../v9", "v9/x", "", "-f", "v 9", "previous"):
        with pytest.raises(UsageError, match="cannot be the name"):
            site.layout.activate(name, expect=None)


async def test_what_is_no_link_is_left_alone(site: Site) -> None:
    site.link.unlink()
    site.link.mkdir()
    with pytest.raises(CommandFailed, match="is no link"):
        await activate(site.layout, "v9")
    assert site.link.is_dir()
    assert (await look(site.layout)).host.current is None


async def test_a_directory_that_is_not_there_is_named(site: Site) -> None:
    layout = Symlink(SymlinkRelease(str(site.link), str(site.root / "elsewhere" / "x")))
    with pytest.raises(CommandFailed, match="no directory"):
        await look(layout)


APP = """
import os
from celery import Celery
app = Celery("shop")
assert os.environ["SHOP_HOME"].endswith(os.environ["EXPECTED"]), os.environ["SHOP_HOME"]
print("noise of the application")
def print_nothing(): pass
"""


async def test_a_release_tells_its_tasks_by_itself(
    site: Site, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, tasks in (("v9", ("mail",)), ("v10", ("mail", "invoice"))):
        lines = [f'app.task(name="shop.{one}")(print_nothing)' for one in tasks]
        site.release(name).joinpath("shop.py").write_text(APP + "\n".join(lines))
    monkeypatch.setenv("SHOP_HOME", str(site.link))
    monkeypatch.setenv("EXPECTED", "v9")
    processes.append(sleeper("-A", "shop", "worker", cwd=site.link))
    monkeypatch.delenv("SHOP_HOME")
    command = site.layout.tasks("v9", pid=processes[0].pid)
    assert command is not None
    completed = await LocalShell().run(command, timeout=TIMEOUT)
    assert site.layout.read_tasks("v9", completed) == {"shop.mail"}
    site.release("v9").joinpath("shop.py").write_text("import nowhere_to_be_found")
    completed = await LocalShell().run(command, timeout=TIMEOUT)
    with pytest.raises(CommandFailed, match="nowhere_to_be_found"):
        site.layout.read_tasks("v9", completed)


def commands(root: Path) -> Commands:
    """A release is the text of a file, and there is a file for each release that can be had."""
    there = ("sh", "-c", f'test -e {root}/"$1"', "exists")
    switch = ("sh", "-c", f'echo told; printf "%s" "$1" > {root}/current', "activate")
    return Commands(
        CommandRelease(
            current=("cat", f"{root}/current"),
            activate=switch,
            exists=there,
            releases=("sh", "-c", f"ls {root} | grep v"),
            tasks=("sh", "-c", f'cat {root}/"$1"', "tasks"),
        )
    )


async def test_releases_are_what_commands_say(tmp_path: Path) -> None:
    tmp_path.joinpath("current").write_text("v2")
    tmp_path.joinpath("v1").write_text("shop.mail\nshop.invoice\n")
    tmp_path.joinpath("v2").write_text("shop.mail\n")
    layout = commands(tmp_path)
    reading = await look(layout, [os.getpid()])
    assert (reading.host.current, reading.host.known) == ("v2", ("v1", "v2"))
    assert reading.runs == {}
    assert reading.started[os.getpid()] <= reading.at
    with pytest.raises(CommandFailed, match="another one than was planned for"):
        await activate(layout, "v1", "v3")
    with pytest.raises(CommandFailed, match="no release 'v4'"):
        await activate(layout, "v4", "v2")
    await activate(layout, "v1", "v2")
    await activate(layout, "v1", "v2")
    assert (await look(layout)).host.current == "v1"
    command = layout.tasks("v1", pid=None)
    assert command is not None
    completed = await LocalShell().run(command, timeout=TIMEOUT)
    assert layout.read_tasks("v1", completed) == {"shop.mail", "shop.invoice"}


async def test_commands_that_fail_are_told(tmp_path: Path) -> None:
    layout = commands(tmp_path)
    with pytest.raises(CommandFailed, match="No such file"):
        await look(layout)
    with pytest.raises(CommandFailed, match="No such file"):
        await activate(layout, "v1")
