"""What every screen has: header, banner, key bar, and the picture its widgets are drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.reactive import var
from textual.screen import Screen

from celery_ops.tui.bars import Banner, Header, KeyBar
from celery_ops.tui.messages import PictureWanted
from celery_ops.tui.picture import BLANK, Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

VIEWS = (
    ("1", "fleet", "Fleet"),
    ("2", "workers", "Workers"),
    ("3", "queues", "Queues"),
    ("6", "hosts", "Hosts"),
    ("8", "runs", "Runs"),
)
"""Key, name and title of each view there is."""


class Frame(Screen[None]):
    """Base of the full screens. The app replaces `picture`; subclasses compose their `content`."""

    picture: var[Picture] = var(BLANK)

    def __init__(
        self, picture: Picture, *, view: str = "", views: Sequence[tuple[str, str, str]] = VIEWS
    ) -> None:
        super().__init__()
        self.set_reactive(Frame.picture, picture)
        self._header = Header(views, view)
        self._bar = KeyBar()

    def compose(self) -> ComposeResult:
        yield self._header.data_bind(Frame.picture)
        yield Banner().data_bind(Frame.picture)
        yield from self.content()
        yield self._bar

    def on_mount(self) -> None:
        self.bindings_updated_signal.subscribe(self, self._keys_changed)

    def on_screen_resume(self) -> None:
        self.post_message(PictureWanted(self))

    def content(self) -> ComposeResult:
        """The widgets between banner and key bar."""
        raise NotImplementedError

    def go_to(self, view: str) -> None:
        """Show in the header that this view is open."""
        self._header.go_to(view)

    def _keys_changed(self, _screen: Screen[object]) -> None:
        if self.is_mounted:
            active = self.active_bindings.values()
            self._bar.keys([one.binding for one in active if one.enabled and one.binding.show])
