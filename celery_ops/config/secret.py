"""Values that must never be shown.

Not a subclass of `str`: an f-string would print it. The one way to the value is `.reveal()`, so every
place that can leak can be found by searching for that word.
"""

from __future__ import annotations

import re

MASK = "***"
_PASSWORD_IN_URL = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/?#\s@]*?:)[^/?#\s]*(?=@)", re.I)
_SECRET_PARAMETER = re.compile(
    r"(?P<before>[?&][^=&#\s]*(?:password|passwd|secret|token)[^=&#\s]*=)[^&#\s]*", re.I
)


class Secret:
    """A string that prints as `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")


def masked(text: str) -> str:
    """The text with the passwords of all URLs in it replaced by `***`.

    Works on any text (an error message, a host's output), not only on a bare URL.
    """
    text = _PASSWORD_IN_URL.sub(rf"\g<before>{MASK}", text)
    return _SECRET_PARAMETER.sub(rf"\g<before>{MASK}", text)
