"""Host keys, strictly: a host is who `known_hosts` says it is, or it is not spoken to.

Reads the format of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT": hashed names, patterns, several keys of
one host, `@revoked`. Authorities (`@cert-authority`) are passed over: paramiko does not speak them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from celery_ops.errors import HostUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery_ops.hosts.ssh_target import Target

_RSA = ("rsa-sha2-512", "rsa-sha2-256")
"""The signatures that are made with a key of type `ssh-rsa`."""


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The keys that a target may have, those it must not have, and where they were looked for."""

    target: Target
    trusted: tuple[paramiko.PKey, ...]
    revoked: tuple[paramiko.PKey, ...]

    def preferred(self, offered: tuple[str, ...]) -> list[str]:
        """Signature algorithms, those of known keys first, so that a host shows such a key."""
        known = {name for key in self.trusted for name in _signatures(key)}
        return sorted(offered, key=lambda name: name not in known)

    def check(self, key: paramiko.PKey) -> None:
        """Return if it is the host's key. Raise HostUnreachable with the fingerprint if not."""
        host, shows = self.target.key_name, _described(key)
        files = " or ".join(str(file) for file in self.target.known_hosts[:2])
        if key in self.revoked:
            raise HostUnreachable(f"{host} shows a key that is marked as revoked: {shows}.")
        if key in self.trusted:
            return
        if self.trusted:
            expected = ", ".join(_described(one) for one in self.trusted)
            raise HostUnreachable(
                f"The host key of {host} has changed: it shows {shows}, but {files} says"
                f" {expected}. Somebody may be listening in, so it is not spoken to.",
                fix=f"Ask whoever runs it. If it was set up anew: ssh-keygen -R '{host}', then"
                f" {self.target.scan} >> {self.target.known_hosts[0]}, and compare.",
            )
        raise HostUnreachable(
            f"The host key of {host} is not known: it shows {shows}, and {files} says nothing of"
            " it.",
            fix=f"Compare the fingerprint with the host's own (ssh-keygen -lf on it), then:"
            f" {self.target.scan} >> {self.target.known_hosts[0]}",
        )


def known_keys(target: Target) -> KnownKeys:
    """Read what is known of a target. Raise HostUnreachable if a file is there but unreadable."""
    trusted: list[paramiko.PKey] = []
    revoked: list[paramiko.PKey] = []
    for file in target.known_hosts:
        for marker, names, key in _entries(file):
            if _matches(names, target.key_name):
                (revoked if marker else trusted).append(key)
    return KnownKeys(target, tuple(trusted), tuple(revoked))


def _entries(file: Path) -> Iterator[tuple[bool, list[str], paramiko.PKey]]:
    """(whether it is revoked, names, key) of each line that can be read."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        says = f"{file}, where host keys are kept, cannot be read: {error.strerror}."
        raise HostUnreachable(says) from error
    for line in lines:
        marker, _, rest = line.strip().partition(" ") if line.startswith("@") else ("", "", line)
        if marker not in {"", "@revoked"} or not rest.strip() or rest.startswith("#"):
            continue
        try:
            entry = HostKeyEntry.from_line(" ".join(rest.split()))
        except (InvalidHostKey, paramiko.SSHException, ValueError):
            continue  # as OpenSSH: a broken line trusts nobody
        if entry is not None and entry.hostnames and entry.key is not None:
            yield bool(marker), entry.hostnames, entry.key


def _matches(names: list[str], host: str) -> bool:
    found = False
    for name in names:
        if name.startswith("|1|"):
            found = found or paramiko.HostKeys.hash_host(host, name) == name
        elif name.startswith("!"):
            if _glob(name[1:], host):
                return False
        else:
            found = found or _glob(name, host)
    return found


def _glob(pattern: str, host: str) -> bool:
    parts = ({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern.lower())
    return re.fullmatch("".join(parts), host.lower()) is not None


def _signatures(key: paramiko.PKey) -> tuple[str, ...]:
    return _RSA if key.get_name() == "ssh-rsa" else (key.get_name(),)


def _described(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"
