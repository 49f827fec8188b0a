"""Where tasks are that have not ended: in a queue, held unacknowledged, or in a worker's hands.

For failures that explain themselves. It asks the broker and the workers without celery_ops.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.rig.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis import Redis

HANDS = ("active", "reserved", "scheduled")


class Whereabouts:
    """One look at a broker of Redis and at all workers that listen to it."""

    def __init__(self, redis: Redis, queues: Iterable[str]) -> None:
        client: Any = redis  # redis-py is typed only in part
        poller = Poller(redis)
        self._places: dict[str, list[str]] = {}
        waiting = {queue: client.lrange(queue, 0, -1) for queue in queues}
        for queue, messages in waiting.items():
            self._note(f"waits in {queue}", map(_id_of, messages))
        held = client.hvals("unacked")
        self._note("unacked", (_id_of(json.dumps(json.loads(entry)[0])) for entry in held))
        shown = {hand: {one.node: one.value for one in poller.ask(hand)} for hand in HANDS}
        for hand, answers in shown.items():
            for node, tasks in answers.items():
                self._note(f"{hand} in {node}", (_request(task)["id"] for task in tasks))
        lengths = ", ".join(f"{len(messages)} in {queue}" for queue, messages in waiting.items())
        self._summary = [
            f"messages: {lengths}, {len(held)} unacked",
            *(
                f"{node} consumes {[queue['name'] for queue in consumed]}, "
                + ", ".join(f"{_number(shown[hand], node)} {hand}" for hand in HANDS)
                for node, consumed in sorted(poller.consuming().items())
            ),
        ]

    def of(self, task_id: str) -> str:
        """Where a message is now; it may be seen at two places, in two moments of one look."""
        return ", ".join(self._places.get(task_id, ["nowhere"]))

    def __str__(self) -> str:
        return "\n".join(self._summary)

    def _note(self, place: str, task_ids: Iterable[str] | Iterator[str]) -> None:
        for task_id in task_ids:
            self._places.setdefault(task_id, []).append(place)


def _id_of(message: bytes | str) -> str:
    return str(json.loads(message)["headers"]["id"])


def _request(task: dict[str, Any]) -> dict[str, Any]:
    """What is scheduled is told with its ETA around it."""
    request: dict[str, Any] = task.get("request", task)
    return request


def _number(answers: dict[str, Any], node: str) -> str:
    return str(len(answers[node])) if node in answers else "unknown"
