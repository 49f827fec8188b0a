"""`queue pause|move|purge …`: the runbooks about queues by their short names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from celery_ops.cli.choice import Choice
from celery_ops.cli.run_command import run_options, wanted
from celery_ops.cli.start_run import start_run
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WITHOUT = {"emergency"}
"""Options of runs that make no sense here: without the broker there are no queues."""


@dataclass(frozen=True, slots=True)
class _Short:
    """A parameter of the runbook that has an option of its own."""

    param: str
    metavar: str
    help: str
    required: bool = False


_FILTER = _Short("filter", "EXPR", "Only those for which this holds, as task == 'shop.mail'.")
_LIMIT = _Short("limit", "N", "At most so many, those that are served first.")
_RATE = _Short("rate", "RATE", "At most so many in which time, as 100/s.")
_FILE = _Short("file", "FILE", "The file; else one in celery-ops' state directory, told by name.")
_OTHER = _Short("queue", "QUEUE", "Another queue for them.")
_BACKLOG = _Short("rate", "RATE", "How many at most in which time, as 100/s.", required=True)
_AGAIN = _Short("again", "NAME", "Restore once more what was restored before, under that name.")
_BEHIND = _Short("to", "QUEUE", "Another queue for them, behind the messages that wait there.")
_FIRST = _Short("to", "QUEUE", "Move what waits there to another queue first.")
_UNTOLD = _Short("to", "QUEUE", "The queue for those that do not tell where they came from.")
_TASK = _Short("task", "PATH", "Where a wrapper has the name of its original: kwargs.name.")
_ID = _Short("id", "PATH", "Where it has its id.")
_ARGS = _Short("args", "PATH", "Where it has its positional arguments.")
_KWARGS = _Short("kwargs", "PATH", "Where it has its named arguments.")
_ORIGIN = _Short("origin", "PATH", "Where it has the name of its queue.")
_TO = _Short("to", "QUEUE", "The queue they go to.", required=True)


class QueueCommand(click.Command):
    """Runs one runbook on its argument, with options for its parameters."""

    def __init__(
        self, name: str, runbook: str, argument: str, shorts: Sequence[_Short], summary: str
    ) -> None:
        self._runbook = runbook
        self._argument = argument
        self._shorts = tuple(shorts)
        options = [
            click.Option(
                [f"--{one.param}", f"given_{one.param}"],
                metavar=one.metavar,
                help=one.help,
                required=one.required,
            )
            for one in shorts
        ]
        params: list[click.Parameter] = [
            *options,
            *(option for option in run_options() if option.name not in _WITHOUT),
            click.Argument(["about"], required=True, metavar=argument.upper()),
        ]
        short_help = summary.partition(".")[0] + "."
        super().__init__(name, params=params, help=summary, short_help=short_help)

    def invoke(self, ctx: click.Context) -> None:
        """Start the run and end with its code."""
        options: dict[str, Any] = {**ctx.params, **dict.fromkeys(_WITHOUT, False)}
        if any(param.partition("=")[0] == self._argument for param in options["params"]):
            raise UsageError(f"-p {self._argument}=… is given twice: it is the argument, too")
        given = [f"{self._argument}={options['about']}"]
        for one in self._shorts:
            value = options[f"given_{one.param}"]
            if value is not None:
                given.append(f"{one.param}={value}")
        options["params"] = (*given, *options["params"])
        code = start_run(ctx.ensure_object(Choice), wanted(self._runbook, options))
        if code:
            raise click.exceptions.Exit(code)


COMMANDS = (
    QueueCommand(
        "pause",
        "pause-queue",
        "queue",
        (),
        "Take a queue from its workers. How each had declared it is remembered; what waits in it,"
        " and what comes, waits until it is resumed.",
    ),
    QueueCommand(
        "resume",
        "resume-queue",
        "queue",
        (),
        "Give a paused queue back. Each worker consumes it again as it had declared it.",
    ),
    QueueCommand(
        "drain",
        "drain-queue",
        "queue",
        (_FIRST,),
        "Wait until a queue is worked off. What waits for it elsewhere counts, too, and it has to"
        " stay empty.",
    ),
    QueueCommand(
        "backup",
        "backup-queue",
        "queue",
        (_FILE,),
        "Copy what waits in a queue to a file. The messages stay where they are; of a queue that is"
        " in use the file is no picture of one moment. What workers hold is not in it.",
    ),
    QueueCommand(
        "restore",
        "restore-queue",
        "file",
        (_OTHER, _RATE, _AGAIN),
        "Put the messages of a backup back, as they were. They are served first; only once, and"
        " an interrupted restore goes on where it was.",
    ),
    QueueCommand(
        "move",
        "move-queue",
        "queue",
        (_TO, _FILTER, _LIMIT, _RATE),
        "Move what waits in a queue, or some of it, to another. In their order, while workers and"
        " producers go on; none is lost and none is in both.",
    ),
    QueueCommand(
        "return",
        "return-queue",
        "queue",
        (_UNTOLD, _FILTER, _LIMIT, _RATE),
        "Send what is in a dead-letter queue back to where it came from. Each message to its own"
        " queue, as RabbitMQ notes it (x-death), or as a moved message says on Redis.",
    ),
    QueueCommand(
        "unwrap",
        "unwrap-queue",
        "queue",
        (_TASK, _ID, _ARGS, _KWARGS, _ORIGIN, _UNTOLD, _FILTER, _LIMIT, _RATE),
        "Send back the original tasks that others carry. Each takes the place of the task that has"
        " it in its arguments, and goes to its own queue.",
    ),
    QueueCommand(
        "purge",
        "purge-queue",
        "queue",
        (_FILTER, _FILE),
        "Destroy what waits in a queue, or some of it. Each message is written to a file before,"
        " and the command that restores them is told.",
    ),
    QueueCommand(
        "park",
        "park-queue",
        "queue",
        (_FILTER, _LIMIT),
        "Take what waits in a queue, or some of it, out of the way. It waits where nobody consumes"
        " until it is unparked.",
    ),
    QueueCommand(
        "unpark",
        "unpark-queue",
        "queue",
        (_BEHIND, _RATE),
        "Give parked messages back to their queue. All that is parked of the queue, or what is in"
        " one queue of parked messages.",
    ),
    QueueCommand(
        "ramp",
        "ramp-queue",
        "queue",
        (_BACKLOG,),
        "Resume a paused queue, and let its backlog in at a bounded rate. Messages that come"
        " meanwhile are not held up.",
    ),
)
