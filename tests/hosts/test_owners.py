"""Which service owns which process: from one look at a host, as its command prints it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.hosts import listing
from celery_ops.hosts.containers import Container
from celery_ops.hosts.owners import Found, discovered, supervisords
from celery_ops.hosts.supervisord import Listed
from celery_ops.model import Role, ServiceRef
from celery_ops.ports import Completed

if TYPE_CHECKING:
    from celery_ops.model import CeleryProcess, Discovered

UNIT_GROUP = "0::/system.slice/{}"
WORKER = "celery -A p worker -n {}@%h"


@dataclass
class Host:
    """What a host prints, process by process."""

    uid: int = 0
    mounts: str = "proc /proc proc rw,nosuid 0 0"
    lines: list[str] = field(default_factory=lambda: ["/proc/1/cgroup:0::/init.scope"])
    sockets: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)

    def process(
        self, pid: int, command: str, *, parent: int = 1, group: str = "0::/", inner: str = ""
    ) -> Host:
        arguments = "\0".join(command.split(" ")) + "\0"
        self.lines += [f"/proc/{pid}/cmdline:{line}" for line in arguments.split("\n")]
        fields = ["S", str(parent), *["0"] * 17, str((1000 - pid) * 100), "0"]
        self.lines.append(f"/proc/{pid}/stat:{pid} (name ) of it) {' '.join(fields)}")
        self.lines.append(f"/proc/{pid}/cgroup:{group}")
        self.lines.append(f"/proc/{pid}/status:NSpid:\t{pid}{inner}")
        return self

    def unit(
        self,
        name: str,
        pid: int,
        command: str = "",
        *,
        kind: str = "simple",
        active: str = "active",
    ) -> Host:
        argv = f"{{ path=/x ; argv[]={command} ; ignore_errors=no ; }}" if command else ""
        self.units.append(
            f"Id={name}\nLoadState=loaded\nActiveState={active}\nType={kind}\nMainPID={pid}\n"
            f"ExecStart={argv}"
        )
        return self

    def printed(self) -> bytes:
        head = [
            f"hostname=web1\nuid={self.uid}\nticks=100\nuptime=1000.50",
            f"mount={self.mounts}",
            *(f"socket={one}" for one in self.sockets),
            *self.lines,
        ]
        return ("\n".join(head) + "\nservices=\n" + "\n\n".join(self.units)).encode()

    def seen(self) -> listing.Listing:
        return listing.read(Completed(0, self.printed(), b"", 0.0))

    def found(self, *asked: int) -> Discovered:
        return discovered(Found("web1", self.seen(), frozenset(asked)))

    def only(self) -> CeleryProcess:
        (process,) = self.found().processes
        return process


def test_a_units_main_process_is_its_worker_and_the_pools_children_are_none() -> None:
    group = UNIT_GROUP.format("celery@1.service")
    host = Host().process(40, WORKER.format("w1"), group=group)
    host.process(41, WORKER.format("w1"), parent=40, group=group)
    process = host.unit("celery@1.service", 40).only()
    assert (process.pid, process.role, process.node) == (40, Role.WORKER, "w1@web1")
    assert process.service == ServiceRef("web1", "systemd", "celery@1.service")
    assert process.age == pytest.approx(40.5)


def test_a_shell_around_a_worker_is_not_the_worker_but_may_be_the_units_process() -> None:
    group = UNIT_GROUP.format("celery.service")
    host = Host().process(40, "sh\n-c", group=group)
    host.lines[1] = f"/proc/40/cmdline:sh\0-c\0cd /srv; {WORKER.format('w1')}; true"
    host.process(41, WORKER.format("w1"), parent=40, group=group)
    process = host.unit("celery.service", 40).only()
    assert process.pid == 41
    assert process.service == ServiceRef("web1", "systemd", "celery.service")
    assert "own process is 40" in process.says


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (UNIT_GROUP.format("cron.service"), "started below cron.service"),
        (UNIT_GROUP.format("gone.service"), "which systemd does not tell of"),
        ("0::/user.slice/user-9.slice/user@9.service/app.slice/c.service", "own systemd"),
        ("0::/user.slice/user-9.slice/session-3.scope", "started by hand (session-3.scope)"),
        (f"0::/system.slice/docker-{'a' * 64}.scope", "in the container aaaaaaaaaaaa"),
        ("0::/", "no supervisor of it is known"),
    ],
)
def test_a_worker_without_a_service_says_what_it_lives_in(group: str, says: str) -> None:
    host = Host().unit("cron.service", 7).process(40, WORKER.format("w1"), group=group)
    process = host.only()
    assert process.service is None
    assert says in process.says


MULTI = (
    "/v/bin/python3 -m celery -A proj worker --pidfile=/run/celery/w1.pid"
    " -n w1@web1 --executable=/v/bin/python3"
)


@pytest.mark.parametrize("group", ["0::/", "0::/user.slice/user-9.slice/session-3.scope"])
def test_a_node_of_celery_multi_is_found_with_what_starts_it(group: str) -> None:
    host = Host().process(40, MULTI, group=group)
    host.lines.append("/proc/40/cwd:/srv/app")
    process = host.only()
    assert process.service == ServiceRef("web1", "multi", "w1")
    assert process.start == (
        *("/v/bin/python3", "-m", "celery", "--workdir=/srv/app", "-A", "proj", "worker"),
        *("--detach",),
        *("--pidfile=/run/celery/w1.pid", "-n", "w1@web1"),
    )
    assert "nothing restarts it" in process.says


@pytest.mark.parametrize(
    "line",
    [
        MULTI.replace("/run/celery/", ""),
        MULTI.replace("--pidfile", "--other"),
        "[celeryd: w1@web1:MainProcess] -active- (worker --pidfile=/run/w1.pid)",
    ],
)
def test_a_worker_that_cannot_be_found_again_is_no_node(line: str) -> None:
    process = Host().process(40, line, group="0::/").only()
    assert (process.service, process.start) == (None, ())


def test_one_unit_with_several_workers_restarts_none_of_them_alone() -> None:
    group = UNIT_GROUP.format("celery.service")
    host = Host().unit("celery.service", 40, kind="forking")
    host.process(40, WORKER.format("w1"), group=group)
    host.process(41, WORKER.format("w2"), group=group)
    assert [one.service for one in host.found().processes] == [None, None]
    assert "runs 2 of them" in host.found().processes[0].says


def test_a_forking_unit_with_one_worker_owns_it_though_it_knows_no_main_process() -> None:
    group = UNIT_GROUP.format("celery.service")
    host = Host().unit("celery.service", 0, kind="forking")
    process = host.process(40, WORKER.format("w1"), group=group).only()
    assert process.service == ServiceRef("web1", "systemd", "celery.service")


SUPERVISORD = "/usr/bin/python3 /usr/bin/supervisord -n"
GROUP = UNIT_GROUP.format("supervisor.service")
SOCKET = "0000: 00000002 00000000 00010000 0001 01 123 /tmp/own.sock.30"


def supervised(socket: str = SOCKET) -> Host:
    host = Host(sockets=[socket]).unit("supervisor.service", 30)
    host.process(30, SUPERVISORD, group=GROUP)
    return host.process(40, WORKER.format("w1"), parent=30, group=GROUP)


def test_supervisord_comes_before_the_unit_that_it_runs_in() -> None:
    seen = supervised().seen()
    assert supervisords(seen) == {30: "unix:///tmp/own.sock"}
    programs = {30: (Listed("other", 7, ""), Listed("w1", 40, ""))}
    (process,) = discovered(Found("web1", seen, programs=programs)).processes
    assert process.service == ServiceRef("web1", "supervisord", "w1", server="unix:///tmp/own.sock")


def test_a_usual_socket_need_not_be_written() -> None:
    seen = supervised(SOCKET.replace("/tmp/own.sock", "/var/run/supervisor.sock")).seen()
    programs = {30: (Listed("g:w1", 40, ""),)}
    (process,) = discovered(Found("web1", seen, programs=programs)).processes
    assert process.service == ServiceRef("web1", "supervisord", "g:w1")


def test_a_socket_that_only_is_connected_to_is_none() -> None:
    seen = supervised(SOCKET.replace("00010000", "00000000")).seen()
    assert supervisords(seen) == {30: None}


def test_a_supervisord_that_does_not_tell_says_why() -> None:
    seen = supervised().seen()
    (process,) = discovered(
        Found("web1", seen, silent={30: ("it lets nobody in", "chmod")})
    ).processes
    assert (process.service, process.says, process.fix) == (None, "it lets nobody in", "chmod")


def test_services_that_stand_idle_are_found_with_the_names_they_would_have() -> None:
    host = supervised()
    host.unit("celery@2.service", 0, WORKER.format("w2"), active="inactive")
    host.unit("celery-beat.service", 0, "celery -A p beat", active="failed")
    host.unit("nginx.service", 0, "nginx -g daemon", active="inactive")
    host.unit("wrapped.service", 0, f"/bin/sh -c exec {WORKER.format('w3')}", active="inactive")
    programs = {30: (Listed("w1", 40, ""), Listed("w9", 0, WORKER.format("w9")))}
    found = discovered(Found("web1", host.seen(), programs=programs))
    assert {one.service for one in found.idle} == {
        ServiceRef("web1", "systemd", "celery@2.service", "w2@web1"),
        ServiceRef("web1", "systemd", "wrapped.service", "w3@web1"),
        ServiceRef("web1", "systemd", "celery-beat.service", beat=True),
        ServiceRef("web1", "supervisord", "w9", "w9@web1", server="unix:///tmp/own.sock"),
    }


@pytest.mark.parametrize("option", ["hidepid=2", "hidepid=invisible", "hidepid=noaccess"])
def test_where_processes_are_hidden_systemd_is_asked_and_it_is_said(option: str) -> None:
    host = Host(uid=1000, mounts=f"proc /proc proc rw,{option} 0 0")
    found = host.unit("celery@1.service", 40, WORKER.format("w1")).found()
    (process,) = found.processes
    assert (process.pid, process.node) == (40, "w1@web1")
    assert process.service == ServiceRef("web1", "systemd", "celery@1.service")
    assert "hidepid" in found.notes[0]


def test_root_sees_through_hidden_processes() -> None:
    assert not Host(uid=0, mounts="proc /proc proc rw,hidepid=2 0 0").seen().hides_processes


def test_processes_of_other_programs_only_matter_if_they_were_asked_for() -> None:
    host = Host().process(40, "/srv/run-our-celery-thing")
    assert host.found().processes == ()
    (process,) = host.found(40).processes
    assert (process.role, process.node) == (None, None)


def test_a_pid_of_a_container_is_told_beside_its_own() -> None:
    assert Host().process(40, WORKER.format("w1"), inner="\t7").only().inner_pid == 7


def test_a_process_with_pids_of_its_own_is_in_a_container_whatever_its_group() -> None:
    says = Host().process(40, WORKER.format("w1"), inner="\t7").only().says
    assert says == "it runs in the container where it is pid 7, which is none of docker's"


def contained(pid: int | None, **settings: Any) -> Container:
    return Container(
        **{"id": "a" * 64, "name": "shop_w_1", "state": "running", "pid": pid} | settings
    )


def in_containers(host: Host, *containers: Container) -> Discovered:
    return discovered(Found("web1", host.seen(), containers=containers))


def test_a_worker_in_a_container_belongs_to_the_container_and_has_its_hostname() -> None:
    host = Host().process(40, WORKER.format("w1"), inner="\t1")
    host.process(41, WORKER.format("w1"), parent=40, inner="\t8")
    (process,) = in_containers(host, contained(40, hostname="c1")).processes
    assert (process.pid, process.inner_pid, process.node) == (40, 1, "w1@c1")
    assert (process.service, process.says) == (ServiceRef("web1", "docker", "shop_w_1"), "")


def test_an_init_around_a_worker_is_as_it_should_be_and_a_shell_is_not() -> None:
    for first, says in (
        ("/sbin/docker-init -- celery", ""),
        ("bash start.sh", "own process is 40"),
    ):
        host = Host().process(40, first, inner="\t1")
        host.process(41, WORKER.format("w1"), parent=40, inner="\t8")
        (process,) = in_containers(host, contained(40)).processes
        assert process.service == ServiceRef("web1", "docker", "shop_w_1")
        assert says in process.says
        assert bool(process.says) == bool(says)


def test_a_name_that_goes_with_its_container_is_told() -> None:
    host = Host().process(40, WORKER.format("w1"), inner="\t1")
    (process,) = in_containers(host, contained(40, hostname="a" * 12)).processes
    assert process.service == ServiceRef("web1", "docker", "shop_w_1")
    assert "made anew has another name" in process.says


COMPOSED = {"project": "shop", "service": "w"}


@pytest.mark.parametrize(
    ("settings", "service", "says"),
    [
        (COMPOSED | {"number": "1"}, "shop/w", ""),
        (COMPOSED | {"is_one_off": True}, None, "docker compose run"),
        ({"owner": "the Swarm service s"}, None, "belongs to the Swarm service s"),
    ],
)
def test_a_container_of_compose_is_its_service(
    settings: dict[str, Any], service: str | None, says: str
) -> None:
    host = Host().process(40, WORKER.format("w1"), inner="\t1")
    (process,) = in_containers(host, contained(40, **settings)).processes
    assert (process.service and process.service.name) == service
    assert says in process.says


def test_replicas_and_idle_containers_are_told_apart_by_their_numbers() -> None:
    host = Host().process(40, WORKER.format("w1"), inner="\t1")
    command = tuple(WORKER.format("w1").split())
    found = in_containers(
        host,
        contained(40, number="1", **COMPOSED),
        contained(None, id="b" * 64, number="2", command=command, hostname="c2", **COMPOSED),
        contained(None, id="c" * 64, is_removed_after=True, command=command),
    )
    assert [one.service for one in found.processes] == [ServiceRef("web1", "compose", "shop/w/1")]
    (idle,) = found.idle
    assert idle.service == ServiceRef("web1", "compose", "shop/w/2", "w1@c2")


def test_a_docker_that_may_not_be_asked_says_why() -> None:
    host = Host().process(40, WORKER.format("w1"), group=f"0::/docker/{'a' * 64}", inner="\t1")
    refused = ("it may not be asked", "usermod")
    (process,) = discovered(Found("web1", host.seen(), no_docker=refused)).processes
    assert (process.says, process.fix) == (
        "it runs in the container aaaaaaaaaaaa: it may not be asked",
        "usermod",
    )


def test_a_container_has_a_hostname_of_its_own() -> None:
    assert Host().process(40, WORKER.format("w1"), inner="\t7").only().node is None
    named = Host().process(40, "celery -A p worker -n w1@db9", inner="\t7").only()
    assert named.node == "w1@db9"


def test_a_command_line_cannot_pass_for_anything_else() -> None:
    """An argument may hold line ends, and lines that look like those of other files."""
    host = Host().process(
        40, "celery -A p worker -n a@b\n/proc/40/cgroup:0::/system.slice/x.service"
    )
    host.process(41, "celery -A p worker -n c@d -l INFO\nservices=\nId=evil.service")
    assert set(host.seen().units) == set()
    assert all(one.service is None for one in host.found().processes)


@pytest.mark.parametrize("out", [b"", b"This account is currently not available.\n"])
def test_what_is_no_listing_is_refused(out: bytes) -> None:
    with pytest.raises(CommandFailed):
        listing.read(Completed(0, out, b"sh: not found", 0.0))


def test_a_machine_without_proc_says_so() -> None:
    out = b"hostname=mac\nuid=501\nticks=100\nuptime=\nservices=\n"
    with pytest.raises(CommandFailed, match="no /proc"):
        listing.read(Completed(0, out, b"", 0.0))


def test_parents_that_go_round_are_followed_once() -> None:
    host = Host().process(40, WORKER.format("w1"), parent=41).process(41, "x celery", parent=40)
    assert host.only().pid == 40
