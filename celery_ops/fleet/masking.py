"""Hides values by the name they stand under: passwords, tokens, card numbers in tasks' arguments.

Works on data, where it is exact, and on text that only looks like data: the argument texts that
publishers write (`repr`, often cut in the middle), or JSON and query strings inside of a string.
There it does what can be done without knowing who wrote the text: in doubt too much is hidden.

It cannot hide what has no name (a positional argument), what is called something harmless, or a
value that is written without quotes and has a comma in it, from the comma on. Pure.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field

from celery_ops.config.secret import MASK, masked

_WORDS = frozenset(
    {"auth", "authentication", "bearer", "card", "cards", "cookie", "cookies", "creditcard"}
    | {"csrf", "cvc", "cvv", "iban", "jwt", "otp", "pass", "passphrase", "pin", "pw", "pwd"}
    | {"session", "sessionid", "ssn", "xsrf"}
)
"""Hidden where they are a whole word of a key: `cardNumber`, `card-number`, but not `discard`."""
_PARTS = ("passw", "secret", "token", "credential", "authoriz", "apikey", "accesskey", "privatekey")
"""Hidden wherever they stand in a key, written together or apart: `x-api-key`."""
_LONGEST_KEY = 1_000
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+")

_NAMED = re.compile(
    # 'key': …   "key" = …   \"key\": …
    r"""(?P<quote>\\*['"])(?P<quoted>[^'"\\=]{1,100})(?P=quote)\s{0,10}[:=]\s{0,10}"""
    # ('key', …)   ['key', …]   '--key', …
    r"""|(?:[(\[]\s{0,10}(?P<first>\\*['"])(?P<paired>[^'"\\=]{1,100})(?P=first)"""
    r"""|(?P<dashed>\\*['"])(?P<option>-[\w.-]{1,100})(?P=dashed))\s{0,10},\s{0,10}"""
    # key=…   key: …
    r"""|(?<!\w)(?P<bare>[^\W\d][\w.-]{0,99})\s{0,10}[:=]\s{0,10}"""
)
_QUOTE = re.compile(r"""\\*['"]""")
_OPENING = re.compile(r"""[bBuUrRfF]{0,2}(?P<quote>\\*['"])""")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_ENDS_BARE = frozenset(",;&)]}>'\"\n")


@dataclass(frozen=True, slots=True)
class Masks:
    """Which keys' values are hidden: those of our own lists, and by `more`, globs in any case."""

    more: tuple[str, ...] = ()
    _globs: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        globs = tuple(re.compile(fnmatch.translate(one.casefold())) for one in self.more)
        object.__setattr__(self, "_globs", globs)

    def hide(self, key: str) -> bool:
        """Whether the value of that key is hidden."""
        key = key[:_LONGEST_KEY]
        words = [word.casefold() for word in _WORD.findall(key)]
        together = "".join(words)
        return (
            not _WORDS.isdisjoint(words)
            or any(part in together for part in _PARTS)
            or any(glob.match(key.casefold()) for glob in self._globs)
        )

    def in_text(self, text: str) -> str:
        """The text with the values of such keys, and the passwords of URLs, replaced by `***`."""
        parts: list[str] = []
        position = 0
        while (found := _NAMED.search(text, position)) is not None:
            parts.append(text[position : found.end()])
            position = found.end()
            key = found["quoted"] or found["paired"] or found["option"] or found["bare"]
            if self.hide(key):
                parts.append(MASK)
                position = _end_of_value(text, position)
        return masked("".join([*parts, text[position:]]))


def _end_of_value(text: str, start: int) -> int:
    """Where the value that begins at `start` ends; the end of the text if it was cut."""
    opening = _OPENING.match(text, start)
    if opening is not None:
        return _end_of_string(text, opening.end(), opening["quote"])
    position = start
    while position < len(text) and text[position] not in _ENDS_BARE:
        position = _end_of_bracket(text, position) if text[position] in _BRACKETS else position + 1
    return position


def _end_of_string(text: str, start: int, quote: str) -> int:
    """A quote behind more backslashes than the opening one is part of the string, or its end behind
    a backslash: which of them, only who wrote it could tell. In doubt all of the rest goes.
    """
    level = len(quote)
    for found in _QUOTE.finditer(text, start):
        if found[0][-1] != quote[-1]:
            continue
        deeper = len(found[0]) - level
        if deeper <= 0:
            return found.end()
        if deeper % (2 * level) != level:
            break
    return len(text)


def _end_of_bracket(text: str, start: int) -> int:
    expected = [_BRACKETS[text[start]]]
    position = start + 1
    while expected and position < len(text):
        character = text[position]
        opening = _QUOTE.match(text, position)
        if opening is not None:
            position = _end_of_string(text, opening.end(), opening[0])
            continue
        if character == expected[-1]:
            expected.pop()
        elif character in _BRACKETS:
            expected.append(_BRACKETS[character])
        position += 1
    return position
