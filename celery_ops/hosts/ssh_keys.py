"""Our own keys: those of the agent, key files, and their certificates. Passwords are never used."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.pkey import UnknownKeyType

from celery_ops.errors import HostUnreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from celery_ops.config.secret import Secret
    from celery_ops.hosts.ssh_target import Target

    AskPassphrase = Callable[[Path], Awaitable[Secret | None]]
    """Asks the operator for the passphrase of a key file; None: it is not known."""


class LockedKey(Exception):  # not an OpsError: it is answered by asking
    """Everything else was refused, and this key file needs a passphrase."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


@dataclass(slots=True)
class Keyring:
    """The key files that were opened, for all connections. Each is asked for once at most."""

    ask: AskPassphrase | None = None
    _opened: dict[Path, paramiko.PKey] = field(default_factory=dict, repr=False)
    _given_up: set[Path] = field(default_factory=set)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def load(self, path: Path) -> paramiko.PKey | None:
        """The key in a file; None if there is no such file or it is of no use.

        Blocks. Raise LockedKey if it is encrypted and nobody was asked yet.
        """
        if path in self._opened:
            return self._opened[path]
        try:
            key = paramiko.PKey.from_path(path)
        except OSError:
            return None
        except (TypeError, paramiko.PasswordRequiredException):
            if path in self._given_up:
                return None
            raise LockedKey(path) from None
        except (ValueError, UnsupportedAlgorithm, paramiko.SSHException, UnknownKeyType):
            return None
        self._opened[path] = key
        return key

    async def unlock(self, path: Path) -> None:
        """Ask for a passphrase, unless it was done meanwhile.

        Raise HostUnreachable if there is nobody to ask, or the passphrase is wrong.
        """
        async with self._asking:
            if path in self._opened or path in self._given_up:
                return
            fix = f"Add it to the agent: ssh-add {path}"
            passphrase = await self.ask(path) if self.ask is not None else None
            if passphrase is None:
                if self.ask is not None:
                    self._given_up.add(path)
                says = f"The key {path} is encrypted, and its passphrase is not known."
                raise HostUnreachable(says, fix=fix)
            try:
                # Bytes, whatever the annotation says: cryptography takes nothing else.
                password = cast("str", passphrase.reveal().encode())
                self._opened[path] = paramiko.PKey.from_path(path, password)
            except (OSError, ValueError, TypeError, paramiko.SSHException):
                self._given_up.add(path)
                says = f"The passphrase does not open the key {path}."
                raise HostUnreachable(says, fix=fix) from None


def log_in(transport: paramiko.Transport, target: Target, keyring: Keyring) -> None:
    """Try one key after the other, as OpenSSH does: the agent's, then the files, locked ones last.

    Blocks. Raise LockedKey if only such files are left, and HostUnreachable if all were refused.
    """
    agent = paramiko.Agent()
    try:
        tried = 0
        locked: list[Path] = []
        for key in _candidates(agent, target, keyring, locked):
            tried += 1
            if _accepted(transport, target, key):
                return
    finally:
        agent.close()
    if locked:
        raise LockedKey(locked[0])
    says = f"{target} refused us: " + (
        f"none of the {tried} keys that were tried is accepted."
        if tried
        else "there is no key to log in with."
    )
    files = ", ".join(str(path) for path in target.keys)
    raise HostUnreachable(says, fix=f"Looked for keys in the agent and in {files}.")


def _candidates(
    agent: paramiko.Agent, target: Target, keyring: Keyring, locked: list[Path]
) -> Iterator[paramiko.PKey]:
    shown: set[bytes] = set()
    ours = {blob for path in target.keys if (blob := _public(path)) is not None}
    offered = list(agent.get_keys())
    for key in sorted(offered, key=lambda one: one.asbytes() not in ours):
        if key.asbytes() in ours or not target.only_these_keys:
            shown.add(key.asbytes())
            yield key
    for path in target.keys:
        try:
            loaded = keyring.load(path)
        except LockedKey as error:
            locked.append(error.path)
            continue
        if loaded is None:
            continue
        if loaded.public_blob is not None or loaded.asbytes() not in shown:
            yield loaded


def _public(path: Path) -> bytes | None:
    """The public half that lies beside a key file, to know it among the agent's."""
    try:
        return paramiko.pkey.PublicBlob.from_file(f"{path}.pub").key_blob
    except (OSError, ValueError, paramiko.SSHException):
        return None


def _accepted(transport: paramiko.Transport, target: Target, key: paramiko.PKey) -> bool:
    try:
        more = transport.auth_publickey(target.user, key)
    except paramiko.BadAuthenticationType as error:
        allowed = ", ".join(error.allowed_types)
        says = f"{target} accepts no keys, only: {allowed}."
        raise HostUnreachable(says) from error
    except paramiko.SSHException as error:
        # An agent that does not sign is as good as a key that is refused.
        if transport.is_active():
            return False
        raise _ended(target) from error
    if more:
        says = f"{target} wants more than a key: {', '.join(more)}."
        raise HostUnreachable(says)
    return True


def _ended(target: Target) -> HostUnreachable:
    return HostUnreachable(
        f"{target} ended the connection before any key was accepted.",
        fix="If the agent has many keys: name one with `keys:` and IdentitiesOnly.",
    )
