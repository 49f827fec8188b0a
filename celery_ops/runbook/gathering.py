"""Things done to several targets at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence


async def all_of(performed: Sequence[Coroutine[Any, Any, object]]) -> None:
    """Let all end, then raise the first error: no target is left in the middle by another's."""
    for result in await asyncio.gather(*performed, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
