"""What a runbook has to be told before it can be planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.text import Tone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from celery_ops.runbook.schema import Param
    from celery_ops.tui.messages import ChangeAsked


class ParamsScreen(ModalScreen["dict[str, str] | None"]):
    """A line to type for each parameter; enter goes to the next one, and from the last one on.

    None: left without an answer. What was typed is judged when the plan is made.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "back")]

    def __init__(self, asked: ChangeAsked, missing: Sequence[Param]) -> None:
        super().__init__()
        self._asked = asked
        self._missing = tuple(missing)
        self._inputs = [Input(classes="param", compact=True) for _ in missing]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Lines(
                [
                    line(
                        (self._asked.runbook, Tone.STRONG), f" for {', '.join(self._asked.names)}"
                    ),
                    Line(),
                ],
                id="question",
            )
            for param, typed in zip(self._missing, self._inputs, strict=True):
                yield Lines([line((param.name, Tone.STRONG), f"  {param.help}")])
                yield typed
            yield Lines([line(("enter goes on, esc goes back and changes nothing", Tone.DIM))])

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        empty = [one for one in self._inputs if not one.value.strip()]
        if empty:
            empty[0].focus()
        else:
            values = [one.value.strip() for one in self._inputs]
            names = [param.name for param in self._missing]
            self.dismiss(dict(zip(names, values, strict=True)))

    def action_back(self) -> None:
        self.dismiss(None)
