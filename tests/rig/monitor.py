"""Listens to every command that a Redis server is given."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.rig.redis import RedisServer


@dataclass
class Monitor:
    """Every command that a server was given."""

    server: RedisServer
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._client: Any = self.server.client()
        self._writes: set[str] = {
            name.upper()
            for name, info in self._client.command().items()
            if "write" in info["flags"]
        }
        connection: Any = self._client.connection_pool.get_connection()
        connection.send_command("MONITOR")
        connection.read_response()
        self._connection = connection

    def stop(self) -> None:
        self._client.set("monitor", "ends")
        while '"monitor" "ends"' not in (line := self._connection.read_response().decode()):
            self.lines.append(line)
        self._client.delete("monitor")
        self._connection.disconnect()

    def writes_of(self, clients: set[str]) -> list[tuple[str, str]]:
        """(command, key) of each write by these addresses, those inside of their scripts too."""
        found, runs_script = [], False
        for line in self.lines:
            _, place, command, *arguments = re.findall(r'\[[^\]]*\]|"(?:[^"\\]|\\.)*"|\S+', line)
            client = place.strip("[]").partition(" ")[2]
            if client != "lua":
                runs_script = client in clients and command.upper() in ('"EVAL"', '"EVALSHA"')
            name = json.loads(command).upper()
            if (client in clients or runs_script) and name in self._writes:
                found.append((name, json.loads(arguments[0].replace("\\x", "\\u00"))))
        return found
