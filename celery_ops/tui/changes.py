"""From a wish to a run: plan, confirmation, start, following, steering. The desk does all of it.

There is one way to change anything, and this is the app's part of it: nothing starts that was not
planned, shown and agreed to by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import OpsError
from celery_ops.tui import scaling
from celery_ops.tui.confirm import ConfirmScreen
from celery_ops.tui.lines import Line, line
from celery_ops.tui.messages import FollowEnded, RunEventSeen, Steer
from celery_ops.tui.params_screen import ParamsScreen, untold
from celery_ops.tui.plan_screen import PlanScreen
from celery_ops.tui.run_screen import RunScreen
from celery_ops.tui.text import Tone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    from textual.app import App

    from celery_ops.runbook.plan import Plan
    from celery_ops.tui.aside import Aside
    from celery_ops.tui.messages import AnswerGiven, ChangeAsked, ScaleAsked, SteerAsked
    from celery_ops.tui.picture import Picture
    from celery_ops.tui.seams import Desk


class Changes:
    """Opens the screens of a change and does on the desk what they agree on."""

    def __init__(self, app: App[Any], desk: Desk, aside: Aside) -> None:
        self._app = app
        self._desk = desk
        self._aside = aside

    def open_plan(self, asked: ChangeAsked, picture: Picture) -> None:
        """Show the plan as soon as it is made; leaving its screen cancels the planning.

        What the runbook can be told beside what was asked is asked for before.
        """
        params = untold(picture.runbooks.get(asked.runbook, ()), asked)
        if not params:
            self._open_plan(asked, picture)
            return

        def told(values: Mapping[str, str] | None) -> None:
            if values is not None:
                self._open_plan(replace(asked, given={**asked.given, **values}), picture)

        self._app.push_screen(ParamsScreen(asked.runbook, asked.names, params), told)

    def open_scale(self, asked: ScaleAsked, picture: Picture) -> None:
        """Ask how many there are to be; what was typed says which runbook's plan is shown."""

        def told(values: Mapping[str, str] | None) -> None:
            if values is None:
                return
            change = scaling.change(asked, values)
            if isinstance(change, str):
                self._app.notify(change, severity="error", markup=False)
            else:
                self._open_plan(change, picture)

        params = scaling.asked_for(picture.runbooks)
        says = f"{asked.running} of {len(asked.names)} run now"
        self._app.push_screen(ParamsScreen("scale", asked.names, params, says), told)

    def confirm(self, plan: Plan, picture: Picture) -> None:
        """Ask for the agreement that the plan wants; then start it and follow."""

        def answered(agreed: bool | None) -> None:
            if agreed:
                self._app.run_worker(self._start(plan, picture), group="start")

        self._app.push_screen(
            ConfirmScreen(confirmation(plan), typed=typed_text(plan, picture)), answered
        )

    def follow(self, run: str, picture: Picture) -> None:
        """Open a run's screen and feed it from the journal until it is closed."""
        screen = RunScreen(picture, run, may_write=not picture.read_only)
        self._app.push_screen(screen)
        screen.run_worker(self._feed(screen, run), group="follow")

    async def steer(self, asked: SteerAsked) -> None:
        """Say it to the run."""
        says: Callable[[str], None]
        match asked.steer:
            case Steer.ABORT:
                says = self._desk.abort
            case Steer.PAUSE:
                says = self._desk.pause
            case Steer.PROCEED:
                says = self._desk.proceed
        await self._said(self._aside.call(says, asked.run))

    async def answer(self, given: AnswerGiven) -> None:
        """Give the answer to the run."""
        await self._said(self._aside.call(self._desk.answer, given.run, given.step, given.answer))

    def _open_plan(self, asked: ChangeAsked, picture: Picture) -> None:
        screen = PlanScreen(picture, asked)
        self._app.push_screen(screen)
        screen.run_worker(self._plan(screen, asked), group="plan")

    async def _plan(self, screen: PlanScreen, asked: ChangeAsked) -> None:
        try:
            plan = await self._desk.plan(asked.runbook, asked.given)
        except OpsError as error:
            screen.error = str(error)
        else:
            screen.plan = plan

    async def _start(self, plan: Plan, picture: Picture) -> None:
        answers = {one.step: self._desk.operator for one in plan.confirmations}
        try:
            run = await self._aside.call(self._desk.start, plan, answers=answers)
        except OpsError as error:
            if isinstance(self._app.screen, PlanScreen):
                self._app.screen.error = str(error)
            return
        if isinstance(self._app.screen, PlanScreen):
            self._app.pop_screen()
        self.follow(run, picture)

    async def _feed(self, screen: RunScreen, run: str) -> None:
        try:
            async for event in self._desk.follow(run):
                screen.post_message(RunEventSeen(event))
        except OpsError as error:
            screen.post_message(FollowEnded(str(error)))
        else:
            screen.post_message(FollowEnded(None))

    async def _said(self, saying: Awaitable[None]) -> None:
        try:
            await saying
        except OpsError as error:
            self._app.notify(str(error), severity="error", markup=False)


def typed_text(plan: Plan, picture: Picture) -> str | None:
    """What must be typed to agree: what the plan wants, or a protected context's name."""
    typed = next((one.typed for one in plan.confirmations if one.typed is not None), None)
    return typed or (picture.context if picture.protected or plan.where.protected else None)


def confirmation(plan: Plan) -> list[Line]:
    """What is agreed to: the questions, every target by name, and what was to be known before."""
    context = (plan.where.context, Tone.STRONG)
    found = [line((plan.runbook, Tone.STRONG), " on ", context, f"  {plan.where.broker}"), Line()]
    questions = [one.question for one in plan.confirmations] or [f"Run {plan.runbook}?"]
    found += [line((question, Tone.STRONG)) for question in questions]
    found.append(Line())
    names = ", ".join(target.name for target in plan.targets)
    if queue := plan.params.get("queue"):
        found.append(line("queue ", (str(queue), Tone.STRONG)))
    if names or not queue:
        found.append(line(names or "no worker"))
    warnings = (*plan.warnings, *plan.irreversible)
    if warnings:
        found.append(Line())
        found += [line(("▲ ", Tone.BAD), (says, Tone.BAD), indent=2) for says in warnings]
    return found
