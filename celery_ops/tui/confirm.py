"""Questions that must be answered on purpose: what is agreed to is named, the way out is near."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from celery_ops.config.secret import Secret
from celery_ops.tui.bars import KeyBar
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.text import Tone, safe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.screen import Screen

    from celery_ops.tui.progress import Question


_AROUND = 9
"""Lines of a confirmation beside what is asked: its frame, the line to type in, the keys."""


class ConfirmScreen(ModalScreen[bool]):
    """Agreed with `Y`; where a text must be typed, with it and enter. Everything else is no."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.CONFIRM)]

    def __init__(self, lines: Sequence[Line], *, typed: str | None = None) -> None:
        super().__init__()
        self._typed = typed
        self._text = Lines(lines, id="question")
        self._wanted = Lines([line("Type ", (typed or "", Tone.STRONG), " and press enter:")])
        self._input = Input(id="typed", compact=True)
        self._bar = KeyBar()

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield self._text
            if self._typed is not None:
                yield self._wanted
                yield self._input
            yield self._bar

    def on_mount(self) -> None:
        self.bindings_updated_signal.subscribe(self, self._keys_changed)
        self.call_after_refresh(self.refresh_bindings)

    def on_resize(self) -> None:
        self._text.styles.max_height = max(3, self.size.height * 9 // 10 - _AROUND)
        self.call_after_refresh(self.refresh_bindings)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip() == self._typed:
            self.dismiss(True)
        else:
            self._input.add_class("-wrong")
            self.app.bell()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        if action == "read_on":
            return self._text.max_scroll_y > 0
        return action != "agree" or self._typed is None

    def action_agree(self) -> None:
        self.dismiss(True)

    def action_back(self) -> None:
        self.dismiss(False)

    def action_read_on(self, pages: int) -> None:
        """What is asked can be longer than its room, while the line to type in has the keys."""
        self._text.scroll_relative(y=pages * max(1, self._text.size.height - 1), animate=False)

    @property
    def plain(self) -> str:
        """What is asked."""
        return self._text.plain

    def _keys_changed(self, _screen: Screen[object]) -> None:
        active = self.active_bindings.values()
        self._bar.keys([one.binding for one in active if one.enabled and one.binding.show])


class AnswerScreen(ModalScreen["str | None"]):
    """What a run asks, with the answers it named to choose from, or a line to type one."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "later")]

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        question = self._question
        said = [line(("The run asks", Tone.WARN)), Line()]
        if question.because:
            said.append(line((question.because, Tone.BAD)))
        said += [line((question.asks, Tone.STRONG)), Line()]
        with Vertical(id="dialog"):
            yield Lines(said, id="question")
            if question.choices:
                yield OptionList(
                    *(Option(safe(one), id=one) for one in question.choices), markup=False
                )
            else:
                yield Input(id="typed", compact=True)
            yield Lines([line(("enter answers, esc lets it wait", Tone.DIM))])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option.id)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value)

    def action_back(self) -> None:
        self.dismiss(None)


class PassphraseScreen(ModalScreen["Secret | None"]):
    """What a key's passphrase is; it is not shown while it is typed. None: it is not known."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "not known")]

    def __init__(self, key: Path) -> None:
        super().__init__()
        self._key = key

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Lines(
                [
                    line(("A host wants an encrypted key", Tone.WARN)),
                    Line(),
                    line(("Passphrase of ", Tone.STRONG), (str(self._key), Tone.STRONG)),
                    Line(),
                ],
                id="question",
            )
            yield Input(id="typed", compact=True, password=True)
            yield Lines([line(("enter opens it, esc goes on without it", Tone.DIM))])

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(Secret(event.value) if event.value else None)

    def action_back(self) -> None:
        self.dismiss(None)
