"""`holdfast watch` for people: how things stand, kept up to date in place."""

import time
from datetime import UTC, datetime
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from holdfast_worker.terminal.drawing import acknowledged, banner, counts, drain, held, log, unknown
from holdfast_worker.terminal.output import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast_core.schemas import ControlEvent, Metrics, Snapshot, System, WorkerCounts
    from holdfast_worker.events import ServerEvent

__all__ = ["LiveView", "can_draw"]

#: Lines of the audit log that are shown.
EVENTS: Final = 8
#: The server tells its counts every ten seconds at least: after this it does not answer, though it hung up nothing.
SILENT_SECONDS: Final = 20.0


def can_draw() -> bool:
    """Whether the terminal can move its cursor, so that a view can be kept up to date in place."""
    return not terminal().is_dumb_terminal


class LiveView:
    """A view on a terminal; `tell` takes in what the server says, `lost` that it says nothing."""

    def __init__(self) -> None:
        from rich.live import Live

        self._system: System | None = None
        self._metrics: Metrics | None = None
        self._workers: WorkerCounts | None = None
        self._events: list[ControlEvent] = []
        #: The most jobs that were held under this version of the pause.
        self._most = 0
        self._cause = ""
        self._hear()
        # It draws from a thread of its own, by the clock, so that silence shows.
        self._lock = Lock()
        self._live = Live(console=terminal(), get_renderable=self._drawn, refresh_per_second=2)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def tell(self, event: "ServerEvent") -> None:
        """Take in one event; those that this version does not know are left out."""
        from holdfast_core.schemas import ControlEvent, Metrics, Snapshot, System, WorkerCounts

        with self._lock:
            match event.event:
                case "snapshot":
                    self._begin(event.read(Snapshot))
                case "system":
                    self._system = event.read(System)
                    # What is counted under the new version is still to come: until then nothing is drained or safe.
                    self._metrics = self._workers = None
                    self._most = 0
                case "metrics":
                    self._metrics = event.read(Metrics)
                case "workers":
                    self._workers = event.read(WorkerCounts)
                case "audit":
                    self._remember(event.read(ControlEvent))
                case _:
                    pass
            if self._metrics is not None:
                self._most = max(self._most, held(self._metrics))
            self._hear()
        self._live.refresh()

    def lost(self, cause: str) -> None:
        """The server does not answer: what it said last is not how things stand."""
        with self._lock:
            self._system = self._metrics = self._workers = None
            self._cause = cause
        self._live.refresh()

    def _hear(self) -> None:
        self._heard, self._heard_at = time.monotonic(), datetime.now(UTC)

    def _begin(self, snapshot: "Snapshot") -> None:
        self._system, self._metrics, self._workers = snapshot.system, snapshot.metrics, snapshot.workers
        self._most = 0
        self._events = snapshot.audit.latest[:EVENTS]

    def _remember(self, event: "ControlEvent") -> None:
        if all(known.id != event.id for known in self._events):
            self._events = [event, *self._events][:EVENTS]

    def _drawn(self) -> "RenderableType":
        from rich.console import Group

        with self._lock:
            silent = time.monotonic() - self._heard > SILENT_SECONDS
            if self._system is None or silent:
                cause = "Nothing was heard from it." if self._system else self._cause
                return Group(unknown(self._heard_at, cause), log(self._events))
            lines = banner(self._system)
            if self._metrics is not None:
                lines += counts(self._metrics)
                if self._system.workers_paused:
                    most = max(self._most, self._at_start(self._system))
                    lines += drain(self._system, self._metrics, most)
            if self._workers is not None:
                lines += acknowledged(self._workers)
            return Group(*lines, log(self._events))

    def _at_start(self, system: "System") -> int:
        """How many jobs were held when this pause began, as far as the log that is shown goes back."""
        for event in self._events:
            if (event.action, event.outcome, event.created_at) == ("pause", "changed", system.requested_at):
                return (event.running or 0) + (event.stale_running or 0)
        return 0
