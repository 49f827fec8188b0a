"""The proof of a roll's batch: what its `verify` asks for, seen for long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.runbook import facts
from celery_ops.runbook.judges import Judgement, Seen, no_answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, Worker
    from celery_ops.runbook.schema import Verify


class Verification:
    """All conditions of a `verify`, held without a break for `hold` seconds; of one that is `down`
    its supervisor tells, for it cannot answer.

    A solo pool that has begun a task since they were seen to hold is no break: its supervisor says
    that it lives, and nobody could say more.
    """

    def __init__(
        self,
        verify: Verify,
        target: str,
        scope: Mapping[str, object],
        hold: float,
        since: datetime,
        *,
        down: bool = False,
    ) -> None:
        self._verify = verify
        self._down = down
        self._target = target
        self._scope = scope
        self._hold = hold
        self._since = since
        self._good_from: datetime | None = None

    def __call__(self, snapshot: FleetSnapshot) -> Judgement:
        worker = snapshot.worker(self._target)
        if worker is not None and worker.busy_solo and self._good_from is not None:
            return self._held(self._good_from, snapshot.at)
        heard_at = self._heard_at(worker)
        if worker is None or heard_at is None or heard_at < self._since:
            return self._bad(no_answer(worker))
        scope = {
            **self._scope,
            "worker": facts.of_worker(worker),
            "fleet": facts.of_fleet(snapshot),
        }
        for condition in self._verify.that:
            verdict = condition.evaluate(scope)
            if not verdict.holds:
                return self._bad(f"{condition.source} does not hold: {verdict.says}")
        self._since = heard_at
        if self._good_from is None:
            self._good_from = snapshot.at
        return self._held(self._good_from, snapshot.at)

    def _held(self, good_from: datetime, now: datetime) -> Judgement:
        held = (now - good_from).total_seconds()
        if held < self._hold:
            hold = as_duration(self._hold)
            return Judgement(Seen.NOT_YET, f"all conditions hold; watched for {hold}")
        return Judgement(Seen.DONE, f"all conditions held for {as_duration(held)}")

    def _heard_at(self, worker: Worker | None) -> datetime | None:
        if worker is None or not self._down:
            return worker.replied_at if worker is not None else None
        status = worker.service.status if worker.service is not None else None
        return status.at if status is not None else None

    def _bad(self, says: str) -> Judgement:
        self._good_from = None
        return Judgement(Seen.NOT_YET, says)
