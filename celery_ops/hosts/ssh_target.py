"""Where a host is reached and as whom: celery-ops.yaml over `~/.ssh/config` over the defaults."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.config.contexts import HostEntry, SshSettings

PORT = 22
MAX_HOPS = 8
_MAX_INCLUDES = 16
_HOP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>\[[^]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?/?"
)
_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")
_SYSTEM_FILES = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))


@dataclass(frozen=True, slots=True)
class Target:
    """One machine to log in to; equal targets share a connection.

    `key_name` is the name its key is looked up by in `known_hosts`. `explicit_keys`: the key files
    were named by somebody, and are not only OpenSSH's usual ones.
    """

    hostname: str
    port: int
    user: str
    key_name: str
    known_hosts: tuple[Path, ...]
    keys: tuple[Path, ...]
    explicit_keys: bool = False
    only_these_keys: bool = False
    via: Target | None = None
    timeout: float = 10.0
    """Seconds for the whole way from nothing to being logged in."""

    def __str__(self) -> str:
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{self.user}@{host}" + ("" if self.port == PORT else f":{self.port}")

    @property
    def all_keys(self) -> tuple[Path, ...]:
        """Its key files and those of its jump hosts."""
        return (*self.keys, *(() if self.via is None else self.via.all_keys))

    @property
    def scan(self) -> str:
        """The command that prints its keys."""
        port = "" if self.port == PORT else f"-p {self.port} "
        return f"ssh-keyscan {port}{self.hostname}"


def resolve(entry: HostEntry) -> Target:
    """The target of a host, its jump hosts included. Raise UsageError for what is not understood.

    Of `~/.ssh/config` these are honoured: HostName, Port, User, IdentityFile, IdentitiesOnly,
    ProxyJump, HostKeyAlias, UserKnownHostsFile, Include; host keys are strict whatever it says.
    """
    settings = entry.ssh
    return _target(_Options(settings), entry.address, settings, seen=())


class _Options:
    """What the OpenSSH client configuration says of a name."""

    def __init__(self, settings: SshSettings) -> None:
        files = (
            (settings.config,)
            if settings.config is not None
            else (Path.home() / ".ssh" / "config", Path("/etc/ssh/ssh_config"))
        )
        self._required = settings.config is not None
        self._lines = [line for file in files for line in self._read(file, ())]

    def of(self, name: str, user: str | None) -> paramiko.SSHConfigDict:
        # A `Match user` and %r must see the user that celery-ops.yaml names.
        given = f"Host *\nUser {user}\n" if user else ""
        try:
            told = paramiko.SSHConfig.from_text(given + "\n".join(self._lines)).lookup(name)
            told["port"] = str(int(told.get("port", PORT)))
        except (paramiko.SSHException, ValueError, KeyError, ImportError) as error:
            says = f"The SSH client configuration cannot be used for {name}: {error}."
            raise UsageError(says) from error
        return told

    def _read(self, file: Path, including: tuple[Path, ...]) -> Iterator[str]:
        """The lines of a file; those of included ones stand where they are included."""
        if file in including or len(including) > _MAX_INCLUDES:
            return
        try:
            lines = file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            if self._required and not including:
                raise UsageError(f"The SSH client configuration {file} is not there.") from None
            return
        except OSError as error:
            says = f"The SSH client configuration {file} cannot be read: {error.strerror}."
            raise UsageError(says) from error
        for line in lines:
            word, _, patterns = line.strip().replace("=", " ", 1).partition(" ")
            if word.lower() != "include":
                yield line
                continue
            base = Path("/etc/ssh") if file.is_relative_to("/etc/ssh") else Path.home() / ".ssh"
            for pattern in patterns.replace('"', " ").split():
                path = base / Path(pattern).expanduser()
                for one in sorted(Path("/").glob(str(path)[1:])):
                    yield from self._read(one, (*including, file))


def _target(
    options: _Options, name: str, settings: SshSettings, *, seen: tuple[str, ...]
) -> Target:
    if name in seen or len(seen) > MAX_HOPS:
        raise UsageError(f"The jump hosts of {seen[0]} go in a circle: {', '.join((*seen, name))}.")
    told = options.of(name, settings.user)
    hostname = told.get("hostname", name)
    port = settings.port or int(told["port"])
    alias = told.get("hostkeyalias") or hostname.lower()
    keys = settings.keys or tuple(Path(one).expanduser() for one in told.get("identityfile", ()))
    via = _via(options, name, settings, told, seen)
    return Target(
        hostname=hostname,
        port=port,
        user=settings.user or told.get("user") or _ourselves(),
        key_name=alias if port == PORT or told.get("hostkeyalias") else f"[{alias}]:{port}",
        known_hosts=_known_hosts(settings, told),
        keys=keys or tuple(Path.home() / ".ssh" / one for one in _DEFAULT_KEYS),
        explicit_keys=bool(keys),
        only_these_keys=told.get("identitiesonly", "no").lower() == "yes",
        via=via,
        timeout=settings.connect_timeout,
    )


def _via(
    options: _Options,
    name: str,
    settings: SshSettings,
    told: paramiko.SSHConfigDict,
    seen: tuple[str, ...],
) -> Target | None:
    """The last of the jump hosts, each of which is reached through the one before it."""
    jump = settings.jump or told.get("proxyjump")
    if jump is None or jump.lower() == "none":
        if told.get("proxycommand") and jump is None:
            raise UsageError(
                f"{name} is reached by a ProxyCommand, which celery-ops does not run.",
                fix="Use ProxyJump in ~/.ssh/config, or `jump:` in celery-ops.yaml.",
            )
        return None
    via: Target | None = None
    for hop in jump.split(","):
        match = _HOP.fullmatch(hop.strip())
        if match is None:
            raise UsageError(f"The jump host {hop!r} of {name} is not [user@]host[:port].")
        if match["host"] == name and settings.jump is None:
            return None  # `Host *` with a ProxyJump means all but the jump host itself
        own = replace(
            settings,
            user=match["user"] or _user_of(options, match["host"]) or settings.user,
            port=int(match["port"]) if match["port"] else None,
            jump="none" if via is not None or settings.jump else None,
        )
        behind = (*seen, name) if settings.jump is None else ()
        hop_target = _target(options, match["host"].strip("[]"), own, seen=behind)
        via = hop_target if via is None else replace(hop_target, via=via)
    return via


def _user_of(options: _Options, name: str) -> str | None:
    return options.of(name, None).get("user")


def _known_hosts(settings: SshSettings, told: paramiko.SSHConfigDict) -> tuple[Path, ...]:
    if settings.known_hosts is not None:
        return (settings.known_hosts,)
    named = told.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2").split()
    return (*(Path(one).expanduser() for one in named if one != "none"), *_SYSTEM_FILES)


def _ourselves() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        fix = "Name it: `ssh: {user: …}` in celery-ops.yaml."
        raise UsageError("It is not known which user to log in as.", fix=fix) from error
