"""The lines around a screen's content: header, banner and key bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.containers import Vertical
from textual.reactive import var
from textual.strip import Strip

from celery_ops.tui.commands import bar_order, writes
from celery_ops.tui.lines import Line, Lines, Toned, line
from celery_ops.tui.picture import BLANK, Picture
from celery_ops.tui.text import FRESH, UNKNOWN, Tone, age, clock, safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events
    from textual.app import ComposeResult
    from textual.binding import Binding

    from celery_ops.model import FleetSnapshot

_LOST_FOR_LONG = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar; a click on it presses `key`, if it has one."""

    text: str
    tone: Tone = Tone.PLAIN
    key: str = ""


class Bar(Toned, can_focus=False):
    """One line: parts on the left, parts on the right. What does not fit is cut on the left."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._left: tuple[Part, ...] = ()
        self._right: tuple[Part, ...] = ()

    def on_click(self, event: events.Click) -> None:
        at = 0
        for part in self._left:
            at += cell_len(safe(part.text))
            if event.x < at:
                if part.key:
                    self.app.simulate_key(part.key)
                return

    def show(self, left: Sequence[Part], right: Sequence[Part] = ()) -> None:
        """Replace both sides."""
        if (tuple(left), tuple(right)) != (self._left, self._right):
            self._left, self._right = tuple(left), tuple(right)
            self.refresh()

    @property
    def plain(self) -> str:
        """What is shown where there is room enough."""
        return "".join(safe(part.text) for part in (*self._left, *self._right))

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.base
        if y:
            return Strip.blank(width, base)
        right = Strip([self._segment(part) for part in self._right]).crop(0, width)
        room = max(0, width - right.cell_length)
        left: list[Segment] = []
        for part in self._left:
            segment = self._segment(part)
            length = cell_len(segment.text)
            if length > room:
                cut = set_cell_size(segment.text, max(0, room - 1)) + "…" if room else ""
                left.append(Segment(cut, segment.style))
                room = 0
                break
            left.append(segment)
            room -= length
        return Strip([*left, Segment(" " * room, base), *right])

    def _segment(self, part: Part) -> Segment:
        return Segment(safe(part.text), self.toned(part.tone, self.base))


class Header(Vertical):
    """Where we are: context, broker, the age of what is shown, the views, the lease."""

    picture: var[Picture] = var(BLANK)

    def __init__(self, views: Sequence[tuple[str, str, str]], current: str) -> None:
        """`views`: (key, name, title) of each; `current` is the name of the one shown."""
        super().__init__()
        self._views = tuple(views)
        self._current = current
        self._top = Bar(id="where")
        self._tabs = Bar(id="views")

    def compose(self) -> ComposeResult:
        yield self._top
        yield self._tabs

    def watch_picture(self, picture: Picture) -> None:
        self.set_class(picture.protected, "-protected")
        self._top.show(_where(picture), _when(picture))
        self._tabs.show([*self._tab_parts(), *_lease(picture)])

    def go_to(self, current: str) -> None:
        """Another view is shown now."""
        self._current = current
        self.watch_picture(self.picture)

    def _tab_parts(self) -> list[Part]:
        parts = [Part(" ")]
        for key, name, title in self._views:
            here = name == self._current
            text = f"[{key} {title}]" if here else f" {key} {title} "
            parts.append(Part(text, Tone.STRONG if here else Tone.DIM, key))
        return parts


class Banner(Lines):
    """What must not be overlooked: a lost broker, a frozen display. Takes no room otherwise."""

    picture: var[Picture] = var(BLANK)

    def watch_picture(self, picture: Picture) -> None:
        said = banner_lines(picture)
        self.display = bool(said)
        self.show(said)


class KeyBar(Bar):
    """The keys that work here and now, writes told apart."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: list[Binding] = []

    def keys(self, bindings: Sequence[Binding]) -> None:
        """Show these bindings, as far as they have a word for the bar."""
        self._keys = bar_order(bindings)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        """As many whole keys as there is room for, the more important ones first."""
        parts: list[Part] = []
        room = self.size.width
        for binding in self._keys:
            tone = Tone.WARN if writes(binding.action.partition("(")[0]) else Tone.NOTE
            key = Part(f" {binding.key_display or binding.key} ", tone, binding.key)
            word = Part(f"{binding.description} ", Tone.DIM, binding.key)
            room -= cell_len(key.text) + cell_len(word.text)
            if room >= 0:
                parts += [key, word]
        self.show(parts)


def banner_lines(picture: Picture) -> list[Line]:
    """One line for each thing that makes the screen show something else than now."""
    said = []
    newest, now = picture.newest, picture.now
    if newest is not None and newest.broker_error is not None:
        since = newest.broker_lost_at or newest.at
        ago = age((now - since).total_seconds())
        said.append(
            line(
                (f"▲ BROKER LOST since {clock(since)} UTC ({ago}): ", Tone.STRONG),
                f"{newest.broker_error} - showing what was last known",
            )
        )
    if picture.unwatched is not None:
        why = picture.unwatched
        says = f"▲ NOT WATCHING since {clock(why.at)} UTC ({age(why.age(now))}): "
        said.append(line((says, Tone.STRONG), f"{why.value} - showing what was last known"))
    if picture.frozen_at is not None:
        ago = age((now - picture.frozen_at).total_seconds())
        says = f"‖ FROZEN at {clock(picture.frozen_at)} UTC ({ago} ago) "
        said.append(line((says, Tone.STRONG), "- p lets it go on"))
    return said


def _where(picture: Picture) -> list[Part]:
    parts = [Part(" ● celery-ops ", Tone.STRONG), Part(f" {picture.context} ", Tone.STRONG)]
    if picture.protected:
        parts.append(Part(" PROTECTED ", Tone.STRONG))
    if picture.read_only:
        parts.append(Part(" READ ONLY ", Tone.STRONG))
    if picture.shown is not None:
        parts.append(Part(f" {picture.shown.broker} "))
    return parts


def _when(picture: Picture) -> list[Part]:
    at = Part(f"  {clock(picture.now)} UTC ")
    if picture.shown is None:
        return [Part("  nothing read yet", Tone.STRONG), at]
    lost_at = picture.shown.broker_lost_at
    if lost_at is not None:
        # A snapshot of a lost broker is new, what it shows is not.
        return [Part(f"  lost {age((picture.now - lost_at).total_seconds())} ago", Tone.STRONG), at]
    seconds = (picture.now - picture.shown.at).total_seconds()
    old = f"  read {age(seconds)} ago"
    return [Part(old, Tone.PLAIN if seconds <= FRESH else Tone.STRONG), at]


def _lease(picture: Picture) -> list[Part]:
    shown: FleetSnapshot | None = picture.shown
    if shown is None or shown.holder is None:
        return []
    holder = shown.holder
    run = holder.run[-4:] or UNKNOWN
    at = f" at {holder.step}" if holder.step else ""
    says = f"  lease: {holder.operator} runs {holder.what}{at}"
    return [Part(f"{says} (…{run}, since {clock(holder.since)})", Tone.WARN)]
