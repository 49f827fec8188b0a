"""The same on RabbitMQ: a queue declared with `x-max-priority`, and one without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises.test_priorities import PROVED, outcome, smoke
from tests.rig import wait_until
from tests.rig.operations import Program
from tests.rig.rabbit_operations import RabbitOperations, rabbit_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.promises.conftest import MakeOperator

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitOperations]:
    with rabbit_operations(tmp_path_factory.mktemp("fleet"), Program("one")) as made:
        made.fleet.add_consumer(
            "one@rig", "ranked", options={"queue_arguments": {"x-max-priority": 9}}
        )
        wait_until(lambda: len(made.consumed_by("one@rig")) == 3, what="one consumes it")
        yield made


def test_a_queue_with_priorities_is_served_in_order(
    fleet: RabbitOperations, operator: MakeOperator
) -> None:
    said = smoke(fleet, operator, "ranked")
    assert said.code == 0, said.all
    result, says = outcome(said, "ranked")
    assert (result, says.startswith(PROVED)) == ("done", True), said.all
    assert fleet.ready("ranked") == 0


def test_a_queue_without_priorities_is_told_to_have_none(
    fleet: RabbitOperations, operator: MakeOperator
) -> None:
    said = smoke(fleet, operator, "one")
    assert said.code == 0, said.all
    says = "order not proved: no priorities: it was declared without x-max-priority"
    assert outcome(said, "one") == ("done", says)
