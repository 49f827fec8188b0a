"""What a waiting message carries, as it can be shown: its arguments, shortened and masked.

The texts that its publisher wrote for people win over the body: Celery lets a publisher hide
there what nobody should read (`argsrepr`), and they are all there is of a pickled message. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.secret import MASK
from celery_ops.model.bodies import Closed, opened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.fleet.masking import Masks
    from celery_ops.model import Body, StoredMessage

MOST_SHOWN = 1_024
"""Characters of either, as many as Celery itself writes (`argsrepr_maxsize`)."""
_DEEPEST = 8
_LONGEST_TEXT = 256
"""Characters of one string among the arguments."""
_CUT = "…"
_BETWEEN = ", "
_EMPTY = {"()", "[]", "{}"}


@dataclass(frozen=True, slots=True)
class Contents:
    """The arguments of a message as Python would write them. None: they cannot be told, see
    `closed`: why, in a few words (`pickle`, `nested too deeply`); empty where they can.
    """

    args: str | None
    kwargs: str | None
    closed: str = ""

    def __str__(self) -> str:
        """In one line, without what is empty; `(pickle)` where nothing can be told."""
        if self.args is None and self.kwargs is None:
            return f"({self.closed})"
        given = [one for one in (self.args, self.kwargs) if one and one not in _EMPTY]
        return " ".join(given)


def contents(message: StoredMessage, masks: Masks) -> Contents:
    """The arguments of a task's message. Nothing that is sent in a pickle is ever loaded."""
    if message.args is not None or message.kwargs is not None:
        return Contents(_told(message.args, masks), _told(message.kwargs, masks))
    if message.body is None:
        return Contents(None, None, "no body")
    try:
        args, kwargs = _arguments(message.body)
    except Closed as closed:
        return Contents(None, None, str(closed))
    return Contents(_written(args, masks), _written(kwargs, masks))


def _arguments(body: Body) -> tuple[object, object]:
    """Of protocol 2 `[args, kwargs, embedded]`, of protocol 1 a mapping with both."""
    match opened(body):
        case [list() as args, dict() as kwargs, *_]:
            return args, kwargs
        case {"args": list() as args, "kwargs": dict() as kwargs}:
            return args, kwargs
        case _:
            raise Closed("not the arguments of a task")


def _told(text: str | None, masks: Masks) -> str | None:
    return None if text is None else _cut(masks.in_text(text[: MOST_SHOWN + 1]), MOST_SHOWN)


def _written(value: object, masks: Masks) -> str:
    # Once more as a text: there may be JSON, headers or URLs in the strings.
    return _cut(masks.in_text(_Writer(masks).arguments(value)), MOST_SHOWN)


class _Writer:
    """Writes data as `repr` does, but no more of it than is shown: it may be a megabyte."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._left = MOST_SHOWN

    def arguments(self, value: object) -> str:
        """The positional ones as a tuple, the named ones as a mapping."""
        if not isinstance(value, list):
            return self._value(value, 0)
        inside = self._joined(self._value(item, 1) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"

    def _value(self, value: object, depth: int) -> str:
        if depth > _DEEPEST:
            return _CUT
        match value:
            case dict():
                entries = (self._entry(key, item, depth) for key, item in value.items())
                return f"{{{self._joined(entries)}}}"
            case [str(name), _] if self._masks.hide(name):  # a header, as a pair
                return f"[{self._scalar(name)}, {MASK}]"
            case list():
                inside = self._joined(self._value(item, depth + 1) for item in value)
                return f"[{inside}]"
            case _:
                return self._scalar(value)

    def _entry(self, key: str, item: object, depth: int) -> str:
        value = MASK if self._masks.hide(key) else None
        return f"{self._scalar(key)}: {value or self._value(item, depth + 1)}"

    def _joined(self, pieces: Iterable[str]) -> str:
        """As far as there is room. Each piece costs something, were it empty."""
        kept: list[str] = []
        for piece in pieces:
            kept.append(piece)
            self._left -= len(_BETWEEN)
            if self._left <= 0:
                kept.append(_CUT)
                break
        return _BETWEEN.join(kept)

    def _scalar(self, value: object) -> str:
        if isinstance(value, str):
            written = repr(_cut(value, _LONGEST_TEXT))
        else:
            written = _cut(str(value), _LONGEST_TEXT)
        self._left -= len(written)
        return written


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + _CUT
