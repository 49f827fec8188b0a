"""Values that must never be shown.

Not a subclass of `str`: an f-string would print it. The one way to the value is `.reveal()`, so
every place that can leak can be found by searching for that word.
"""

from __future__ import annotations

import re

MASK = "***"
_WORD = re.compile(r"\S+")
_NEXT_URL = re.compile(r"(?<=[;,])(?=[a-z][a-z0-9+.-]{0,40}://)", re.I)
_SECRET_PARAMETER = re.compile(
    r"(?P<before>[?&][^?=&#\s]{0,60}?(?:passw|pwd|secret|token|credential)[^?=&#\s]{0,60}=)[^&#\s]+",
    re.I,
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

    Works on any text (an error message, a host's output), not only on a bare URL. Where a URL ends
    is not always clear, since people forget to quote passwords: in doubt too much is masked.
    """
    return _WORD.sub(lambda word: _masked_word(word[0]), text)


def _masked_word(word: str) -> str:
    if "://" not in word:
        return word
    urls = "".join(_masked_url(url) for url in _NEXT_URL.split(word))
    return _SECRET_PARAMETER.sub(rf"\g<before>{MASK}", urls)


def _masked_url(url: str) -> str:
    """Everything from the first colon after `://` to the last `@` goes."""
    start = url.find("://") + len("://")
    colon, at = url.find(":", start), url.rfind("@")
    if start < len("://") or colon < 0 or at < colon:
        return url
    return f"{url[: colon + 1]}{MASK}{url[at:]}"
