"""`queue peek NAME`: what waits in a queue, without taking any of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, peek_json, peek_text
from celery_ops.cli.boundary import run
from celery_ops.cli.choice import Choice
from celery_ops.cli.connected import connected
from celery_ops.cli.fleet_json import page
from celery_ops.cli.peek_text import Peeked
from celery_ops.cli.text import width_of_terminal
from celery_ops.config.document import did_you_mean, shown
from celery_ops.errors import UsageError
from celery_ops.fleet.clock import SystemClock
from celery_ops.fleet.masking import Masks
from celery_ops.fleet.peeking import MOST_LOOKED_AT, look

if TYPE_CHECKING:
    from celery_ops.cli.peek_filter import Filter
    from celery_ops.config.contexts import Context
    from celery_ops.ports import Broker

SHOWN = 20
_LISTED = 10


@click.command(short_help="What waits in a queue, without taking any of it.")
@click.argument("name")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Show at most so many ({SHOWN}); with --by-task, look at so many ({MOST_LOOKED_AT:,}).",
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Begin after those that are served before.",
)
@click.option("--filter", "where", metavar="EXPR", help="Only those for which this holds.")
@click.option("--by-task", is_flag=True, help="Count them by their tasks.")
@click.option(
    "--requeue",
    is_flag=True,
    help="Look into a quorum queue of RabbitMQ too: it counts a look as a failed delivery.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def peek(
    ctx: click.Context,
    name: str,
    limit: int | None,
    skip: int,
    where: str | None,
    *,
    by_task: bool,
    requeue: bool,
    as_json: bool,
) -> None:
    """What waits in the queue NAME, the message that is served next first.

    Nothing is taken, and no more is read than is shown. With --filter up to 10,000 messages are
    looked at. EXPR is a condition as in runbooks:

    \b
      task == 'shop.mail' and retries > 2
      redelivered or priority in [6, 9]

    It can name id, task, retries, eta, age, origin, priority and redelivered. A message that it
    cannot judge, since something is not known of it, is not shown, but counted.

    On RabbitMQ there is one way to look at a message: to take it out and to give it back. It goes
    back to its place, is marked as redelivered from then on, and who consumes meanwhile is served
    what comes after it. A quorum queue drops a message after some of that, so there it has to be
    asked for with --requeue.

    Arguments are shortened. The values of names like password, token, secret, authorization or card
    are shown as ***, and of those that `mask` in celery-ops.yaml lists. What has no name cannot be
    masked: a password as a positional argument is shown. Bodies that are not JSON (pickle, yaml,
    msgpack) are never loaded.

    \b
    --json:
      {"context", "broker", "at", "queue", "ready", "skipped", "looked_at", "filter", "unknown",
       "marked", "messages": [{"place", "id", "task", "args", "kwargs", "closed", "retries", "eta",
                     "expires", "age", "origin", "priority", "redelivered", "size",
                     "content_type", "compression"}]}
      with --by-task in place of "messages":
       "tasks": [{"task", "count", "retried", "eta", "size"}]
      "ready" is all that waits, "unknown" how many the filter could not judge, "marked" how many
      bear a mark of this look (RabbitMQ), "closed" why arguments are not shown, "age" in seconds,
      "size" in bytes. What is not known is null.
    """
    chosen = context.resolve(ctx.ensure_object(Choice)).context
    wanted = None if where is None else _filter(where)
    limit = limit or (MOST_LOOKED_AT if by_task else SHOWN)
    found = run(_peeked(chosen, name, limit=limit, skip=skip, wanted=wanted, requeue=requeue))
    if as_json:
        click.echo(page(peek_json.peeked(found, by_task=by_task)))
    else:
        lines = peek_text.peeked(found, by_task=by_task, width=width_of_terminal())
        click.echo("\n".join(lines))


async def _peeked(
    context: Context,
    name: str,
    *,
    limit: int,
    skip: int,
    wanted: Filter | None,
    requeue: bool,
) -> Peeked:
    clock = SystemClock()
    async with connected(context, clock) as broker:
        at = clock.now()
        wants = None if wanted is None else wanted.at(at)
        found = await look(
            broker.messages, name, skip=skip, limit=limit, wants=wants, requeue=requeue
        )
        note = "" if found.ready else await _why_empty(broker, name)
    return Peeked(
        context=context.name,
        broker=context.address,
        at=at,
        queue=name,
        look=found,
        masks=Masks(context.mask),
        filter=None if wanted is None else wanted.source,
        not_known=() if wanted is None else tuple(wanted.not_known),
        note=note,
    )


def _filter(source: str) -> Filter:
    # The language of runbooks takes longer to import than a look takes.
    found: Filter = importlib.import_module("celery_ops.cli.peek_filter").Filter(source)
    return found


async def _why_empty(broker: Broker, name: str) -> str:
    """What keeps us from knowing that this queue exists; raise UsageError if it does not."""
    reading = await broker.queues(())
    names = sorted(queue.name for queue in reading.queues)
    if name in names:
        return ""
    if reading.notes:
        return f"It may not exist: {' '.join(reading.notes)}"
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    raise UsageError(
        f"No queue is called {shown(name)}{did_you_mean(name, names)}.",
        fix=f"There are: {listed}." if names else "This broker has no queue at all.",
    )
