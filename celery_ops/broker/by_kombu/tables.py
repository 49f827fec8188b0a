"""`sqla+…://`: every message a row of a database, read with one SELECT.

kombu's own channel makes its tables and a row for each queue that it is asked about, and SQLite
makes the file of a database that is not there. So nothing of kombu's is called here: the tables are
only read, and only if they are there.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import QueueReading

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.broker.by_kombu.address import KombuAddress
    from celery_ops.broker.by_kombu.link import Session

SqlAlchemy = Any
Engine = Any
Query = Any
"""SQLAlchemy and what it makes: it is imported only where it is used."""

_OF_KOMBU = frozenset({
    "queue_tablename", "message_tablename", "callback", "errback", "max_retries", "interval_start",
    "interval_step", "interval_max", "retry_errors",
})  # fmt: skip
"""Transport options that are not SQLAlchemy's own (`kombu.transport.sqlalchemy.Channel`)."""


class TableSizes:
    """Implements `Sizes` on kombu's tables: all queues at once."""

    notes = (
        "What workers hold: kombu keeps every row that was taken, whatever becomes of its task,"
        " so a worker that is killed takes what it held along.",
    )
    unlisted = ""

    def __init__(self, address: KombuAddress) -> None:
        self._url = address.url
        self._options = {
            name: value for name, value in address.options.items() if name not in _OF_KOMBU
        }
        self._queues = str(address.options.get("queue_tablename", "kombu_queue"))
        self._messages = str(address.options.get("message_tablename", "kombu_message"))

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        engine = session.own.get("engine")
        if engine is None:
            engine = session.own["engine"] = self._opened()
        sql: SqlAlchemy = import_module("sqlalchemy")
        with engine.connect() as connection:
            there = set(sql.inspect(connection).get_table_names())
            found = {}
            if {self._queues, self._messages} <= there:
                found = {row[0]: row[1] for row in connection.execute(self._sizes(sql))}
        return tuple(
            QueueReading(name, int(found.get(name, 0)), None) for name in sorted({*known, *found})
        )

    def _opened(self) -> Engine:
        """An engine; raise BrokerUnreachable where SQLite would make a database."""
        sql: SqlAlchemy = import_module("sqlalchemy")
        url = sql.make_url(self._url.reveal().partition("+")[2])
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise BrokerUnreachable(
                f"There is no database {url.database}.",
                fix="The first worker makes it. Is it the path that the workers use?",
            )
        return sql.create_engine(url, **self._options)

    def _sizes(self, sql: SqlAlchemy) -> Query:
        """Each queue with the rows that nobody has taken."""
        queues = sql.table(self._queues, sql.column("id"), sql.column("name"))
        messages = sql.table(
            self._messages,
            sql.column("id"),
            sql.column("queue_id"),
            sql.column("visible", sql.Boolean),
        )
        waits = sql.and_(messages.c.queue_id == queues.c.id, messages.c.visible == sql.true())
        joined = queues.outerjoin(messages, waits)
        return (
            sql.select(queues.c.name, sql.func.count(messages.c.id))
            .select_from(joined)
            .group_by(queues.c.name)
        )
