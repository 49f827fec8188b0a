"""The screen with the views; one of them is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.widgets import ContentSwitcher

from celery_ops.tui.fleet import FleetView
from celery_ops.tui.frame import VIEWS, Frame
from celery_ops.tui.hosts import HostsView
from celery_ops.tui.queues import QueuesView
from celery_ops.tui.runs import RunsView
from celery_ops.tui.workers import WorkersView

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from celery_ops.tui.picture import Picture
    from celery_ops.tui.table_view import TableView


class MainScreen(Frame):
    """Fleet, Workers, Queues, Hosts and, where there is a desk, Runs."""

    def __init__(
        self, picture: Picture, *, may_write: bool, with_runs: bool, with_ledger: bool
    ) -> None:
        views = [view for view in VIEWS if with_runs or view[1] != "runs"]
        super().__init__(picture, view="fleet", views=views)
        self._views: dict[str, TableView[Any]] = {
            "fleet": FleetView(picture, with_ledger=with_ledger),
            "workers": WorkersView(picture, may_write=may_write),
            "queues": QueuesView(picture),
            "hosts": HostsView(picture),
        }
        if with_runs:
            self._views["runs"] = RunsView(picture)
        self._switcher = ContentSwitcher(initial="fleet")

    def content(self) -> ComposeResult:
        with self._switcher:
            for view in self._views.values():
                yield view.data_bind(Frame.picture)

    def on_mount(self) -> None:
        super().on_mount()
        self.set_focus(self._views["fleet"].table)

    @property
    def view(self) -> str:
        """The name of the view that is shown."""
        return self._switcher.current or "fleet"

    def has(self, view: str) -> bool:
        return view in self._views

    def open(self, view: str) -> None:
        """Show a view and put the focus into its table."""
        self._switcher.current = view
        # Rows and focus at once, not when the view is drawn: the next key may be typed already.
        self._views[view].refresh_rows()
        self.set_focus(self._views[view].table)
        self.go_to(view)
