"""Whatever a file, a parameter or a line says: it is understood, or refused by an error of ours.

Damage is done to what is right, since noise alone hardly gets past the first check. 2,000 examples
each; `HYPOTHESIS_PROFILE=thorough` tries 100,000.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_ops.cli import show_run
from celery_ops.config import contexts
from celery_ops.errors import InvalidDocument, JournalError, UsageError
from celery_ops.runbook import journal
from celery_ops.runbook.desk import RunStore
from celery_ops.runbook.inbox import Inbox, Message
from celery_ops.runbook.library import Library
from celery_ops.runbook.loader import load
from celery_ops.runbook.params import parse_params
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.selectors import Selector
from celery_ops.tui.progress import RunProgress, event_cell
from tests.config.test_contexts import ENVIRON, WHOLE
from tests.runbook.golden import ASKING, DIRECTORY
from tests.runbook.test_expressions import faults_of
from tests.runbook.test_resume import AROUND, ONCE, PATIENT, SCALED, WITH_OTHER_STEPS
from tests.standin.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.errors import Problem
    from celery_ops.runbook.schema import Runbook

many = settings(
    max_examples=max(2_000, settings().max_examples),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SHIPPED = Library(None).entries()
WRITTEN = (WITH_OTHER_STEPS, PATIENT, ONCE, SCALED, AROUND, ASKING)
RUNBOOKS = [*(one.path.read_text() for one in SHIPPED), *WRITTEN]
GOLDEN = [path.read_bytes() for path in sorted(DIRECTORY.iterdir())]
LINE_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")

# --- damage ---------------------------------------------------------------------------------------

ODD_VALUES = (
    "", "~", "null", "yes", "on", "0", "-1", "1e999", "0x1f", "1" * 400, "1" * 5_000, "x" * 20_000,
    ".inf", "2026-11-20", "10m", "25%", "-25%", "{", "}", "[", "]", "{}", "[]", "[[]]", "{a: b}",
    "&a 1", "*a", "&a [*a]", "<<: *a", "!!python/object:os.system x", "!x y", "|", ">",
    "|\n   text", "'", '"', "'quoted'", '"\\e[31m"', '"\\ud800"', "${{", "${{ }}",
    "${{ params.batch }}", "${{ params.nothing }}", "${{ worker.pid }}",
    "${CELERY_BROKER_URL}", "${X", "#", "@", "`", "%",
    "\ufeff", "\u202e\u0000", "é\u0301", "\U0001f4a5", "\x85", "\u2028", "\t", "---", "...",
    "- " * 60, "[" * 60, "[" * 3_000, "{a: " * 60, "? " * 60, "(" * 300, "not " * 300,
    "a" + ".b" * 500, "worker.online", "fleet.workers == 3", "fleet.workers and", "1 == 1 == 1",
    "local", "w@%h",
)  # fmt: skip
# By number: what hypothesis draws from is printed whole in every report.
ODD = st.integers(0, len(ODD_VALUES) - 1).map(ODD_VALUES.__getitem__)
MISSPELT = {"s": "z", "e": "ee", "o": "", "a": "A", ":": "", " ": "  ", "-": "", "t": "tt"}


def drop(lines: list[str], at: int, _: str) -> None:
    del lines[at]


def double(lines: list[str], at: int, _: str) -> None:
    lines.insert(at, lines[at])


def swap(lines: list[str], at: int, _: str) -> None:
    lines[at - 1], lines[at] = lines[at], lines[at - 1]


def say_otherwise(lines: list[str], at: int, value: str) -> None:
    lines[at] = f"{lines[at].partition(':')[0]}: {value}"


def put_inside(lines: list[str], at: int, value: str) -> None:
    middle = len(lines[at]) * 2 // 3
    lines[at] = lines[at][:middle] + value + lines[at][middle:]


def misspell(lines: list[str], at: int, value: str) -> None:
    letter = sorted(MISSPELT)[len(value) % len(MISSPELT)]
    lines[at] = lines[at].replace(letter, MISSPELT[letter], 1)


def move_in(lines: list[str], at: int, value: str) -> None:
    lines[at] = " " * (1 + len(value) % 7) + lines[at]


def move_out(lines: list[str], at: int, _: str) -> None:
    lines[at] = lines[at].lstrip()


def end_there(lines: list[str], at: int, value: str) -> None:
    del lines[at + 1 :]
    lines[at] = lines[at][: len(value) % (len(lines[at]) + 1)]


DAMAGE = (drop, double, swap, say_otherwise, say_otherwise, put_inside, misspell, move_in, move_out,
          end_there)  # fmt: skip
Damage = tuple["Callable[[list[str], int, str], None]", int, str]
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(DAMAGE),
        st.integers(0, 200),
        ODD | st.text(max_size=30),
    ),
    min_size=1,
    max_size=4,
)
BYTES = st.lists(st.tuples(st.integers(0, 100_000), st.binary(max_size=3)), max_size=3)


def damaged(text: str, damages: list[Damage], noise: list[tuple[int, bytes]]) -> bytes:
    lines = text.split("\n")
    for damage, at, value in damages:
        if lines:
            damage(lines, at % len(lines), value)
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    for far, some in noise:
        at = far % (len(content) + 1)
        content = content[:at] + some + content[at + 1 :]
    return content


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example writes anew."""
    return tmp_path_factory.mktemp("any") / "file.yaml"


def problems_of(read: Callable[[Path], object], path: Path) -> tuple[Problem, ...] | None:
    """What is wrong with a file; None if nothing is."""
    try:
        read(path)
    except InvalidDocument as error:
        return error.problems
    return None


def configured(path: Path) -> object:
    return contexts.load(path, ENVIRON)


def all_inside(problems: tuple[Problem, ...], path: Path) -> bool:
    """Each problem says something, and names a place that is there; or the end of the file."""
    lines = LINE_BREAKS.split(path.read_bytes().decode("utf-8", "replace"))
    return bool(problems) and all(
        one.file == str(path)
        and one.says.isprintable()
        and 1 <= one.line <= len(lines)
        and 1 <= one.column <= len(lines[one.line - 1]) + 1
        for one in problems
    )


# --- files ----------------------------------------------------------------------------------------


@many
@given(st.sampled_from(RUNBOOKS), DAMAGES, BYTES)
def test_a_damaged_runbook_is_read_or_refused_with_places_in_it(
    place: Path, text: str, damages: list[Damage], noise: list[tuple[int, bytes]]
) -> None:
    place.write_bytes(damaged(text, damages, noise))
    problems = problems_of(load, place)
    assert problems is None or all_inside(problems, place), (problems, place.read_bytes())


@many
@given(DAMAGES, BYTES)
def test_a_damaged_configuration_is_read_or_refused_with_places_in_it(
    place: Path, damages: list[Damage], noise: list[tuple[int, bytes]]
) -> None:
    place.write_bytes(damaged(WHOLE, damages, noise))
    problems = problems_of(configured, place)
    assert problems is None or all_inside(problems, place), (problems, place.read_bytes())


@many
@given(st.binary(max_size=300))
def test_any_bytes_are_no_runbook_and_no_configuration(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    for read in (load, configured):
        problems = problems_of(read, place)
        assert problems is not None
        assert all_inside(problems, place), (problems, content)


# --- what operators type -------------------------------------------------------------------------

WORDS = ODD | st.sampled_from(["*", "!", "queue:mail", "host:", "w1@web1", ",", "true"])
TYPED = st.lists(WORDS | st.text(max_size=10), max_size=4).map("".join)


def refusal(parse: Callable[[], object]) -> str:
    """What is said against it; nothing where it is understood."""
    try:
        parse()
    except UsageError as error:
        return error.says
    return ""


@many
@given(
    st.sampled_from([one.runbook for one in SHIPPED if one.runbook is not None]),
    st.dictionaries(
        st.sampled_from(["workers", "batch", "keep_available", "hold", "allow_gap"]) | TYPED,
        TYPED,
        max_size=4,
    ),
)
def test_any_parameters_are_values_or_refused(runbook: Runbook, typed: dict[str, str]) -> None:
    says = refusal(lambda: parse_params(runbook, typed))
    assert says.replace("\n", "").isprintable()


@many
@given(TYPED)
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    assert refusal(lambda: Selector.parse(text)).isprintable()


PARTS = ODD | st.sampled_from(
    ["(", ")", "not ", " and ", " or ", " == ", " < ", " in ", "worker", ".", "online", "[", "]",
     "params.batch", "fleet.ready", "'x'", "30s", "25%", "1e9", ",", "state", "\x00", "é"]
)  # fmt: skip


@many
@given(st.lists(PARTS, max_size=12).map("".join))
def test_any_parts_are_a_condition_or_refused_with_a_place(source: str) -> None:
    assert all(0 <= fault.offset <= len(source) and fault.says for fault in faults_of(source))


# --- what a run has written, and what is said to it ----------------------------------------------


def flip(lines: list[bytes], at: int, value: bytes) -> None:
    middle = len(value) * 977 % (len(lines[at]) + 1)
    lines[at] = lines[at][:middle] + value + lines[at][middle + 1 :]


def drop_line(lines: list[bytes], at: int, _: bytes) -> None:
    del lines[at]


def double_line(lines: list[bytes], at: int, _: bytes) -> None:
    lines.insert(at, lines[at])


def swap_lines(lines: list[bytes], at: int, _: bytes) -> None:
    lines[at - 1], lines[at] = lines[at], lines[at - 1]


def tear(lines: list[bytes], at: int, value: bytes) -> None:
    del lines[at + 1 :]
    lines[at] = lines[at][: -1 - len(value)]


def null_a_value(lines: list[bytes], at: int, value: bytes) -> None:
    values = re.findall(rb'":("[^"]*"|[0-9.]+)', lines[at])
    if values:
        instead = (b"null", b'""', b"[]", b"{}", b"-1", b"1e300", b'"\\ud800"', b'"\\u001b[2J"')
        chosen = values[len(value) * 7 % len(values)]
        lines[at] = lines[at].replace(chosen, instead[sum(value) % len(instead)], 1)


JOURNAL_DAMAGE = st.lists(
    st.tuples(
        st.sampled_from([flip, flip, drop_line, double_line, swap_lines, tear, null_a_value]),
        st.integers(0, 60),
        st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=3,
)


@many
@given(st.sampled_from(GOLDEN), JOURNAL_DAMAGE)
def test_a_damaged_journal_is_shown_as_far_as_it_goes_or_refused_with_its_line(
    place: Path,
    content: bytes,
    damages: list[tuple[Callable[[list[bytes], int, bytes], None], int, bytes]],
) -> None:
    lines = content.splitlines(keepends=True)
    for damage, at, value in damages:
        if lines:
            damage(lines, at % len(lines), value)
    path = place.with_name("run.jsonl")
    path.write_bytes(b"".join(lines))
    progress = RunProgress("run")
    try:
        for event in journal.read(path):
            progress.add(event)
    except JournalError as error:
        number = re.search(r"run\.jsonl:(\d+): ", error.says)
        assert number is not None
        assert int(number[1]) == len(progress.events) + 1
    told = Recall.of(progress.events)
    assert progress.state
    assert len(told.acts) <= len(progress.events)
    for event in progress.events:
        assert show_run.event_line(event).isprintable()
        assert event_cell(event).text is not None
        if event.outcome is not None and progress.plan is not None:
            show_run.end_lines(event.outcome, progress.plan, 80)
    RunStore(path.parent, VirtualClock()).summaries()


@many
@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from(
            [b'{"word":"abort","who":"x"}', b'{"word":"answer","who":"x","step":null}', b"{}",
             b'{"word":"answer","who":"\xff"}', b'{"word":"answer","who":"x","step":["1"]}',
             b"[" * 9_000]
        ),
        max_size=5,
    )
)  # fmt: skip
def test_any_lines_are_messages_or_passed_over(place: Path, lines: list[bytes]) -> None:
    path = place.with_name("run.inbox")
    path.write_bytes(b"")
    inbox = Inbox(path)
    path.write_bytes(b"\n".join(lines) + b'\n{"word":"pause","who":"ann"}\n')
    heard = inbox.new()
    assert heard[-1] == Message(heard[-1].word, "ann")
    assert len(heard) <= len(b"\n".join(lines).split(b"\n")) + 1
