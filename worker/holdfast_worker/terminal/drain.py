"""The drain, live on stderr: a bar on a terminal, a line at each change elsewhere."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from holdfast_worker.terminal.output import say, terminal

if TYPE_CHECKING:
    from holdfast_core.schemas import Snapshot

__all__ = ["DrainView"]


class DrainView:
    """Shows snapshots while jobs run to their end (`drained`) or to their checkpoint (`parked`)."""

    def __init__(self, goal: Literal["drained", "parked"]) -> None:
        self._goal = goal
        self._most = 0
        self._latest = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[counts]}", markup=False),
                TimeElapsedColumn(),
                console=terminal(stderr=True),
            )
            self._bar.start()
            title = "Draining" if self._goal == "drained" else "Parking"
            self._task = self._bar.add_task(title, total=None, counts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, snapshot: "Snapshot") -> None:
        """Bring the view up to date."""
        metrics = snapshot.metrics
        held = metrics.running + metrics.stale_running
        self._most = max(self._most, held)
        counts = f"{metrics.running} running, {metrics.stale_running} stale, {metrics.queued} queued"
        if self._goal == "parked":
            counts = (
                f"{metrics.parked} of {held} parked, {metrics.stale_running} stale, {metrics.queued} queued"
            )
        if self._bar is not None:
            done = self._most - held if self._goal == "drained" else metrics.parked + self._most - held
            # With nothing to wait for the bar is full from the start.
            self._bar.update(
                self._task, total=self._most or 1, completed=done if self._most else 1, counts=counts
            )
        elif counts != self._latest:
            say(counts)
        self._latest = counts
