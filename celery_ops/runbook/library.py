"""Where runbooks are found: the user's directory first, then the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import celery_ops
from celery_ops.config.document import Scalar, Table, did_you_mean, parse, shown
from celery_ops.errors import InvalidDocument, Problem, UsageError
from celery_ops.runbook.loader import load

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.runbook.schema import Risk, Runbook

_SUFFIXES = frozenset({".yaml", ".yml"})


class Origin(StrEnum):
    """Where a runbook comes from, in the words of `celery-ops runbooks`."""

    SHIPPED = "shipped"
    USER = "user"
    USER_HIDES_SHIPPED = "user, hides the shipped one"


@dataclass(frozen=True, slots=True)
class Entry:
    """One runbook there is. A broken file has problems and no runbook, but keeps its name."""

    name: str
    path: Path
    origin: Origin
    runbook: Runbook | None
    problems: tuple[Problem, ...] = ()

    @property
    def summary(self) -> str | None:
        return None if self.runbook is None else self.runbook.summary

    @property
    def risk(self) -> Risk | None:
        return None if self.runbook is None else self.runbook.risk


class Library:
    """The runbooks of a context. Reads its directories anew at every call: they are small.

    `user_directory` is `runbooks/` beside the configuration file; it need not exist. `rules` are
    the names of doctor's rules, against which runbooks are checked.
    """

    def __init__(
        self,
        user_directory: Path | None,
        *,
        shipped_directory: Path | None = None,
        rules: Collection[str] | None = None,
    ) -> None:
        self._user = user_directory
        self._shipped = shipped_directory or _shipped_directory()
        self._rules = rules

    def entries(self) -> tuple[Entry, ...]:
        """All runbooks by name; a broken one is listed with its problems, never left out."""
        return tuple(entry for _, entry in sorted(self._by_name().items()))

    def names(self) -> tuple[str, ...]:
        """The names of all runbooks, of the broken ones too."""
        return tuple(entry.name for entry in self.entries())

    def get(self, name: str) -> Runbook:
        """The runbook of that name.

        Raise UsageError if there is none, InvalidDocument if its file is broken: a broken runbook
        of the user's never falls back to the shipped one.
        """
        entry = self._users().get(name) or self._shipped_as(name)
        if entry is None:
            hint = did_you_mean(name, self._by_name())
            raise UsageError(
                f"there is no runbook {shown(name)}{hint}", fix="`celery-ops runbooks` lists them."
            )
        if entry.runbook is None:
            raise InvalidDocument(entry.problems)
        return entry.runbook

    def _shipped_as(self, name: str) -> Entry | None:
        """The shipped files are named as their runbooks are: the others need not be read."""
        for path in _files(self._shipped):
            if path.stem == name and (entry := self._entry(path, Origin.SHIPPED)).name == name:
                return entry
        return None

    def _by_name(self) -> dict[str, Entry]:
        found = self._read(self._shipped, Origin.SHIPPED)
        for name, entry in self._users().items():
            origin = Origin.USER_HIDES_SHIPPED if name in found else Origin.USER
            found[name] = replace(entry, origin=origin)
        return found

    def _users(self) -> dict[str, Entry]:
        return {} if self._user is None else self._read(self._user, Origin.USER)

    def _read(self, directory: Path, origin: Origin) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for path in _files(directory):
            entry = self._entry(path, origin)
            if entry.name in found:
                entry = _named_twice(entry, found[entry.name].path)
            found[entry.name] = entry
        return found

    def _entry(self, path: Path, origin: Origin) -> Entry:
        try:
            runbook = load(path, rules=self._rules)
        except InvalidDocument as error:
            return Entry(_declared_name(path), path, origin, None, error.problems)
        except UsageError as error:
            return Entry(path.stem, path, origin, None, (Problem(str(path), 1, 1, error.says),))
        return Entry(runbook.name, path, origin, runbook)


def _shipped_directory() -> Path:
    """`_runbooks` inside an installed package, `runbooks` beside it in a checkout."""
    package = Path(celery_ops.__file__).parent
    installed = package / "_runbooks"
    return installed if installed.is_dir() else package.parent / "runbooks"


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in _SUFFIXES and not path.name.startswith(".")
    )


def _declared_name(path: Path) -> str:
    """What a broken file calls itself, if that much can be read; else its file's name."""
    try:
        root = parse(path.read_text("utf-8"), str(path))
    except (InvalidDocument, UnicodeDecodeError, OSError):
        return path.stem
    name = root.get("name") if isinstance(root, Table) else None
    return name.text if isinstance(name, Scalar) and name.text else path.stem


def _named_twice(entry: Entry, other: Path) -> Entry:
    says = (
        f"{other.name} beside it has the same name {shown(entry.name)}; a runbook's name is its own"
    )
    problem = Problem(str(entry.path), 1, 1, says)
    return replace(entry, runbook=None, problems=(*entry.problems, problem))
