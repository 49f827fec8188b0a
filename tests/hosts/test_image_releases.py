"""Releases that are tags of an image: a real compose in a real daemon, and what it reads."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import ImageRelease, only_broker
from celery_ops.errors import CommandFailed, UsageError
from celery_ops.hosts import HostPool
from celery_ops.model import ServiceRef, ServiceState
from tests.hosts.contract import Program, Supervised
from tests.hosts.test_docker import POLITE
from tests.rig import wait_until
from tests.rig.dockerd import Dockerd, compose_file, dockerd
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery_ops.ports import ReleaseLayout, ReleasesReading

pytestmark = pytest.mark.rig

TIMEOUT = 60.0
IMAGE = "reg.example:5000/shop/app"
WORKER = Program.POLITE


@dataclass
class Site:
    """A project of compose with a worker, which runs v2 of v1 and v2."""

    folder: Path
    daemon: Dockerd
    project: str

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    @property
    def file(self) -> Path:
        return self.folder / "compose.json"

    @property
    def service(self) -> ServiceRef:
        name = f"{self.project}/{WORKER}"
        return ServiceRef("local", "compose", name, "w@box", server=self.daemon.server)

    @property
    def pool(self) -> HostPool:
        """As celery-ops.yaml would have it."""
        return HostPool(
            replace(
                only_broker("redis://unused"),
                services=(self.service,),
                compose_files={self.service: (str(self.file),)},
                release=ImageRelease(IMAGE, str(self.env_file), "TAG"),
            )
        )

    @property
    def layout(self) -> ReleaseLayout:
        layout = self.pool.release_layout("local")
        assert layout is not None
        return layout

    @property
    def worker(self) -> Supervised:
        services = {WORKER: self.service}
        return Supervised(
            self.pool.shell("local"), self.pool.supervisor("compose"), services, lambda: None
        )

    def write(self, **worker: object) -> None:
        """The compose file, with these keys of the worker's."""
        keys = {"command": POLITE, "image": f"{IMAGE}:${{TAG}}", **worker}
        self.file.write_text(json.dumps(compose_file({WORKER: keys})))

    def compose(self, *words: str) -> str:
        command = ("docker-compose", "--file", str(self.file), "--project-name", self.project)
        return self.daemon.run(*command, "--env-file", str(self.env_file), *words)

    def containers(self) -> list[str]:
        """Id and image of each container of the project."""
        label = f"label=com.docker.compose.project={self.project}"
        shape = "{{.ID}} {{.Image}}"
        return self.daemon.do("ps", "--all", "--filter", label, "--format", shape).splitlines()

    async def look(self, *pids: int) -> ReleasesReading:
        layout = self.layout
        return layout.read(await self.pool.shell("local").run(layout.look(pids), timeout=TIMEOUT))

    async def activate(self, release: str, expect: str | None = None) -> None:
        command = self.layout.activate(release, expect=expect)
        completed = await self.pool.shell("local").run(command, timeout=TIMEOUT)
        self.layout.read_activated(release, completed)

    async def runs(self) -> str | None:
        """The release that the worker is seen to run."""
        [status] = await self.worker.status(WORKER)
        assert status.pid is not None
        return (await self.look(status.pid)).runs.get(status.pid)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Dockerd]:
    if shutil.which("docker-compose") is None:
        missing("docker-compose (Debian: docker-compose)")
    with dockerd() as started:
        started.image(f"{IMAGE}:v1", RELEASE="v1")
        yield started


@pytest.fixture
def site(daemon: Dockerd, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(tmp_path, daemon, f"p{abs(hash(request.node.name))}")
    daemon.image(f"{IMAGE}:v2", RELEASE="v2")
    made.write()
    made.env_file.write_text("TAG=v2\n")
    yield made
    for one in made.containers():
        daemon.do("rm", "--force", one.split()[0])


async def test_the_current_one_and_all_there_are(site: Site) -> None:
    site.daemon.do("tag", f"{IMAGE}:v2", f"{IMAGE}:latest")
    try:
        reading = await site.look()
    finally:
        site.daemon.do("rmi", f"{IMAGE}:latest")
    assert reading.host.current == "v2"
    assert reading.host.known == ("v1", "latest", "v2")
    assert reading.host.previous == "v1", "latest is the same image"


async def test_a_worker_runs_the_image_that_its_container_was_made_of(site: Site) -> None:
    site.compose("up", "--detach")
    assert await site.runs() == "v2"
    site.env_file.write_text("TAG=v1\n")
    assert await site.runs() == "v2"
    site.daemon.image(f"{IMAGE}:v2", RELEASE="another")
    told = await site.runs()
    assert told is not None, "v2 is another image now"
    assert told.startswith("v2@")
    [container] = site.containers()
    image = site.daemon.inspect(container.split()[0], "{{.Image}}")
    assert told == f"v2@{image.removeprefix('sha256:')[:12]}"
    assert (await site.look(os.getpid())).runs == {}


async def test_a_start_brings_in_what_is_current_and_nothing_else(site: Site) -> None:
    site.compose("up", "--detach")
    [before] = site.containers()
    running = await site.worker.until(WORKER, ServiceState.RUNNING)
    await site.activate("v1", "v2")
    await site.worker.start(WORKER)
    assert site.containers() == [before], "what runs is left alone"
    with pytest.raises(CommandFailed, match="another incarnation"):
        await site.worker.stop(WORKER, "1:1")
    await site.worker.stop(WORKER, running.identity)
    assert (await site.worker.until(WORKER, ServiceState.STOPPED)).clean_exit is True
    await site.worker.start(WORKER)
    new = await site.worker.until(WORKER, ServiceState.RUNNING)
    [after] = site.containers()
    assert (before.split()[1], after.split()[1]) == (f"{IMAGE}:v2", f"{IMAGE}:v1")
    assert await site.runs() == "v1"
    await site.worker.stop(WORKER, new.identity)
    await site.worker.until(WORKER, ServiceState.STOPPED)
    await site.worker.start(WORKER)
    assert site.containers() == [after], "of the same image it is started as it is"


async def test_what_dies_again_and_again_is_brought_to_another_release(site: Site) -> None:
    dies = 'sleep 0.5; [ "$RELEASE" = v1 ] || exit 1; ' + POLITE[-1]
    site.write(command=["sh", "-c", dies.replace("$", "$$")], restart="always")
    site.compose("up", "--detach")
    [container] = site.containers()
    name = container.split()[0]
    wait_until(lambda: site.daemon.inspect(name, "{{.RestartCount}}") != "0", what="a new life")
    await site.activate("v1", "v2")
    await site.worker.start(WORKER)
    wait_until(lambda: [one.split()[1] for one in site.containers()] == [IMAGE + ":v1"], what="v1")
    await site.worker.until(WORKER, ServiceState.RUNNING)
    [after] = site.containers()
    assert site.daemon.inspect(after.split()[0], "{{.RestartCount}}") == "0"


async def test_a_start_that_was_cut_off_after_the_old_container_was_removed_goes_on(
    site: Site,
) -> None:
    site.compose("up", "--no-start")
    site.compose("rm", "--force")
    [gone] = await site.worker.status(WORKER)
    assert (gone.state, gone.startable) == (ServiceState.STOPPED, True)
    assert "a start makes one" in gone.says
    await site.worker.stop(WORKER, "1:1")
    await site.worker.start(WORKER)
    await site.worker.until(WORKER, ServiceState.RUNNING)
    assert await site.runs() == "v2"


async def test_nothing_is_pulled_and_nothing_is_lost_for_it(site: Site) -> None:
    site.compose("up", "--no-start")
    before = site.containers()
    site.env_file.write_text("TAG=v3\n")
    with pytest.raises(CommandFailed, match=f"its image '{IMAGE}:v3' is not on local"):
        await site.worker.start(WORKER)
    assert site.containers() == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("TAG=v2\n", "TAG=v1\n"),
        ("A=TAG\n# TAG=v3\nTAG=v2 # this week's\nTAGS=v2\nB='TAG=v2'", None),
        ("export TAG = 'v2'\r\nA=1\r\n", None),
        ('TAG="v2"', 'TAG="v1"'),
        ("TAG=\n", "TAG=v1\n"),
    ],
    ids=["plain", "among-others", "exported", "quoted", "empty"],
)
async def test_a_switch_changes_one_word_of_the_file(
    site: Site, before: str, after: str | None
) -> None:
    site.write(image=f"{IMAGE}:${{TAG}}", environment={"PASSWORD": "${A:-none}"})
    site.env_file.write_bytes(before.encode())
    site.env_file.chmod(0o640)
    os.chown(site.env_file, 12345, 12345)
    link = site.folder / "shared"
    site.env_file.rename(link)
    site.env_file.symlink_to(link)
    await site.activate("v1", (await site.look()).host.current)
    expected = before.replace("TAG=v2 #", "TAG=v1 #").replace("= 'v2'", "= 'v1'")
    assert link.read_bytes().decode() == (expected if after is None else after)
    told = link.stat()
    assert (told.st_mode & 0o777, told.st_uid, told.st_gid) == (0o640, 12345, 12345)
    assert site.env_file.is_symlink()
    await site.activate("v1", "v9")  # it is what was wanted
    assert sorted(one.name for one in site.folder.iterdir()) == [".env", "compose.json", "shared"]


async def test_a_switch_is_meant_for_what_was_seen(site: Site) -> None:
    with pytest.raises(CommandFailed, match="'v2', another one than was planned for"):
        await site.activate("v1", "v3")
    with pytest.raises(CommandFailed, match="no release 'v7'") as caught:
        await site.activate("v7", "v2")
    assert caught.value.fix == "There are: v1, v2."
    for name in ("../v1", "", "-f", "v1:v2", "previous"):
        with pytest.raises(UsageError, match="cannot be the name"):
            site.layout.activate(name, expect=None)
    assert site.env_file.read_text() == "TAG=v2\n"


@pytest.mark.parametrize(
    ("text", "worker", "says"),
    [
        ("A=1\n", {}, "does not set TAG"),
        ("TAG=v2\nTAG=v2\n", {}, "sets TAG more than once"),
        ("TAG=${OTHER}\n", {}, "sets TAG to what is no plain tag"),
        ("TAG=v2\n", {"image": f"{IMAGE}:v2"}, f"compose would start p.* as '{IMAGE}:v2'"),
        ("TAG=v2\n", {"image": "rig:1"}, f"no service of compose on local would start as {IMAGE}"),
        ("TAG=v2\n", {"hostname": "${NOBODY}"}, "The variable 'NOBODY' of p.* is set nowhere"),
        ("TAG=v2\n", {"nonsense": "1"}, "What compose would start as p.* cannot be told"),
    ],
    ids=["unset", "twice", "made", "written-out", "of-another-image", "blank", "invalid"],
)
async def test_what_would_not_be_switched_by_it_is_left_alone(
    site: Site, text: str, worker: dict[str, object], says: str
) -> None:
    site.env_file.write_text(text)
    site.write(**worker)
    with pytest.raises(CommandFailed, match=says) as caught:
        await site.activate("v1")
    assert caught.value.fix
    assert site.env_file.read_text() == text
    assert len(list(site.folder.iterdir())) == 2
    site.env_file.write_text("TAG=v2\n")
    site.write()


async def test_the_environment_of_who_logs_in_does_not_count(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "v7")
    await site.activate("v1", "v2")
    await site.worker.start(WORKER)
    await site.worker.until(WORKER, ServiceState.RUNNING)
    assert await site.runs() == "v1"


async def test_a_file_that_is_not_there_is_named(site: Site) -> None:
    site.env_file.unlink()
    try:
        with pytest.raises(CommandFailed, match="There is no file") as caught:
            await site.look()
        assert caught.value.fix == "One line of it is to read TAG=TAG."
    finally:
        site.env_file.write_text("TAG=v2\n")


APP = """
import os
from celery import Celery
app = Celery("shop")
assert os.environ["SECRET"] == "hush\\n'\\"$x"
@app.task(name="shop." + os.environ["RELEASE"])
def nothing(): pass
"""
WAITS = (sys.executable, "-c", "import signal; signal.pause()", "-A", "shop", "worker")


async def test_an_image_tells_its_tasks_by_itself(site: Site) -> None:
    site.folder.joinpath("shop.py").write_text(APP)
    site.write(
        command=WAITS,
        working_dir=str(site.folder),
        volumes=[f"{site.folder}:{site.folder}"],
        environment={"SECRET": "hush\n'\"$$x"},
        stop_grace_period="1s",
    )
    site.compose("up", "--detach")
    running = await site.worker.until(WORKER, ServiceState.RUNNING)
    command = site.layout.tasks("v1", pid=running.pid)
    assert command is not None
    assert "docker run --rm --network none" in str(command)
    completed = await site.pool.shell("local").run(command, timeout=TIMEOUT)
    assert site.layout.read_tasks("v1", completed) == {"shop.v1"}
    wait_until(lambda: len(site.daemon.do("ps", "--all", "--quiet").split()) == 1, what="removal")
    command = site.layout.tasks("v5", pid=running.pid)
    assert command is not None
    completed = await site.pool.shell("local").run(command, timeout=TIMEOUT)
    with pytest.raises(CommandFailed, match="there is no image"):
        site.layout.read_tasks("v5", completed)
    assert site.layout.tasks("v1", pid=None) is None


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (ServiceRef("local", "docker", "w1"), "none of compose's"),
        (ServiceRef("local", "systemd", "w1.service"), "none of compose's"),
        (ServiceRef("local", "compose", "shop/w/2"), "is a replica"),
        (ServiceRef("local", "compose", "shop/other"), "no compose files are written"),
        (ServiceRef("local", "compose", "shop/w"), ""),
    ],
    ids=["docker", "systemd", "replica", "no-files", "compose"],
)
def test_only_what_compose_can_make_anew_is_brought_to_another_release(
    service: ServiceRef, why: str
) -> None:
    context = replace(
        only_broker("redis://unused"),
        services=(service,),
        compose_files={ServiceRef("local", "compose", "shop/w"): ("/srv/compose.yml",)},
        release=ImageRelease("app", "/srv/.env", "TAG"),
    )
    layout = HostPool(context).release_layout("local")
    assert layout is not None
    assert why in layout.why_not(service)
    assert bool(layout.why_not(service)) == bool(why)


def test_the_images_of_several_dockers_are_not_mixed_up() -> None:
    services = tuple(
        ServiceRef("local", "compose", f"shop/w{one}", server=f"unix:///{one}") for one in "ab"
    )
    release = ImageRelease("app", "/srv/.env", "TAG")
    context = replace(only_broker("redis://unused"), services=services, release=release)
    layout = HostPool(context).release_layout("local")
    assert layout is not None
    with pytest.raises(CommandFailed, match="several dockers"):
        layout.look(())


PLUGIN = """#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "rig", "Version": "2"}'
    exit
fi
echo "$@" >> "$0.asked"
server=
while [ "$1" != compose ]; do
    if [ "$1" = --host ]; then server=$2; fi
    shift
done
shift
case "$*" in
version) exit ;;
"up --help") echo "      --pull string   Pull image before running"; exit ;;
*" config polite") all=${*% polite} ;;
*) all=$(echo "$*" | sed 's/ --pull never//') ;;
esac
exec docker-compose --host "$server" $all
"""
"""`docker compose`, as docker finds and runs it; what it is asked, the first generation does."""


async def test_the_second_generation_of_compose_is_asked_in_its_own_words(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    configured = tmp_path_factory.mktemp("docker")
    plugin = configured / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN)
    plugin.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(configured))
    await site.activate("v1", "v2")
    await site.worker.start(WORKER)
    await site.worker.until(WORKER, ServiceState.RUNNING)
    assert await site.runs() == "v1"
    asked = plugin.with_name("docker-compose.asked").read_text().splitlines()
    assert asked[-1].endswith(
        "up --detach --no-deps --no-recreate --no-build --pull never --scale polite=1 polite"
    )
    assert any(one.endswith(f"--project-name {site.project} config polite") for one in asked)
