"""Hosts with a real systemd as PID 1, sshd, users and sudo, in containers by systemd-nspawn.

All share one base file system, built once a machine; each has an overlay in memory, an address on a
bridge of its own network, and its own control group. Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from celery_ops.hosts.local import LocalShell
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

    from celery_ops.ports import Command, Completed

BOOT_DEADLINE = 60.0
END_DEADLINE = 15.0
BUILD_DEADLINE = 900.0
LOCKS = Path("/run/celery-ops-tests")
TOOLS = ("systemd-nspawn", "mmdebstrap", "nsenter", "setpriv", "unshare", "ip", "mount", "umount")
PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,python3,iproute2,procps,sudo,tzdata"
NO_USE_HERE = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-pstore.service", "getty@tty1.service"),
)
"""Units that only cost time at boot."""
SETUP = f"""
useradd -m -s /bin/bash celery
useradd -m -s /bin/bash ops
usermod -p '*' root
usermod -p '*' ops
usermod -aG systemd-journal ops
systemctl mask -q {" ".join(NO_USE_HERE)}
ln -sf /usr/share/zoneinfo/Asia/Kolkata /etc/localtime
rm -f /etc/machine-id
touch /etc/machine-id
"""
"""`*` is no password, yet not a locked account: sshd lets its keys in. Hosts do not live in UTC."""
ENTER_GROUPS = (
    'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'
)
ENDS_WITH_US = ("setpriv", "--pdeathsig=KILL")
"""Put before a command: it does not outlive tests that are killed."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class SystemdHost:
    """A booted host. `root` is its file system, `init` the pid of its systemd on this machine.

    `namespace` is the name of its network's namespace; all of its processes are in `groups`.
    """

    name: str
    address: str
    root: Path
    init: int
    namespace: str
    groups: tuple[Path, ...]
    power: Callable[[], SystemdHost] = field(compare=False, repr=False)

    def power_cycle(self) -> SystemdHost:
        """It loses its power and boots again, from the same disks: the host as it is then."""
        return self.power()

    def shell(self, user: str = "root") -> HostShell:
        return HostShell(self, user)

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command as root; its output. Without `check` its exit code does not matter."""
        command = [*_inside(self.init), f"PATH={PATH}", *argv]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            pytest.fail(f"{argv} on {self.name}: {done.stderr or done.stdout}")
        return done.stdout

    def mute_systemd(self) -> None:
        """systemd goes on, and nobody can ask it any more, as after a crash of it."""
        for socket in ("systemd/private", "dbus/system_bus_socket"):
            self.run("rm", "-f", f"/run/{socket}")


@dataclass(frozen=True, slots=True)
class HostShell:
    """The Shell of such a host, without SSH."""

    host: SystemdHost
    user: str

    async def run(self, command: Command, *, timeout: float) -> Completed:
        return await LocalShell().run(self._there(command), timeout=timeout)

    def stream(self, command: Command) -> AsyncGenerator[bytes, None]:
        return LocalShell().stream(self._there(command))

    def _there(self, command: Command) -> Command:
        become = () if self.user == "root" else ("runuser", "-u", self.user, "--")
        env = [f"{name}={value}" for name, value in (("PATH", PATH), *command.env)]
        argv = (*_inside(self.host.init), *env, *become, *command.argv)
        return replace(command, argv=argv, env=(), shown=str(command))


@dataclass(frozen=True, slots=True)
class Network:
    """A /24 that nobody else on this machine uses: whoever holds its lock has it.

    All that belongs to its hosts bears the name of its bridge.
    """

    bridge: str
    prefix: str

    @property
    def here(self) -> str:
        """This machine's own address in it."""
        return f"{self.prefix}.1"


@contextlib.contextmanager
def host_network() -> Iterator[Network]:
    """A network for hosts, where it has to be known before they boot."""
    _require()
    LOCKS.mkdir(exist_ok=True)
    for left in LOCKS.iterdir():
        with left.open("w") as lock:
            if _locked(lock):
                _sweep(left.name)
    first = os.getpid() % 200
    for third in (*range(first, 250), *range(first)):
        network = Network(f"cops{third}", f"10.213.{third}")
        with (LOCKS / network.bridge).open("w") as lock:
            if not _locked(lock):
                continue
            if f"{network.prefix}." not in _ip("-4", "route", "show", "table", "all"):
                with _bridge(network):
                    yield network
                return
    pytest.fail("no address range is free")


@contextlib.contextmanager
def systemd_hosts(
    *names: str,
    units: Mapping[str, Mapping[str, str]],
    key: str = "",
    sudoers: str = "",
    network: Network | None = None,
    layers: Sequence[Path] = (),
    files: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> Iterator[list[SystemdHost]]:
    """Boot hosts with these services (name: its keys of `[Service]`; `WantedBy=` goes to Install,
    where a template names its instances: `multi-user.target a b`).

    `key` is the public SSH key that root and ops let in; `sudoers` is what ops may do. `layers` lie
    over the base file system, unchanged; `files` are made for the user celery, `links` (name: where
    it leads) for ops, with their directories. At the end the hosts
    lose their power, and nothing of them is left.
    """
    base = base_file_system()
    with contextlib.ExitStack() as stack:
        network = network or stack.enter_context(host_network())
        folder = Path(tempfile.mkdtemp(prefix=f"{network.bridge}-"))
        stack.callback(shutil.rmtree, folder)
        booting = []
        for number, name in enumerate(names, 2):
            place = folder / name
            root = stack.enter_context(_file_system((*layers, base), place, network.bridge))
            address = f"{network.prefix}.{number}"
            _prepare(root, name, address, units, key, sudoers)
            _write_files(root, files or {})
            _make_links(root, links or {})
            namespace = stack.enter_context(_namespace(network, number))
            groups = stack.enter_context(_control_groups(f"{network.bridge}-{number}"))
            machine = _Machine(root, name, address, namespace, groups, folder / f"{name}.console")
            stack.callback(machine.cut_power)
            machine.boot()
            booting.append(machine)
        yield [machine.wait() for machine in booting]


def _require() -> None:
    if os.geteuid() != 0:
        missing("systemd hosts: they need root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            missing(f"systemd hosts: {tool} (Debian: systemd-container, mmdebstrap, iproute2)")


def base_file_system() -> Path:
    """What all hosts share; built if this machine has none of this recipe."""
    _require()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "celery-ops-tests"
    cache.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256((PACKAGES + SETUP).encode()).hexdigest()[:12]
    base = cache / f"systemd-{recipe}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            _build(base)
    return base


def _build(base: Path) -> None:
    unfinished = base.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    hook = 'chroot "$1" sh -ec "$SETUP"'
    done = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"),
            *('--aptopt=Acquire::Languages "none"', f"--customize-hook={hook}"),
            *("bookworm", str(unfinished)),
        ],
        env=os.environ | {"SETUP": SETUP},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        missing(f"systemd hosts: no base file system: {done.stderr[-500:]}")
    unfinished.rename(base)


def _locked(file: IO[str]) -> bool:
    """Hold it until it is closed, if nobody else does: the kernel lets go for whoever dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _bridge(network: Network) -> Iterator[None]:
    _make(network.bridge)
    try:
        _ip("addr", "add", f"{network.prefix}.1/24", "dev", network.bridge)
        _ip("link", "set", network.bridge, "up")
        yield
    finally:
        _ip("link", "del", network.bridge)


def _sweep(bridge: str) -> None:
    """Clear what tests that were killed have left; their hosts ended with them, or do now: what is
    frozen does not die.
    """
    groups = [group for place in _our_groups() for group in place.glob(f"{bridge}-*")]
    for group in groups:
        freeze(group, frozen=False)
    mounts = [line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    for target in [mount[1] for mount in reversed(mounts) if mount[0] == bridge]:
        _call("umount", "-l", target)
    for folder in Path(tempfile.gettempdir()).glob(f"{bridge}-*"):
        shutil.rmtree(folder)
    for cable in Path("/sys/class/net").glob(f"{bridge}v*"):
        _ip("link", "del", cable.name)
    for namespace in Path("/run/netns").glob(f"{bridge}-*"):
        _ip("netns", "del", namespace.name)
    if Path(f"/sys/class/net/{bridge}").exists():
        _ip("link", "del", bridge)
    for group in groups:
        _remove_group(group)


def _make(bridge: str) -> None:
    command = ["ip", "link", "add", bridge, "type", "bridge"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"systemd hosts: no network: {done.stderr.strip()}")


@contextlib.contextmanager
def _namespace(network: Network, number: int) -> Iterator[Path]:
    """A network namespace with its end of a cable to the bridge, up before systemd boots."""
    name, outer = f"{network.bridge}-{number}", f"{network.bridge}v{number}"
    _ip("netns", "add", name)
    try:
        _ip(*("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name))
        _ip("link", "set", outer, "master", network.bridge, "up")
        _ip("-n", name, "addr", "add", f"{network.prefix}.{number}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", "default", "via", f"{network.prefix}.1")
        yield Path("/run/netns") / name
    finally:
        # A namespace lives on, nameless, as long as a connection in it waits for its last answer.
        _ip("link", "del", outer)
        _ip("netns", "del", name)


@contextlib.contextmanager
def _file_system(layers: Sequence[Path], folder: Path, source: str) -> Iterator[Path]:
    """The layers with all changes in memory: an overlay on an overlay would be refused."""
    folder.mkdir()
    _call("mount", "-t", "tmpfs", "-o", "size=256m", source, str(folder))
    try:
        for part in ("changes", "work", "root"):
            (folder / part).mkdir()
        lower = ":".join(map(str, layers))
        options = f"lowerdir={lower},upperdir={folder}/changes,workdir={folder}/work"
        _call("mount", "-t", "overlay", source, "-o", options, f"{folder}/root")
        try:
            yield folder / "root"
        finally:
            _call("umount", "-l", f"{folder}/root")
    finally:
        _call("umount", "-l", str(folder))


def _prepare(
    root: Path,
    name: str,
    address: str,
    units: Mapping[str, Mapping[str, str]],
    key: str,
    sudoers: str,
) -> None:
    etc = root / "etc"
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    (etc / "sudoers.d/ops").write_text(f"{sudoers}\n")
    (etc / "sudoers.d/ops").chmod(0o440)
    journal = etc / "systemd/journald.conf.d"
    journal.mkdir(exist_ok=True)
    (journal / "tests.conf").write_text("[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n")
    for unit, keys in units.items():
        _write_unit(etc / "systemd/system", unit, dict(keys))
    for home in ("root", "home/ops") if key else ():
        owner = (root / home).stat()
        files = root / home / ".ssh"
        files.mkdir(mode=0o700, exist_ok=True)
        (files / "authorized_keys").write_text(f"{key}\n")
        for path in (files, files / "authorized_keys"):
            os.chown(path, owner.st_uid, owner.st_gid)


def _write_unit(folder: Path, unit: str, keys: dict[str, str]) -> None:
    wanted_by = keys.pop("WantedBy", None)
    lines = "\n".join(f"{key}={value}" for key, value in keys.items())
    install = "" if wanted_by is None else f"[Install]\nWantedBy={wanted_by.split()[0]}\n"
    text = f"[Unit]\nDescription={unit}\n[Service]\n{lines}\n{install}"
    (folder / f"{unit}.service").write_text(text)
    if wanted_by is not None:
        target, *instances = wanted_by.split()
        wants = folder / f"{target}.wants"
        wants.mkdir(exist_ok=True)
        for instance in instances or [""]:
            link = wants / f"{unit}{instance}.service"
            link.symlink_to(f"/etc/systemd/system/{unit}.service")


def _write_files(root: Path, files: Mapping[str, str]) -> None:
    owner = (root / "home/celery").stat()
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        for changed in (path, path.parent):
            os.chown(changed, owner.st_uid, owner.st_gid)


def _make_links(root: Path, links: Mapping[str, str]) -> None:
    owner = (root / "home/ops").stat()
    for name, leads_to in links.items():
        link = root / name
        link.symlink_to(leads_to)
        os.chown(link, owner.st_uid, owner.st_gid, follow_symlinks=False)
        os.chown(link.parent, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _control_groups(name: str) -> Iterator[list[Path]]:
    """One group a host below ours: in a shared one equal unit names would meet."""
    groups = [place / name for place in _our_groups()]
    for group in groups:
        group.mkdir()
    try:
        yield groups
    finally:
        for group in groups:
            _remove_group(group)


def _our_groups() -> list[Path]:
    """Where we are in the hierarchies that systemd needs: one, or with version 1 several."""
    mounted = Path("/sys/fs/cgroup")
    places = {"name=systemd": "systemd", "freezer": "freezer", "": "unified"}
    if (mounted / "cgroup.controllers").exists():
        places = {"": "."}
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in places and (mounted / places[controllers]).is_dir():
            found.append(mounted / places[controllers] / path.strip("/"))
    return found


def freeze(group: Path, *, frozen: bool) -> bool:
    """Stop all that runs in a group, or let it go on; whether this group can do that."""
    for name, words in (("cgroup.freeze", "01"), ("freezer.state", ("THAWED", "FROZEN"))):
        if (group / name).exists():
            (group / name).write_text(words[frozen])
            return True
    return False


def _remove_group(group: Path) -> None:
    """The kernel lets go of a group some time after its last process ended."""
    deadline = time.monotonic() + END_DEADLINE
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            pytest.fail(f"a control group is still busy: {group}")
        time.sleep(0.02)


@dataclass(slots=True)
class _Machine:
    """What a host is without its power: disks, an address, a control group."""

    root: Path
    name: str
    address: str
    namespace: Path
    groups: Sequence[Path]
    console: Path
    process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        command = [
            *("sh", "-c", ENTER_GROUPS, "sh", *map(str, self.groups), "--"),
            *ENDS_WITH_US,
            *("unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "--"),
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"),
            *(f"--machine={self.name}", "--register=no", "--keep-unit", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off", "--console=passive"),
            f"--network-namespace-path={self.namespace}",
        ]
        with self.console.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def cut_power(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        # The kernel ends all of a process namespace with its first process, here nspawn.
        for pid in _children(process.pid) or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(END_DEADLINE)

    def power_cycle(self) -> SystemdHost:
        self.cut_power()
        self.boot()
        return self.wait()

    def wait(self) -> SystemdHost:
        """Until it has booted."""
        process, deadline = self.process, time.monotonic() + BOOT_DEADLINE
        while process and time.monotonic() < deadline and process.poll() is None:
            init = _init(process.pid)
            if init is not None:
                host = self._host(init)
                active = host.run("systemctl", "is-active", "multi-user.target", check=False)
                if active == "active\n":
                    return host
            time.sleep(0.05)
        pytest.fail(f"a host does not boot: {self.console.read_text(errors='replace')[-2000:]}")

    def _host(self, init: int) -> SystemdHost:
        return SystemdHost(
            self.name, self.address, self.root, init,
            namespace=self.namespace.name, groups=tuple(self.groups), power=self.power_cycle,
        )  # fmt: skip


def _init(started: int) -> int | None:
    """The pid of the host's systemd, once it has become that: unshare, nspawn, systemd."""
    for nspawn in _children(started):
        for child in _children(nspawn):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
    return None


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        file = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(child) for child in file.read_text().split()]
    return []


def _inside(init: int) -> tuple[str, ...]:
    namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
    return ("nsenter", f"--target={init}", *namespaces, "--", "env", "-i")


def _ip(*words: str) -> str:
    return _call("ip", *words)


def _call(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
