"""The one registry of keys: bindings, key bar, help and palette are all made from it.

Reading is lower case, every write is upper case. A write that is not allowed does not exist: it is
not active, so neither bar nor help nor palette can offer it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from textual.binding import Binding

if TYPE_CHECKING:
    from collections.abc import Sequence


class Where(StrEnum):
    """Where a key works; the value heads its part of the help."""

    APP = "Everywhere"
    TABLE = "In a table"
    WORKERS = "Changing workers"
    QUEUES = "Changing a queue"
    QUEUE = "On the page of a queue"
    TEXT = "In a text"
    LOG = "In a log"
    PLAN = "In a plan"
    RUN = "In a run"
    CONFIRM = "In a confirmation"


@dataclass(frozen=True, slots=True)
class Command:
    """A key and what it does. `bar` is its word in the key bar; empty: not shown there. With
    `first` it is not left to a line that is typed in.
    """

    keys: str
    display: str
    action: str
    bar: str
    does: str
    where: Where
    writes: bool = False
    first: bool = False

    @property
    def runbook(self) -> str | None:
        """The runbook whose plan it opens, if it does."""
        name, _, rest = self.action.partition("('")
        return rest.removesuffix("')") if name == "change" else None


COMMANDS = (
    Command("1", "1", "view('fleet')", "", "Fleet: what is wrong, first", Where.APP),
    Command("2", "2", "view('workers')", "", "Workers", Where.APP),
    Command("3", "3", "view('queues')", "", "Queues", Where.APP),
    Command("6", "6", "view('hosts')", "", "Hosts, and the services on them", Where.APP),
    Command("8", "8", "view('runs')", "", "Runs", Where.APP),
    Command("question_mark", "?", "help", "keys", "Show all keys and signs", Where.APP),
    Command(
        "colon,ctrl+p", ":", "command_palette", "commands",
        "Find a command (or ctrl+p)", Where.APP,
    ),
    Command("p", "p", "freeze", "freeze", "Freeze the display, or let it go on", Where.APP),
    Command("ctrl+t", "ctrl+t", "light_or_dark", "", "Light or dark", Where.APP),
    Command("q,ctrl+c", "q", "leave", "quit", "Quit; runs go on without the screen", Where.APP),
    Command("enter", "enter", "open", "open", "Open what the cursor is on", Where.TABLE),
    Command("escape", "esc", "back", "", "Back: leave filter and selection", Where.TABLE),
    Command("d", "d", "describe", "describe", "Describe: everything known of it", Where.TABLE),
    Command("y", "y", "raw", "raw", "The data of it, as JSON", Where.TABLE),
    Command("l", "l", "log", "log", "Follow the log of its service", Where.TABLE),
    Command("slash", "/", "filter", "filter", "Filter the rows (see below)", Where.TABLE),
    Command("space", "space", "mark", "mark", "Mark, or take the mark away", Where.TABLE),
    Command("less_than_sign", "<", "sort(-1)", "", "Sort by the column before", Where.TABLE),
    Command("greater_than_sign", ">", "sort(1)", "", "Sort by the next column", Where.TABLE),
    Command("i", "i", "invert", "", "Invert the sort order", Where.TABLE),
    Command("ctrl+z", "ctrl+z", "only_wrong", "", "Only what is wrong, or all again", Where.TABLE),
    Command("c", "c", "copy", "", "Copy the name under the cursor", Where.TABLE),
    Command(
        "D", "D", "change('drain-worker')", "drain",
        "Drain: stop consuming, let running tasks end", Where.WORKERS, writes=True,
    ),
    Command(
        "R", "R", "change('rolling-restart')", "restart",
        "Restart: drained first, a few at a time", Where.WORKERS, writes=True,
    ),
    Command(
        "U", "U", "change('resume-worker')", "resume",
        "resUme: give a worker its queues back", Where.WORKERS, writes=True,
    ),
    Command(
        "S", "S", "scale", "scale",
        "Scale: stop or start some of them, or let their pools grow", Where.WORKERS, writes=True,
    ),
    Command(
        "E", "E", "release('deploy')", "deploy",
        "dEploy: switch all of them, or the marked, to a release", Where.WORKERS, writes=True,
    ),
    Command(
        "B", "B", "release('rollback')", "roll back",
        "roll Back: all of them, or the marked, and the schedulers", Where.WORKERS, writes=True,
    ),
    Command(
        "P", "P", "change('pause-queue')", "pause",
        "Pause: nobody consumes it until it is resumed", Where.QUEUES, writes=True,
    ),
    Command(
        "U", "U", "change('resume-queue')", "resume",
        "resUme: give its consumers back", Where.QUEUES, writes=True,
    ),
    Command(
        "A", "A", "change('ramp-queue')", "ramp",
        "rAmp: resume it, and let its backlog in at a rate", Where.QUEUES, writes=True,
    ),
    Command(
        "D", "D", "change('drain-queue')", "drain",
        "Drain: wait until all of it is worked off", Where.QUEUES, writes=True,
    ),
    Command(
        "M", "M", "change('move-queue')", "move",
        "Move its messages to another queue", Where.QUEUES, writes=True,
    ),
    Command(
        "B", "B", "change('backup-queue')", "back up",
        "Back up: write its messages to a file", Where.QUEUES, writes=True,
    ),
    Command(
        "T", "T", "change('restore-queue')", "restore",
        "resTore: put the messages of a file back", Where.QUEUES, writes=True,
    ),
    Command(
        "X", "X", "change('purge-queue')", "purge",
        "Purge: back its messages up, then remove them", Where.QUEUES, writes=True,
    ),
    Command(
        "K", "K", "change('park-queue')", "park",
        "parK: put its messages out of the way, as they are", Where.QUEUES, writes=True,
    ),
    Command(
        "N", "N", "change('unpark-queue')", "unpark",
        "uNpark: give what was parked back to it", Where.QUEUES, writes=True,
    ),
    Command(
        "E", "E", "change('return-queue')", "return",
        "rEturn: send dead letters back to where they came from", Where.QUEUES, writes=True,
    ),
    Command(
        "O", "O", "change('restore-orphans')", "orphans",
        "Orphans: give back to it what dead workers held", Where.QUEUES, writes=True,
    ),
    Command("r", "r", "look", "look again", "Look at its messages again", Where.QUEUE),
    Command("m", "m", "more", "more", "Look at a hundred more of them", Where.QUEUE),
    Command(
        "H", "H", "hold_task", "",
        "Hold all tasks of the name under the cursor", Where.QUEUE, writes=True,
    ),
    Command("y", "y", "raw", "raw", "The data of the queue, as JSON", Where.QUEUE),
    Command("c", "c", "copy", "copy", "Copy the name of the queue", Where.QUEUE),
    Command("escape", "esc", "back", "back", "Back to the queues", Where.QUEUE),
    Command("escape", "esc", "back", "back", "Back", Where.TEXT),
    Command("y", "y", "raw", "raw", "The data of it, as JSON", Where.TEXT),
    Command("l", "l", "log", "log", "Follow the log of its service", Where.TEXT),
    Command("c", "c", "copy", "copy", "Copy its name", Where.TEXT),
    Command("escape", "esc", "back", "back", "Back: leave the filter, then the log", Where.LOG),
    Command("f", "f", "to_end", "follow", "Follow: the newest lines again (or end)", Where.LOG),
    Command("slash", "/", "filter", "filter", "Only lines with these words", Where.LOG),
    Command("c", "c", "copy", "copy", "Copy the lines that are shown", Where.LOG),
    Command("enter", "enter", "go_on", "go on", "On to the confirmation", Where.PLAN, writes=True),
    Command("escape", "esc", "back", "back", "Back, changing nothing", Where.PLAN),
    Command("Y", "Y", "agree", "yes", "Yes: start the run", Where.CONFIRM, writes=True),
    Command("escape", "esc", "back", "no, go back", "Back, changing nothing", Where.CONFIRM),
    Command(
        "down,pagedown", "↓", "read_on(1)", "more",
        "Read on, where it is longer than its room", Where.CONFIRM, first=True,
    ),
    Command("up,pageup", "↑", "read_on(-1)", "", "Read back", Where.CONFIRM, first=True),
    Command(
        "A", "A", "abort", "abort",
        "Abort: next safe point; again: sooner", Where.RUN, writes=True,
    ),
    Command("P", "P", "pause", "pause", "Pause before the next step", Where.RUN, writes=True),
    Command("C", "C", "proceed", "continue", "Continue a paused run", Where.RUN, writes=True),
    Command("W", "W", "answer", "answer", "Answer what the run asks", Where.RUN, writes=True),
    Command("enter", "enter", "open", "open", "Show the whole event", Where.RUN),
    Command("escape", "esc", "back", "back", "Back; the run goes on", Where.RUN),
)  # fmt: skip
"""Every key there is."""

BAR = (
    "drain", "restart", "scale", "abort", "answer", "pause", "resume", "continue", "move", "purge",
    "go on", "yes", "no, go back", "back", "look again", "more", "follow", "open", "mark", "filter",
    "log", "keys", "commands", "back up", "restore", "park", "unpark", "return", "orphans",
    "deploy", "roll back", "describe", "raw", "copy", "freeze", "quit",
)  # fmt: skip
"""The words of the key bar, the last ones left out first where it is narrow."""


def bindings(where: Where) -> list[Binding]:
    """The bindings of a place, for a widget's or screen's `BINDINGS`."""
    return [
        Binding(
            command.keys,
            command.action,
            command.bar,
            show=bool(command.bar),
            key_display=command.display,
            tooltip=command.does,
            priority=command.first,
        )
        for command in COMMANDS
        if command.where is where
    ]


def bar_order(active: Sequence[Binding]) -> list[Binding]:
    """Those with a word for the key bar, each action once, in the order of `BAR`."""
    once = {binding.action: binding for binding in reversed(active) if binding.description in BAR}
    return sorted(once.values(), key=lambda binding: BAR.index(binding.description))


def writes(action: str) -> bool:
    """Whether an action, named as `check_action` names it, changes something."""
    return action in _WRITING


_WRITING = frozenset(command.action.partition("(")[0] for command in COMMANDS if command.writes)
