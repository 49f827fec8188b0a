"""Simulated nodes: a process that listens on the control channel n times, answers like n workers.

On raw sockets, so that a thousand of them fit on a laptop. Each node has a subscription of its own
(so PUBLISH counts it), looks the reply's binding up and pushes its reply, as kombu does. Used for
tests of scale and for what real workers do not do on demand: not answering, answering in pickle,
twice, late.
"""

from __future__ import annotations

import base64
import dataclasses
import heapq
import json
import pickle
import selectors
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis

from tests.rig import end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.client import PubSub

_ROOT = Path(__file__).parent.parent.parent
_LISTENING = b"listening\n"
_SEPARATOR = "\x06\x16"
_HEARTBEAT_INTERVAL = 2.0


@dataclass(frozen=True)
class Node:
    """What one node is like.

    `answers` are the methods it replies to, None for all (a beat: `("ping",)`; a mere listener:
    `()`). `delay` is in seconds. An unbound node listens without a name in the control binding.
    With a `pid_file` it lives while that is there, as the process whose pid it holds.
    """

    name: str
    answers: tuple[str, ...] | None = None
    pickled: bool = False
    delay: float = 0.0
    bound: bool = True
    queues: tuple[str, ...] = ("celery",)
    active: int = 2
    reserved: int = 4
    heartbeats: bool = False
    pid_file: str = ""


class SimulatedNodes:
    """A process with these nodes; they listen when the constructor returns.

    `channel` (a pattern), `binding` and the `suffix` of lists are those of the fleet's options.
    """

    def __init__(
        self,
        url: str,
        nodes: Sequence[Node],
        *,
        channel: str = "/0.celery.pidbox",
        binding: str = "_kombu.binding.celery.pidbox",
        suffix: str = "",
    ) -> None:
        spec = json.dumps([dataclasses.asdict(node) for node in nodes])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.rig.nodes", url, channel, binding, suffix],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(spec.encode())
        self.process.stdin.close()
        if self.process.stdout.readline() != _LISTENING:
            raise RuntimeError("the simulated nodes did not start")

    def stop(self) -> None:
        end(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()


def envelope(body: object, headers: dict[str, object], *, pickled: bool = False) -> bytes:
    """A message as kombu writes it into Redis."""
    content = pickle.dumps(body) if pickled else json.dumps(body).encode()
    kind = "application/x-python-serialize" if pickled else "application/json"
    message = {
        "body": base64.b64encode(content).decode(),
        "content-encoding": "binary" if pickled else "utf-8",
        "content-type": kind,
        "headers": headers,
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "", "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(message).encode()


def answer(node: Node, method: str, pid: int, uptime: int = 3600) -> object:
    """What a worker of Celery 5.7 would say, with as much of it."""
    answers: dict[str, Callable[[], object]] = {
        "ping": lambda: {"ok": "pong"},
        "stats": lambda: _stats(node, pid) | {"uptime": uptime},
        "active": lambda: [_task(node, number, pid) for number in range(node.active)],
        "reserved": lambda: [_task(node, 100 + number, pid) for number in range(node.reserved)],
        "scheduled": list,
        "active_queues": lambda: [_queue(name) for name in node.queues],
        "registered": lambda: [
            f"app.tasks.task_{number} [acks_late=False]" for number in range(20)
        ],
        "cancel_consumer": lambda: {"ok": "no longer consuming from it"},
    }
    return answers.get(method, lambda: {"error": f"KeyError('{method}')"})()


def _stats(node: Node, pid: int) -> dict[str, object]:
    return {
        "total": {f"app.tasks.task_{number}": 1000 + number for number in range(20)},
        "pid": pid,
        "clock": "1234",
        "uptime": 3600,
        "pool": {
            "implementation": "celery.concurrency.prefork:TaskPool",
            "max-concurrency": 8,
            "processes": list(range(pid + 1, pid + 9)),
            "max-tasks-per-child": "N/A",
            "timeouts": [0, 0],
            "writes": {"total": 20, "avg": "0.5", "all": "0.5, 0.5", "raw": "1, 1"},
        },
        "broker": {"hostname": "127.0.0.1", "transport": "redis", "transport_options": {}},
        "prefetch_count": 32,
        "rusage": {"utime": 0.4, "stime": 0.1, "maxrss": 58644, "minflt": 21086},
        "name": node.name,
    }


def _task(node: Node, number: int, pid: int) -> dict[str, object]:
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{node.name}{number}")),
        "name": f"app.tasks.task_{number % 20}",
        "args": "(1, 2, 'three')",
        "kwargs": "{'customer': 4711}",
        "type": f"app.tasks.task_{number % 20}",
        "hostname": node.name,
        "time_start": time.time() - number,
        "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": node.queues[0], "priority": 0},
        "worker_pid": pid + 1,
    }


def _queue(name: str) -> dict[str, object]:
    exchange = {"name": name, "type": "direct", "durable": True, "arguments": None}
    return {"name": name, "exchange": exchange, "routing_key": name, "queue_arguments": None}


class _Listener:
    """The process's own part: all nodes in one loop."""

    def __init__(
        self, url: str, nodes: Sequence[Node], channel: str, binding: str, suffix: str
    ) -> None:
        self._redis = Redis.from_url(url, protocol=2)
        self._channel = channel
        self._suffix = suffix
        self._selector = selectors.DefaultSelector()
        self._later: list[tuple[float, int, bytes, bytes]] = []
        self._prepared: dict[tuple[str, str], tuple[object, str]] = {}
        self._decoded: tuple[bytes, dict[str, Any]] = (b"", {})
        self._serial = 0
        self._clients: list[Any] = []
        self._pubsubs: list[Any] = []
        self._down: set[int] = set()
        self._mortal = any(node.pid_file for node in nodes)
        self._binding = binding
        self._nodes = nodes
        self._next_heartbeat = 0.0
        self._prefix = binding.partition("_kombu.binding.")[0]
        for number, node in enumerate(nodes):
            if node.bound:
                self._redis.sadd(binding, self._member(node))
            client: Any = Redis.from_url(url, protocol=2)
            self._clients.append(client)
            pubsub: PubSub = client.pubsub()
            self._pubsubs.append(pubsub)
            pubsub.psubscribe(channel)
            pubsub.get_message(timeout=5)
            assert pubsub.connection is not None
            self._selector.register(
                pubsub.connection._sock, selectors.EVENT_READ, (pubsub, node, 10_000 + 10 * number)
            )

    def run(self) -> None:
        while True:
            due = self._later[0][0] - time.monotonic() if self._later else 1.0
            pushes: list[tuple[bytes, bytes]] = []
            for key, _ in self._selector.select(max(0.0, min(due, 0.01 if self._mortal else 0.2))):
                pubsub, node, pid = key.data
                self._receive(pubsub, node, pid, pushes)
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, queue, message = heapq.heappop(self._later)
                pushes.append((queue, message))
            self._push(pushes)
            self._beat()
            if self._mortal:
                self._come_and_go()

    def _member(self, node: Node) -> str:
        exchange = self._binding.rpartition("_kombu.binding.")[2]
        return f"{_SEPARATOR}{_SEPARATOR}{node.name}.{exchange}"

    def _come_and_go(self) -> None:
        """Who is down listens no more, so that the broker does not count it."""
        for number, node in enumerate(self._nodes):
            is_down = _life(node, 0) is None
            if is_down == (number in self._down):
                continue
            if is_down:
                self._down.add(number)
                self._pubsubs[number].punsubscribe(self._channel)
                self._redis.srem(self._binding, self._member(node))
            else:
                self._down.discard(number)
                self._pubsubs[number].psubscribe(self._channel)
                self._redis.sadd(self._binding, self._member(node))

    def _receive(
        self, pubsub: PubSub, node: Node, pid: int, pushes: list[tuple[bytes, bytes]]
    ) -> None:
        connection = pubsub.connection
        assert connection is not None
        while True:
            received: Any = pubsub.get_message(ignore_subscribe_messages=True, timeout=0)
            if received is not None and received["type"] == "pmessage":
                self._answer(node, pid, received["data"], pushes)
            if not connection.can_read(timeout=0):
                return

    def _answer(self, node: Node, pid: int, raw: bytes, pushes: list[tuple[bytes, bytes]]) -> None:
        if self._decoded[0] != raw:
            body = json.loads(base64.b64decode(json.loads(raw)["body"]))
            self._decoded = (raw, body)
        body = self._decoded[1]
        method = body["method"]
        if body["destination"] and node.name not in body["destination"]:
            return
        if node.answers is not None and method not in node.answers:
            return
        lives = _life(node, pid)
        if lives is None:
            return
        reply_to = body["reply_to"]
        message = envelope(
            {node.name: answer(node, method, *lives)},
            {"ticket": body["ticket"], "clock": 1},
            pickled=node.pickled,
        )
        binding = f"{self._prefix}_kombu.binding.{reply_to['exchange']}"
        target = (binding + "\n" + reply_to["routing_key"]).encode()
        if node.delay:
            self._serial += 1
            due = time.monotonic() + node.delay
            heapq.heappush(self._later, (due, self._serial, target, message))
        else:
            pushes.append((target, message))

    def _push(self, pushes: Sequence[tuple[bytes, bytes]]) -> None:
        """As kombu: look the binding up, then push to the lists bound with that routing key."""
        if not pushes:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for target, _ in pushes:
                pipe.smembers(target.decode().partition("\n")[0])
            bound: list[Any] = pipe.execute()
            for (target, message), members in zip(pushes, bound, strict=True):
                routing_key = target.decode().partition("\n")[2]
                for member in members:
                    key, _, queue = member.decode().split(_SEPARATOR)
                    if key == routing_key:
                        pipe.lpush(self._prefix + queue + self._suffix, message)
            pipe.execute()

    def _beat(self) -> None:
        if time.monotonic() < self._next_heartbeat:
            return
        self._next_heartbeat = time.monotonic() + _HEARTBEAT_INTERVAL
        channel = self._channel.replace(".celery.pidbox", ".celeryev") + "/worker.heartbeat"
        for number, node in enumerate(self._nodes):
            if node.heartbeats:
                event = {
                    "type": "worker-heartbeat",
                    "hostname": node.name,
                    "pid": 10_000 + 10 * number,
                    "active": node.active,
                    "processed": 1000,
                    "loadavg": [0.1, 0.1, 0.1],
                    "freq": _HEARTBEAT_INTERVAL,
                    "sw_ver": "5.7.0",
                }
                self._redis.publish(channel, envelope(event, {"hostname": node.name}))


def _life(node: Node, pid: int) -> tuple[int, int] | None:
    """Pid and uptime; None while it is down."""
    if not node.pid_file:
        return pid, 3600
    file = Path(node.pid_file)
    try:
        return int(file.read_text()), int(time.time() - file.stat().st_mtime)
    except (OSError, ValueError):
        return None


def _with_tuples(entry: dict[str, object]) -> dict[str, object]:
    return {key: tuple(it) if isinstance(it, list) else it for key, it in entry.items()}


def main() -> None:
    url, channel, binding, suffix = sys.argv[1:]
    entries: Any = json.load(sys.stdin, object_hook=_with_tuples)
    nodes = [Node(**entry) for entry in entries]
    listener = _Listener(url, nodes, channel, binding, suffix)
    sys.stdout.buffer.write(_LISTENING)
    sys.stdout.buffer.flush()
    listener.run()


if __name__ == "__main__":
    main()
