"""What the global options say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.config.secret import Secret


@dataclass(frozen=True, slots=True)
class Choice:
    """The global options. `app` is a name, or the application of `celery -A … ops` itself."""

    context: str | None = None
    config: Path | None = None
    broker: Secret | None = None
    app: object | None = None
    read_only: bool = False

    @property
    def is_explicit(self) -> bool:
        """The operator named the context; it did not come from a default."""
        return self.context is not None
