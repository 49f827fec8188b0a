"""Releases of the code that workers run: which one a host has, and which ones it could have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class HostReleases:
    """The release that a host's services would be started with, and all that are there.

    `known` is None where the layout cannot list them; its order is from old to new, as far as it
    can be told: often only by their names (`in_order`). `same` are other names of the current one.
    """

    current: str | None
    known: tuple[str, ...] | None
    same: frozenset[str] = frozenset()

    @property
    def previous(self) -> str | None:
        """The one before the current; None where there is none, or it cannot be told."""
        if self.known is None or self.current not in self.known:
            return None
        older = self.known[: self.known.index(self.current)]
        return next((name for name in reversed(older) if name not in self.same), None)


PREVIOUS = "previous"
"""The word for the release before the current one; so none is called that."""
_NAME = re.compile(r"(?!previous$)[A-Za-z0-9][A-Za-z0-9._+-]*")


def is_name(text: str) -> bool:
    """Whether a release can be called that: it becomes a part of a path."""
    return _NAME.fullmatch(text) is not None


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """From old to new, as far as names tell: numbers in them count as numbers (v9 before v10)."""
    return tuple(sorted(names, key=_key))


def _key(name: str) -> tuple[tuple[tuple[bool, int, str], ...], str]:
    parts = re.findall(r"\d+|\D+", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part)
                 for part in parts), name  # fmt: skip
