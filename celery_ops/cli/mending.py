"""Our own commands in what is told of a fleet, as they have to be typed for the context shown."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.cli.choice import Choice
    from celery_ops.cli.fleet_json import Json

_OURS = re.compile(r"\bcelery-ops (?=(?:worker|queue|beat|task|runs|runbook|status|queues)\b)")
_OF_COMMANDS = frozenset({"mend", "fix"})


class Mending:
    """Names the context in commands, where another than the default one was chosen.

    A password in the `broker`'s URL is masked, and has to be put in by whoever types it.
    """

    def __init__(self, choice: Choice, broker: str) -> None:
        self._named = ""
        if choice.context is not None:
            self._named = shlex.join(("-c", choice.context)) + " "
        elif choice.broker is not None or choice.app is not None:
            self._named = shlex.join(("-b", broker)) + " "

    def text(self, line: str) -> str:
        """A line with commands in it."""
        return _OURS.sub(lambda found: f"{found[0]}{self._named}", line)

    def json(self, value: Json) -> Json:
        """A document whose `mend` and `fix` are commands, at any depth."""
        return {key: self._value(key, one) for key, one in value.items()}

    def _value(self, key: str, value: object) -> object:
        match value:
            case dict():
                return self.json(value)
            case list():
                return [self._value(key, one) for one in value]
            case str() if key in _OF_COMMANDS:
                return self.text(value)
            case _:
                return value
