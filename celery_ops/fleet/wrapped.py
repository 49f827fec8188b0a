"""Tasks that an application has sent away in the arguments of another one: the originals of those.

    dead_letter.store(kwargs={"name": "shop.mail", "id": "8c1b…", "args": [1], "kwargs": {}})

Which field is where is told by paths into the wrapper's arguments: `kwargs.name`, `args.0.id`.
Nothing is guessed: a field that is not there, or is of another type, is the reason why there is no
original. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.errors import UsageError
from celery_ops.model.bodies import Closed, opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import Body, StoredMessage

LONGEST_NAME = 255
"""Bytes of a name or an id."""
_PATH = re.compile(r"(args|kwargs)(\.[^.\s]+)*")


class NoOriginal(ValueError):
    """A message that is not read as a wrapper; the text is the reason, in a few words."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Where the fields of the original are; an empty path: it has none of these arguments, or it
    is not said which queue it was in.
    """

    task: str = ""
    id: str = ""
    args: str = ""
    kwargs: str = ""
    queue: str = ""

    def check(self) -> None:
        """Raise UsageError for what is no path."""
        for name, path in (("task", self.task), ("id", self.id)):
            if not path:
                raise UsageError(
                    f"it is not said where a wrapper has the {name} of its original: -p {name}=PATH"
                    f" (as kwargs.{name}, or args.0.{name})"
                )
        for path in (self.task, self.id, self.args, self.kwargs, self.queue):
            if path and not _PATH.fullmatch(path):
                raise UsageError(
                    f"not a path into a wrapper's arguments: {path!r} (as kwargs.name or args.0.id)"
                )


@dataclass(frozen=True, slots=True)
class Original:
    """A task as its wrapper tells it. `queue` is None where that is not told; `from_text`: some of
    its arguments were a text of JSON.
    """

    task: str
    id: str
    args: list[object]
    kwargs: dict[str, object]
    queue: str | None
    from_text: bool = False


def original(message: StoredMessage, fields: Fields) -> Original:
    """The task in that wrapper. Raise NoOriginal."""
    arguments = _arguments(message.body)
    args, is_text = _untexted(arguments, fields.args) if fields.args else ([], False)
    kwargs, is_text_too = _untexted(arguments, fields.kwargs) if fields.kwargs else ({}, False)
    if not isinstance(args, list):
        raise NoOriginal(f"{fields.args} is not a list")
    if not isinstance(kwargs, dict):
        raise NoOriginal(f"{fields.kwargs} is not a mapping")
    return Original(
        task=_name(arguments, fields.task),
        id=_name(arguments, fields.id),
        args=args,
        kwargs=kwargs,
        queue=_name(arguments, fields.queue) if fields.queue else None,
        from_text=is_text or is_text_too,
    )


def _arguments(body: Body | None) -> Mapping[str, object]:
    """Of protocol 2 or 1."""
    if body is None:
        raise NoOriginal("no body")
    try:
        said = opened(body, marked=True)
    except Closed as closed:
        raise NoOriginal(f"its body is not opened: {closed}") from closed
    match said:
        case [list() as args, dict() as kwargs, *_]:
            return {"args": args, "kwargs": kwargs}
        case {"args": list() as args, "kwargs": dict() as kwargs}:
            return {"args": args, "kwargs": kwargs}
    raise NoOriginal("its body is not the arguments of a task")


def _untexted(arguments: Mapping[str, object], path: str) -> tuple[object, bool]:
    """What is at a path, and whether it was a text of JSON."""
    found = _at(arguments, path)
    if not isinstance(found, str):
        return found, False
    try:
        return json.loads(found), True
    except (ValueError, RecursionError):
        raise NoOriginal(f"{path} is a text that is no JSON") from None


def _name(arguments: Mapping[str, object], path: str) -> str:
    found = _at(arguments, path)
    if not isinstance(found, str) or not found:
        raise NoOriginal(f"{path} is not a text")
    try:
        is_short = len(found.encode()) <= LONGEST_NAME
    except UnicodeEncodeError:
        is_short = False
    if not is_short:
        raise NoOriginal(f"{path} is no name: at most {LONGEST_NAME} bytes of UTF-8")
    return found


def _at(arguments: Mapping[str, object], path: str) -> object:
    found: object = arguments
    for part in path.split("."):
        match found:
            case dict() if part in found:
                found = found[part]
            case list() if part.isascii() and part.isdigit() and int(part[:6]) < len(found):
                found = found[int(part[:6])]
            case _:
                raise NoOriginal(f"there is no {path}")
    return found
