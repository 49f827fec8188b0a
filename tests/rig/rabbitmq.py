"""A private RabbitMQ node: own directories, cookie, ports and epmd; any user, root too."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from base64 import b64encode
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import amqp

from tests.rig import end, free_port, wait_until
from tests.rig.missing import missing

if TYPE_CHECKING:
    from tests.rig.redis import Certificates

_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""Not those in /usr/sbin, which become the user rabbitmq and go to /var/lib."""
_ERLANG = "+S 1:1 +sbwt none"
"""One scheduler, and no spinning: tests share the machine."""
START = 120.0
"""Seconds until a node is there; some take five, on a busy machine."""


class RabbitServer:
    """A running node with the management plugin. `address` is where it listens.

    With `certificates` AMQP is spoken under TLS too, on `tls_port`.
    """

    def __init__(self, directory: Path, *, certificates: Certificates | None = None) -> None:
        if not (_PROGRAMS / "rabbitmq-server").exists():
            missing("rabbitmq-server (apt install rabbitmq-server)")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificates = certificates
        self.port, self.tls_port, self.management_port = free_port(), free_port(), free_port()
        self._epmd_port, self._distribution_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._write_configuration()
        self.start()

    def url(self, vhost: str = "/", *, login: str = "guest:guest") -> str:
        return f"amqp://{login}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    @property
    def management(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    def client(self, vhost: str = "/") -> Any:
        """A connection of py-amqp's; to be closed."""
        connection: Any = amqp.Connection(
            f"127.0.0.1:{self.port}", virtual_host=vhost, login_method="PLAIN"
        )
        connection.connect()
        return connection

    def start(self) -> None:
        """Start it, again on the same ports after `stop` or `kill`."""
        with (self.directory / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(_PROGRAMS / "rabbitmq-server")],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._is_ready, what="RabbitMQ", timeout=START)

    def stop(self) -> None:
        """End the node for good, and the port mapper that it has started: a stop in order takes
        six seconds, for what nobody reads any more.
        """
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.kill()
            end(self._process)
        subprocess.run(
            ["epmd", "-port", str(self._epmd_port), "-kill"], capture_output=True, check=False
        )

    def kill(self) -> None:
        """kill -9 of the node; the script that has started it ends by itself."""
        assert self._process is not None
        os.kill(int((self.directory / "pid").read_text()), signal.SIGKILL)
        self._process.wait()

    def control(self, *arguments: str) -> str:
        """`rabbitmqctl`: a second or more."""
        done = subprocess.run(
            [str(_PROGRAMS / "rabbitmqctl"), *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A call of the management API, as guest."""
        connection = HTTPConnection("127.0.0.1", self.management_port, timeout=30)
        login = "Basic " + b64encode(b"guest:guest").decode()
        headers = {"Authorization": login, "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, f"/api/{path}", body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status < 300, (answer.status, content)
        return content

    def new_vhost(self, name: str) -> str:
        """An empty virtual host in which guest may do anything; its URL."""
        self.api("PUT", f"vhosts/{quote(name, safe='')}")
        self.api(
            "PUT",
            f"permissions/{quote(name, safe='')}/guest",
            b'{"configure": ".*", "write": ".*", "read": ".*"}',
        )
        return self.url(name)

    def remove_vhost(self, name: str) -> None:
        """With all that is in it; who is connected to it is thrown out."""
        self.api("DELETE", f"vhosts/{quote(name, safe='')}")

    def _write_configuration(self) -> None:
        lines = [
            "loopback_users = none",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self.management_port}",
            "collect_statistics_interval = 1000",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "log.console = false",
        ]
        if self.certificates is not None:
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {self.certificates.authority}",
                f"ssl_options.certfile = {self.certificates.certificate}",
                f"ssl_options.keyfile = {self.certificates.key}",
                "ssl_options.verify = verify_none",
            ]
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
        for name in ("home", "log", "mnesia"):
            (self.directory / name).mkdir(exist_ok=True)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.directory / "home"),
            "RABBITMQ_NODENAME": f"rig{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            "RABBITMQ_CTL_ERL_ARGS": _ERLANG,
        }

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self.directory / "out.log").read_text(errors="replace")[-2000:])
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            self.api("GET", "overview")
        except (OSError, AssertionError):
            return False
        return True
