"""The passphrases of encrypted keys: asked of whoever is there, once, and told to executors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from celery_ops.config.secret import Secret
    from celery_ops.hosts.ssh_keys import AskPassphrase


class Passphrases:
    """An `AskPassphrase` that remembers, so that a run goes on with what its operator typed."""

    def __init__(
        self, ask: AskPassphrase | None = None, *, known: Mapping[Path, Secret] | None = None
    ) -> None:
        """Without `ask` there is nobody who could be asked."""
        self.ask = ask
        self._known = dict(known or {})

    @property
    def known(self) -> Mapping[Path, Secret]:
        """By key file; whether they are right is only seen where they are used."""
        return self._known

    async def __call__(self, path: Path) -> Secret | None:
        if path not in self._known and self.ask is not None:
            typed = await self.ask(path)
            if typed is not None:
                self._known[path] = typed
        return self._known.get(path)
