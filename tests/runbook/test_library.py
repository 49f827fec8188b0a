"""The library: which runbook wins, and that a broken one is shown rather than hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_ops.errors import InvalidDocument, UsageError
from celery_ops.runbook.library import Library, Origin
from celery_ops.runbook.schema import Risk

MINE = """\
name: {name}
summary: {summary}
risk: low
steps:
  - check: fleet.online > 0
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    directory = tmp_path / "runbooks"
    directory.mkdir()
    return directory


def write(directory: Path, file: str, name: str, summary: str = "Mine.") -> Path:
    path = directory / file
    path.write_text(MINE.format(name=name, summary=summary))
    return path


def test_the_shipped_runbooks_are_all_valid_and_short_enough_for_3_am() -> None:
    library = Library(None)
    assert library.names() == (
        "backup-queue",
        "deploy",
        "drain-queue",
        "drain-worker",
        "forget-beat",
        "hold-task",
        "move-queue",
        "park-queue",
        "pause-queue",
        "purge-queue",
        "ramp-queue",
        "release-task",
        "restore-orphans",
        "restore-queue",
        "resume-queue",
        "resume-worker",
        "retry-tasks",
        "return-queue",
        "revoke-tasks",
        "rollback",
        "rolling-restart",
        "scale-down",
        "scale-up",
        "smoke",
        "start-beat",
        "start-worker",
        "stop-beat",
        "stop-worker",
        "terminate-tasks",
        "unpark-queue",
        "unwrap-queue",
    )
    for entry in library.entries():
        assert entry.problems == ()
        assert entry.origin is Origin.SHIPPED
        assert entry.path.stem == entry.name
        assert entry.runbook is not None
        most = 110 if entry.runbook.risk is Risk.HIGH else 40
        assert len(entry.path.read_text().splitlines()) <= most


def test_a_users_runbook_wins_over_the_shipped_one_and_says_so(mine: Path) -> None:
    path = write(mine, "rolling-restart.yaml", "rolling-restart", "My way.")
    write(mine, "other.yml", "tidy-up")
    library = Library(mine)
    assert library.get("rolling-restart").summary == "My way."
    entries = {entry.name: entry for entry in library.entries()}
    assert entries["rolling-restart"].origin is Origin.USER_HIDES_SHIPPED
    assert entries["rolling-restart"].origin.value == "user, hides the shipped one"
    assert entries["rolling-restart"].path == path
    assert entries["tidy-up"].origin is Origin.USER
    assert entries["tidy-up"].risk is Risk.LOW
    assert entries["drain-worker"].origin is Origin.SHIPPED


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("rolling-restart.yaml", "name: [\n"),
        ("mine.yaml", "name: rolling-restart\nsteps: none\n"),
    ],
)
def test_a_broken_runbook_of_the_users_never_falls_back_to_the_shipped_one(
    mine: Path, file: str, text: str
) -> None:
    (mine / file).write_text(text)
    library = Library(mine)
    (entry,) = (entry for entry in library.entries() if entry.problems)
    assert (entry.name, entry.summary, entry.risk) == ("rolling-restart", None, None)
    assert entry.origin is Origin.USER_HIDES_SHIPPED
    with pytest.raises(InvalidDocument) as caught:
        library.get("rolling-restart")
    assert caught.value.problems == entry.problems
    assert all(problem.file == str(mine / file) for problem in entry.problems)


def test_two_files_of_one_name_are_a_problem_and_neither_is_chosen(mine: Path) -> None:
    write(mine, "a.yaml", "tidy-up")
    write(mine, "b.yaml", "tidy-up")
    with pytest.raises(InvalidDocument, match=r"a\.yaml beside it has the same name 'tidy-up'"):
        Library(mine).get("tidy-up")


def test_a_file_that_cannot_be_read_is_listed_with_the_reason(mine: Path) -> None:
    (mine / "gone.yaml").symlink_to(mine / "nowhere")
    (mine / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (mine / ".hidden.yaml").write_text("x")
    (mine / "notes.txt").write_text("x")
    broken = {entry.name: entry for entry in Library(mine).entries() if entry.problems}
    assert broken.keys() == {"gone", "latin"}
    assert "No such file" in broken["gone"].problems[0].says
    assert (broken["latin"].problems[0].line, broken["latin"].problems[0].column) == (1, 10)


def test_an_unknown_name_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Library(tmp_path / "no such directory").get("roling-restart")
    assert caught.value.says == (
        "there is no runbook 'roling-restart' (did you mean rolling-restart?)"
    )


def test_rules_that_doctor_does_not_have_are_problems() -> None:
    library = Library(None, rules=["purges-on-start", "stop-loses-task"])
    with pytest.raises(InvalidDocument, match=r"doctor has no rule 'stop-loses-tasks' \(did you"):
        library.get("rolling-restart")
