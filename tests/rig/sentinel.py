"""A master, its replicas and their sentinels: real servers, which fail over within seconds."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import RedisError

from tests.rig import end, free_port, wait_until
from tests.rig.redis import RedisServer, server_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.rig.redis import Certificates

MASTER_NAME = "the-master"
LONG = 60.0
"""Seconds: no fail-over unless it is asked for."""


class SentinelProcess:
    """One sentinel. It keeps what it knows in its configuration file, through a restart too."""

    def __init__(
        self,
        directory: Path,
        lines: Sequence[str],
        *,
        password: str = "",
        certificates: Certificates | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._directory = directory
        self._login: dict[str, Any] = {"password": password or None}
        if certificates is None:
            port = [f"port {self.port}"]
        else:
            port = ["port 0", f"tls-port {self.port}", "tls-auth-clients no"]
            self._login |= {"ssl": True, "ssl_ca_certs": str(certificates.authority)}
        text = [*port, "bind 127.0.0.1", "protected-mode no", f"dir {directory}"]
        (directory / "sentinel.conf").write_text("\n".join([*text, *lines]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        config = str(self._directory / "sentinel.conf")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [server_program(), config, "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, what="sentinel")

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def ask(self, *command: str | int) -> Any:
        """The reply to SENTINEL …, as text."""
        with Redis(
            host="127.0.0.1", port=self.port, protocol=2, decode_responses=True, **self._login
        ) as client:
            return client.execute_command("SENTINEL", *command)

    def state(self) -> dict[str, str]:
        """What it knows of the master."""
        flat = self.ask("MASTER", MASTER_NAME)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def master(self) -> int:
        """The master's port, as it sees it."""
        return int(self.ask("GET-MASTER-ADDR-BY-NAME", MASTER_NAME)[1])

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._directory / "log").read_text(errors="replace")[-2000:])
        with contextlib.suppress(RedisError):
            return bool(self.ask("MASTERS"))
        return False


class SentinelRig:
    """Servers, the first of which begins as the master, and those who watch them.

    `down_after` is in seconds. `arguments` are further ones of all servers, and `password` is what
    they want of each other and of their sentinels; `sentinel_password` is the sentinels' own.
    With `certificates` all of them speak TLS only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        down_after: float = 1.0,
        arguments: Sequence[str] = (),
        password: str = "",
        sentinel_password: str = "",
        certificates: Certificates | None = None,
    ) -> None:
        self._directory = directory
        self._password = password
        self.sentinel_password = sentinel_password
        self._certificates = certificates
        self.servers: list[RedisServer] = []
        self.sentinels: list[SentinelProcess] = []
        wants = ("--requirepass", password, "--masterauth", password) if password else ()
        tls = ("--tls-replication", "yes") if certificates else ()
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        try:
            for number in range(1 + replicas):
                of = ("--replicaof", "127.0.0.1", str(self.servers[0].port)) if number else ()
                if certificates and number:
                    of = (*of, "--tls-ca-cert-file", str(certificates.authority))
                self.servers.append(
                    RedisServer(
                        directory / f"redis-{number}",
                        arguments=(*quick, *wants, *tls, *of, *arguments),
                        certificates=certificates,
                    )
                )
            lines = self._lines(down_after, quorum=sentinels // 2 + 1, certificates=certificates)
            for number in range(sentinels):
                self.sentinels.append(
                    SentinelProcess(
                        directory / f"sentinel-{number}",
                        lines,
                        password=sentinel_password,
                        certificates=certificates,
                    )
                )
            self.wait_until_whole()
        except BaseException:
            self.stop()
            raise

    @property
    def master(self) -> RedisServer:
        """Whoever is the master, as the first sentinel that runs sees it."""
        return self._server(self._asked().master())

    @property
    def replicas(self) -> list[RedisServer]:
        master = self.master
        return [server for server in self.servers if server is not master]

    def url(self, db: int = 0, *, login: str = "") -> str:
        """As kombu wants it: every sentinel."""
        return ";".join(f"sentinel://{login}127.0.0.1:{one.port}/{db}" for one in self.sentinels)

    def options(self) -> dict[str, Any]:
        """Celery's broker_transport_options."""
        kwargs: dict[str, object] = {}
        if self.sentinel_password:
            kwargs["password"] = self.sentinel_password
        if self._certificates is not None:
            kwargs |= {"ssl": True, "ssl_ca_certs": str(self._certificates.authority)}
        return {"master_name": MASTER_NAME, **({"sentinel_kwargs": kwargs} if kwargs else {})}

    def client(self, server: RedisServer | None = None, db: int = 0) -> Redis:
        """A client of the master's, or of another server's."""
        return (server or self.master).client(db, password=self._password or None)

    def wait_until_whole(self) -> None:
        """Wait until everybody knows everybody, and the replicas follow the master."""
        wait_until(self._is_whole, what="sentinels know each other", timeout=120)

    def wait_for_master(self, other_than: RedisServer) -> RedisServer:
        """Wait until all sentinels that run name another master, which says so itself."""
        wait_until(lambda: self._moved(other_than), what="a fail-over", timeout=120)
        return self.master

    def fail_over(self) -> RedisServer:
        """Kill the master; the one who became it."""
        old = self.master
        old.kill()
        return self.wait_for_master(old)

    def hand_over(self, by: SentinelProcess | None = None) -> RedisServer:
        """Have the sentinels promote a replica while the master lives; the one who became it."""
        old = self.master
        (by or self._asked()).ask("FAILOVER", MASTER_NAME)
        return self.wait_for_master(old)

    def estrange(self, replica: RedisServer) -> None:
        """Have a replica hear nothing of its master any more. Within ten times `down_after` it can
        be promoted all the same, and has lost all that was written since then, and nothing before.
        """
        with self.client() as client:
            written = _replication(client)["master_repl_offset"]
        wait_until(lambda: self._has(replica, written), what="a replica has caught up")
        with self.client(replica) as client:
            client.config_set("masterauth", "of somebody else")
            client.client_kill_filter(_type="master")
        wait_until(lambda: not self._is_linked(replica), what="a replica is cut off")

    def reconcile(self, replica: RedisServer) -> None:
        """The opposite."""
        with self.client(replica) as client:
            client.config_set("masterauth", self._password)

    def swap(self) -> None:
        """Turn the first two servers' parts round, and tell no sentinel."""
        old, new = self.servers[:2]
        with self.client(new) as client:
            client.replicaof("NO", "ONE")
        with self.client(old) as client:
            client.replicaof("127.0.0.1", new.port)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in self.servers:
            server.stop()

    def _lines(
        self, down_after: float, *, quorum: int, certificates: Certificates | None
    ) -> list[str]:
        port = self.servers[0].port
        lines = [
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {port} {quorum}",
            f"sentinel down-after-milliseconds {MASTER_NAME} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {MASTER_NAME} 3000",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {MASTER_NAME} {self._password}")
        if self.sentinel_password:
            lines.append(f"requirepass {self.sentinel_password}")
        if certificates is not None:
            lines += [
                f"tls-cert-file {certificates.certificate}",
                f"tls-key-file {certificates.key}",
                f"tls-ca-cert-file {certificates.authority}",
                "tls-replication yes",
            ]
        return lines

    def _asked(self) -> SentinelProcess:
        for one in self.sentinels:
            with contextlib.suppress(RedisError):
                if one.ask("MASTERS"):
                    return one
        raise RuntimeError("no sentinel runs")

    def _server(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)

    def _is_linked(self, replica: RedisServer) -> bool:
        with self.client(replica) as client:
            return bool(_replication(client).get("master_link_status") == "up")

    def _has(self, replica: RedisServer, written: int) -> bool:
        with self.client(replica) as client:
            said = _replication(client)
        return said.get("master_link_status") == "up" and said["slave_repl_offset"] >= written

    def _is_whole(self) -> bool:
        for one in self.sentinels:
            state = one.state()
            if state["flags"] != "master" or int(state["num-slaves"]) != len(self.servers) - 1:
                return False
            if int(state["num-other-sentinels"]) != len(self.sentinels) - 1:
                return False
        with self.client() as client:
            role: Any = client.execute_command("ROLE")
        return role[0] == b"master" and len(role[2]) == len(self.servers) - 1

    def _moved(self, old: RedisServer) -> bool:
        ports = set()
        for one in self.sentinels:
            with contextlib.suppress(RedisError):
                ports.add(one.master())
        if len(ports) != 1 or old.port in ports:
            return False
        with self.client(self._server(ports.pop())) as client:
            role: Any = client.execute_command("ROLE")
        return bool(role[0] == b"master")


def _replication(client: Redis) -> dict[str, Any]:
    said: Any = client.info("replication")
    return dict(said)


@contextlib.contextmanager
def sentinel_rig(directory: Path, **how: Any) -> Iterator[SentinelRig]:
    """A rig that is stopped at the end."""
    rig = SentinelRig(directory, **how)
    try:
        yield rig
    finally:
        rig.stop()
