"""Our own keys: those of the agent, key files, and their certificates. Passwords are never used."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.pkey import UnknownKeyType

from celery_ops.errors import HostUnreachable
from celery_ops.hosts.ssh_threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from celery_ops.config.secret import Secret
    from celery_ops.hosts.ssh_target import Target

    AskPassphrase = Callable[[Path], Awaitable[Secret | None]]
    """Asks the operator for the passphrase of a key file; None: it is not known."""


_UNUSABLE = (ValueError, UnsupportedAlgorithm, paramiko.SSHException, UnknownKeyType)


class LockedKey(Exception):  # not an OpsError: it is answered by asking
    """Everything else was refused, and this key file needs a passphrase."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


@dataclass(slots=True)
class Keyring:
    """The key files that were opened, for all connections. Each is asked for once at most."""

    ask: AskPassphrase | None = None
    given_up: dict[Path, str] = field(default_factory=dict)
    """The locked ones that stay so, each with the reason."""
    _opened: dict[Path, paramiko.PKey] = field(default_factory=dict, repr=False)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def load(self, path: Path) -> paramiko.PKey | None:
        """The key in a file; None if there is no such file or it is of no use.

        Blocks. Raise LockedKey if it is encrypted.
        """
        if path in self._opened:
            return self._opened[path]
        try:
            key = paramiko.PKey.from_path(path)
        except OSError:
            return None
        except (TypeError, paramiko.PasswordRequiredException):
            raise LockedKey(path) from None
        except _UNUSABLE:
            return None
        self._opened[path] = key
        return key

    def is_locked(self, path: Path) -> bool:
        """Whether it can only be opened with a passphrase, and nobody was asked for it yet."""
        try:
            self.load(path)
        except LockedKey:
            return path not in self.given_up
        return False

    @property
    def is_asking(self) -> bool:
        """Whether somebody is thinking of a passphrase just now."""
        return self._asking.locked()

    async def unlock(self, path: Path) -> None:
        """Ask for a passphrase, unless it was done meanwhile; without the right one it is given
        up.
        """
        async with self._asking:
            if path in self._opened or path in self.given_up:
                return
            passphrase = await self.ask(path) if self.ask is not None else None
            if passphrase is None:
                self.given_up[path] = f"The key {path} is encrypted, and its passphrase is unknown."
                return
            # Deriving a key from a passphrase is made slow on purpose: not on the event loop.
            thread = Threads("ssh key", 1)
            opening = thread.submit(partial(_unlocked, path, passphrase))
            thread.close()
            key = await opening
            if key is None:
                self.given_up[path] = f"The passphrase does not open the key {path}."
            else:
                self._opened[path] = key


def _unlocked(path: Path, passphrase: Secret) -> paramiko.PKey | None:
    try:
        # Bytes, whatever the annotation says: cryptography takes nothing else.
        return paramiko.PKey.from_path(path, cast("str", passphrase.reveal().encode()))
    except (OSError, TypeError, *_UNUSABLE):
        return None


def log_in(transport: paramiko.Transport, target: Target, keyring: Keyring) -> None:
    """Try one key after the other, as OpenSSH does: the agent's, then the files, locked ones last.

    Blocks. Raise LockedKey if it depends on such a file now, and HostUnreachable if all were
    refused or given up.
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
    for path in locked:
        if path not in keyring.given_up:
            raise LockedKey(path)
    if locked:
        fix = f"Add it to the agent: ssh-add {locked[0]}"
        raise HostUnreachable(keyring.given_up[locked[0]], fix=fix)
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
