"""Fleets and operators for the promises: one fleet a module, an operator with an empty home a test.

Whatever a test does, at its end no file of any operator may contain the broker's password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator


class Staffed(Protocol):
    """A fleet with operators, as each module has one."""

    def operator(self, directory: Path, name: str, *options: str) -> Operator: ...
    def dismiss(self) -> None: ...
    def leaks(self) -> list[str]: ...


class MakeOperator(Protocol):
    """Makes operators of the module's fleet; `options` stand before all of their commands."""

    def __call__(self, name: str, *options: str) -> Operator: ...


@pytest.fixture
def operator(fleet: Staffed, tmp_path: Path) -> Iterator[MakeOperator]:
    """Operators whose commands end with the test. `fleet` is the module's own."""

    def make(name: str, *options: str) -> Operator:
        return fleet.operator(tmp_path, name, *options)

    yield make
    fleet.dismiss()
    assert fleet.leaks() == []


@pytest.fixture
def ann(operator: MakeOperator) -> Operator:
    return operator("ann")


@pytest.fixture
def bob(operator: MakeOperator) -> Operator:
    return operator("bob")
