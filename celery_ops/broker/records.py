"""What is written into a broker for other operators to read: what is taken, the lease's holder,
the runs there were.

JSON, read strictly: a record that is not exactly what this version writes is refused with
RecordUnreadable, since to act on half of a debt would be worse than to say that it cannot be read.
Used by every broker's adapter. Pure.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.errors import RecordUnreadable
from celery_ops.model import (
    HELD,
    HOLD,
    PAUSED,
    ConsumedQueue,
    Holder,
    Incarnation,
    RunRecord,
    ServiceRef,
    TakenRecord,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
_KINDS = {"queues", "service", PAUSED, HELD, HOLD}


def encode_taken(record: TakenRecord) -> str:
    """The record as JSON."""
    return _encode(
        {
            "kind": record.kind,
            "worker": record.worker,
            "incarnation": _incarnation(record.incarnation),
            "queues": [[queue.name, queue.declaration] for queue in record.queues],
            "service": _service(record.service),
            "run": record.run,
            "operator": record.operator,
            "at": record.at.isoformat(),
            "tasks": list(record.tasks),
            "at_boot": record.at_boot,
            "unknown_to": record.unknown_to,
            "meant": record.meant,
        }
    )


def decode_taken(text: str | bytes) -> TakenRecord:
    """The record back; raise RecordUnreadable."""
    fields = _Fields.of(text, "record of what is taken")
    record = TakenRecord(
        kind=fields.text("kind"),
        worker=fields.text("worker"),
        incarnation=_read_incarnation(fields.optional("incarnation")),
        queues=tuple(_read_queue(entry) for entry in fields.list("queues")),
        service=_read_service(fields.optional("service")),
        run=fields.text("run"),
        operator=fields.text("operator"),
        at=fields.moment("at"),
        tasks=fields.texts("tasks"),
        at_boot=fields.text("at_boot", ""),
        unknown_to=fields.text("unknown_to", ""),
        meant=fields.flag("meant", False),
    )
    fields.end()
    if record.kind not in _KINDS:
        raise RecordUnreadable(f"A record of what is taken is of an unknown kind: {record.kind!r}.")
    if record.kind in {PAUSED, HELD} and len(record.queues) != 1:
        raise fields.wrong("queues")
    if record.kind in {HELD, HOLD} and not record.tasks:
        raise fields.wrong("tasks")
    return record


def encode_lease(holder: Holder, token: str) -> str:
    """A lease as JSON; `token` is what its holder proves itself with."""
    return _encode(
        {
            "token": token,
            "operator": holder.operator,
            "run": holder.run,
            "what": holder.what,
            "since": moment(holder.since),
            "step": holder.step,
        }
    )


def decode_lease(text: str | bytes) -> Holder:
    """Who holds the lease; raise RecordUnreadable."""
    fields = _Fields.of(text, "lease")
    fields.text("token")
    holder = Holder(
        operator=fields.text("operator"),
        run=fields.text("run"),
        what=fields.text("what"),
        since=fields.moment("since"),
        step=fields.text("step", ""),
    )
    fields.end()
    return holder


def moment(at: datetime) -> str:
    """A moment as it stands in a record."""
    return at.isoformat()


def encode_run(record: RunRecord) -> str:
    """A run as JSON."""
    return _encode(
        {
            "run": record.run,
            "runbook": record.runbook,
            "operator": record.operator,
            "params": [list(pair) for pair in record.params],
            "began_at": record.began_at.isoformat(),
            "ended_at": record.ended_at.isoformat() if record.ended_at else None,
            "state": record.state,
            "says": record.says,
            "broken_by": record.broken_by,
        }
    )


def decode_run(text: str | bytes) -> RunRecord:
    """The run back; raise RecordUnreadable."""
    fields = _Fields.of(text, "run")
    record = RunRecord(
        run=fields.text("run"),
        runbook=fields.text("runbook"),
        operator=fields.text("operator"),
        params=tuple(_read_pair(entry) for entry in fields.list("params")),
        began_at=fields.moment("began_at"),
        ended_at=fields.optional_moment("ended_at"),
        state=fields.optional_text("state"),
        says=fields.text("says"),
        broken_by=fields.text("broken_by", ""),
    )
    fields.end()
    return record


class _Fields:
    """The entries of a JSON object, taken one by one; each failure names the entry."""

    def __init__(self, what: str, values: Mapping[str, object]) -> None:
        self._what = what
        self._left = dict(values)

    @classmethod
    def of(cls, text: str | bytes, what: str) -> _Fields:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise RecordUnreadable(f"The broker holds a {what} that is not JSON.") from None
        fields = cls(what, values if isinstance(values, dict) else {})
        version = fields._left.pop("v", None)
        if version != VERSION:
            raise RecordUnreadable(
                f"The broker holds a {what} of version {version!r}; this program reads {VERSION}.",
                fix="Use the version of celery-ops that wrote it, or a newer one.",
            )
        return fields

    def text(self, name: str, absent: str | None = None) -> str:
        """`absent`: what it says where an earlier version did not write it."""
        value = self._left.pop(name, absent)
        if not isinstance(value, str):
            raise self.wrong(name)
        return value

    def whole(self, name: str) -> int:
        value = self._left.pop(name, None)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name)
        return value

    def flag(self, name: str, absent: bool | None = None) -> bool:
        value = self._left.pop(name, absent)
        if not isinstance(value, bool):
            raise self.wrong(name)
        return value

    def list(self, name: str) -> list[object]:
        value = self._left.pop(name, None)
        if not isinstance(value, list):
            raise self.wrong(name)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """None where there is no such entry."""
        value = self._left.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(name)
        return tuple(value)

    def moment(self, name: str) -> datetime:
        try:
            moment = datetime.fromisoformat(self.text(name))
        except ValueError:
            raise self.wrong(name) from None
        if moment.tzinfo is None:
            raise self.wrong(name)
        return moment.astimezone(UTC)

    def optional_moment(self, name: str) -> datetime | None:
        if self._left.get(name, "") is None:
            del self._left[name]
            return None
        return self.moment(name)

    def optional_text(self, name: str) -> str | None:
        if self._left.get(name, "") is None:
            del self._left[name]
            return None
        return self.text(name)

    def optional(self, name: str) -> _Fields | None:
        value = self._left.pop(name, ...)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name)
        return _Fields(f"{self._what} ({name})", value)

    def end(self) -> None:
        for name in self._left:
            raise self.wrong(name)

    def wrong(self, name: str) -> RecordUnreadable:
        return RecordUnreadable(f"The broker holds a {self._what} whose {name!r} cannot be read.")


def _encode(values: dict[str, object]) -> str:
    return json.dumps({"v": VERSION, **values})


def _incarnation(incarnation: Incarnation | None) -> dict[str, object] | None:
    if incarnation is None:
        return None
    return {
        "node": incarnation.node,
        "pid": incarnation.pid,
        "started_at": incarnation.started_at.isoformat(),
    }


def _read_incarnation(fields: _Fields | None) -> Incarnation | None:
    if fields is None:
        return None
    incarnation = Incarnation(fields.text("node"), fields.whole("pid"), fields.moment("started_at"))
    fields.end()
    return incarnation


def _service(service: ServiceRef | None) -> dict[str, object] | None:
    if service is None:
        return None
    return {
        "host": service.host,
        "supervisor": service.supervisor,
        "name": service.name,
        "worker": service.worker,
        "beat": service.beat,
        "server": service.server,
    }


def _read_service(fields: _Fields | None) -> ServiceRef | None:
    if fields is None:
        return None
    service = ServiceRef(
        host=fields.text("host"),
        supervisor=fields.text("supervisor"),
        name=fields.text("name"),
        worker=fields.optional_text("worker"),
        beat=fields.flag("beat"),
        server=fields.optional_text("server"),
    )
    fields.end()
    return service


def _read_pair(entry: object) -> tuple[str, str]:
    match entry:
        case [str(name), str(value)]:
            return name, value
    raise RecordUnreadable("The broker holds a run whose 'params' cannot be read.")


def _read_queue(entry: object) -> ConsumedQueue:
    match entry:
        case [str(name), str(declaration)]:
            return ConsumedQueue(name, declaration)
    raise RecordUnreadable(
        "The broker holds a record of what is taken whose 'queues' cannot be read."
    )
