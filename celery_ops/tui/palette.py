"""The command palette: what can be done here and now, from the same bindings as the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from celery_ops.tui.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KNOWN = {command.does for command in COMMANDS}


class KeyCommands(Provider):
    """Offers the active bindings of the screen below the palette, by what they do."""

    async def discover(self) -> Hits:
        for title, key, run in self._commands():
            yield DiscoveryHit(Content(title), run, help=key)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, key, run in self._commands():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), run, help=key)

    def _commands(self) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """Title, help and action of each command that exists here; each once."""
        seen = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.tooltip not in _KNOWN or not active.enabled or binding.action in seen:
                continue
            seen.add(binding.action)
            node, action = active.node, binding.action

            def run(action: str = action, node: object = node) -> None:
                self.app.call_later(self.app.run_action, action, node)

            yield binding.tooltip, f"key {binding.key_display or binding.key}", run
