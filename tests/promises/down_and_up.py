"""What any supervisor must bear under load: workers are drained and resumed, most of them are
stopped for good, and all are started again.

The caller sends tasks meanwhile, and counts them afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rig import wait_until
from tests.rig.poller import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.rig.operator import Operator
    from tests.rig.poller import Poller


def down_and_up_again(
    ann: Operator,
    poller: Poller,
    *,
    goes: Sequence[str],
    runs: Callable[[], set[str]],
    workers: str = "*",
) -> None:
    """`goes` are the nodes, of `workers`, that scale-down stops when it is to stop so many: they
    are drained before. `runs` says which of `workers` run, as their supervisor itself tells it.
    """
    everybody, all_nodes = poller.consumers(), runs()
    drained = ("-p", f"workers={','.join(f'name:{node}' for node in goes)}")
    _do(ann, "drain-worker", *drained, "-p", "keep_available=1")
    consuming = poller.consuming()
    assert [consuming.get(node) for node in goes] == [[]] * len(goes), consuming
    assert runs() == all_nodes, "drained ones run on"
    _do(ann, "resume-worker", *drained)
    wait_until(lambda: poller.consumers() == everybody, what="all consume again")
    some = ("-p", f"workers={workers}")
    left = len(all_nodes) - len(goes)
    with Sampler(poller) as sampler:
        _do(ann, "scale-down", *some, "-p", f"to={left}", "-p", "batch=50%", "-p", "hold=1s")
        assert runs() == all_nodes - set(goes), "those stay down, and no others"
        assert sorted(taken["worker"] for taken in ann.status()["taken"]) == sorted(goes)
        _do(ann, "scale-up", *some)
    assert runs() == all_nodes
    assert all(sampler.least(queue) >= 1 for queue in everybody), sampler.samples
    wait_until(lambda: poller.consumers() == everybody, what="all consume as before")
    assert ann.status()["taken"] == []


def _do(ann: Operator, runbook: str, *params: str) -> None:
    said = ann.do("runbook", runbook, *params, "--yes")
    assert said.code == 0, f"{runbook}: {said.all}"
