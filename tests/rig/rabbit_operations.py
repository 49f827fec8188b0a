"""The fleet of `operations`, on RabbitMQ: tasks are counted in a Redis that is nobody's broker."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from amqp.exceptions import NotFound

from tests.rig.amqp_poller import AmqpPoller
from tests.rig.operations import CONF, PASSWORD, Operations
from tests.rig.rabbitmq import RabbitServer
from tests.rig.redis import RedisServer
from tests.rig.supervisord import supervisord
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.rig.operations import Program
    from tests.rig.supervisord import Rig


class RabbitOperations(Operations):
    """`redis` is where tasks are counted; the broker is `rabbit`."""

    def __init__(
        self,
        folder: Path,
        counts: RedisServer,
        rabbit: RabbitServer,
        fleet: Fleet,
        rig: Rig,
        programs: Sequence[Program],
    ) -> None:
        self.rabbit = rabbit
        super().__init__(folder, counts, fleet, rig, programs)
        self.poller = AmqpPoller(rabbit)

    @property
    def url(self) -> str:
        return rabbit_url(self.rabbit)

    @property
    def settings(self) -> Mapping[str, str]:
        return {"management": self.rabbit.management.replace("guest:guest@", "")}

    def nothing_is_taken(self) -> bool:
        return self.ready("celery-ops.taken") == 0

    def ready(self, queue: str) -> int:
        """Messages that wait in a queue; none in one that does not exist."""
        with self.rabbit.client() as connection:
            try:
                return int(connection.channel().queue_declare(queue, passive=True).message_count)
            except NotFound:
                return 0


@contextlib.contextmanager
def rabbit_operations(
    folder: Path, *programs: Program, conf: Mapping[str, object] | None = None
) -> Iterator[RabbitOperations]:
    """A fleet of these programs, all that start by themselves ready. At the end nothing is left."""
    with contextlib.ExitStack() as stack:
        counts = RedisServer(folder / "redis")
        stack.callback(counts.stop)
        rabbit = RabbitServer(folder / "rabbit")
        stack.callback(rabbit.stop)
        _add_user(rabbit)
        fleet = Fleet(folder / "app", rabbit_url(rabbit), counts.url(1), {**CONF, **(conf or {})})
        sections = {one.name: one.settings(fleet, folder / "app") for one in programs}
        rig = stack.enter_context(supervisord(sections))
        made = RabbitOperations(folder, counts, rabbit, fleet, rig, programs)
        stack.callback(made.close)
        stack.callback(made.dismiss)
        made.wait_until_ready(*(one.name for one in programs if one.autostart))
        yield made


def rabbit_url(server: RabbitServer) -> str:
    return f"amqp://ops:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}//"


def _add_user(server: RabbitServer) -> None:
    user = {"password": PASSWORD, "tags": "management"}
    server.api("PUT", "users/ops", json.dumps(user).encode())
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    server.api("PUT", "permissions/%2F/ops", json.dumps(rights).encode())
