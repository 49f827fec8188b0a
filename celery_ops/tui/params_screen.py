"""What a runbook can be told before it is planned, and what it has to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from celery_ops.runbook.schema import ParamType
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.text import Tone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from textual.app import ComposeResult

    from celery_ops.runbook.schema import Param
    from celery_ops.tui.messages import ChangeAsked


_SHOWN = 8
_FREE = {ParamType.TEXT, ParamType.INTEGER, ParamType.RELEASE}
"""Others say how carefully: that is what the runbook's own values are for."""


def untold(params: Iterable[Param], asked: ChangeAsked) -> tuple[Param, ...]:
    """What to ask for: what has to be told, and beside it what else can be.

    Nothing where all can stay as it is; but which messages are meant, and which release, is always
    asked for.
    """
    left = [one for one in params if one.name not in asked.given]
    needed = [one for one in left if one.default is None]
    if not needed and not any(_is_always_asked(one) for one in left):
        return ()
    return (*needed, *(one for one in left if one.default is not None and one.type in _FREE))


def _is_always_asked(param: Param) -> bool:
    return param.name == "filter" or param.type is ParamType.RELEASE


class ParamsScreen(ModalScreen["dict[str, str] | None"]):
    """A line to type for each parameter. Enter goes on, or to what still has to be told.

    None: left without an answer. What was typed is judged when the plan is made. `says` is what to
    know beside the names; what a runbook takes where nothing is typed stands in the line itself.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "back")]

    def __init__(
        self, what: str, names: Sequence[str], params: Sequence[Param], says: str = ""
    ) -> None:
        super().__init__()
        self._what = what
        self._names = names
        self._says = says
        self._typed = tuple((one, _input(one)) for one in params)

    def compose(self) -> ComposeResult:
        more = len(self._names) - _SHOWN
        names = ", ".join(self._names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        with Vertical(id="dialog"):
            said = [line((self._says, Tone.DIM))] if self._says else []
            yield Lines([line((self._what, Tone.STRONG), f" for {names}"), *said, Line()])
            with VerticalScroll(id="params", can_focus=False):
                for param, typed in self._typed:
                    must = (" (needed)", Tone.WARN) if param.default is None else ""
                    yield Lines([line((param.name, Tone.STRONG), must, f"  {param.help}")])
                    yield typed
            keys = "tab: the next line   enter: on to the plan   esc: back, changing nothing"
            yield Lines([line((keys, Tone.DIM))])

    def on_mount(self) -> None:
        # The first line has the keys, and what it is for stands above it.
        scroll = self.query_one("#params", VerticalScroll)
        self.call_after_refresh(scroll.scroll_home, animate=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        for param, typed in self._typed:
            if param.default is None and not typed.value.strip():
                typed.focus()
                return
        told = {param.name: typed.value.strip() for param, typed in self._typed}
        self.dismiss({name: value for name, value in told.items() if value})

    def action_back(self) -> None:
        self.dismiss(None)


def _input(param: Param) -> Input:
    own = param.default if isinstance(param.default, str) else ""
    return Input(classes="param", compact=True, placeholder=own)
