"""`holdfast watch` for people: how things stand, kept up to date in place."""

from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from holdfast_worker.terminal.output import COLOURS, terminal
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from holdfast_core.schemas import ControlEvent, Metrics, Snapshot, System, WorkerCounts
    from holdfast_worker.events import ServerEvent

__all__ = ["LiveView"]

#: Lines of the audit log that are shown.
EVENTS: Final = 8


class LiveView:
    """A view on a terminal; `tell` takes in what the server says, `lost` that it says nothing."""

    def __init__(self) -> None:
        from rich.live import Live

        self._system: System | None = None
        self._metrics: Metrics | None = None
        self._workers: WorkerCounts | None = None
        self._events: deque[ControlEvent] = deque(maxlen=EVENTS)
        self._most = 0
        self._heard = datetime.now(UTC)
        self._cause = ""
        # Drawn anew by itself, so that ages grow.
        self._live = Live(
            console=terminal(), get_renderable=self._drawn, refresh_per_second=2, transient=False
        )

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

        match event.event:
            case "snapshot":
                self._begin(event.read(Snapshot))
            case "system":
                self._system = event.read(System)
                # The counts of the new version are still to come: until then nothing is drained or safe.
                self._metrics = None
                self._most = 0
            case "metrics":
                self._metrics = event.read(Metrics)
            case "workers":
                self._workers = event.read(WorkerCounts)
            case "audit":
                self._remember(event.read(ControlEvent))
            case _:
                return
        if self._metrics is not None:
            self._most = max(self._most, self._metrics.running + self._metrics.stale_running)
        self._heard = datetime.now(UTC)
        self._live.refresh()

    def lost(self, cause: str) -> None:
        """The server does not answer: what it said last is not how things stand."""
        self._system = self._metrics = self._workers = None
        self._cause = cause
        self._live.refresh()

    def _begin(self, snapshot: "Snapshot") -> None:
        self._system, self._metrics, self._workers = snapshot.system, snapshot.metrics, snapshot.workers
        self._events.clear()
        for event in reversed(snapshot.audit.latest):
            self._remember(event)

    def _remember(self, event: "ControlEvent") -> None:
        if any(known.id == event.id for known in self._events):
            return
        self._events.appendleft(event)
        # What ran when the pause began is where its bar begins.
        if event.action == "pause" and event.outcome == "changed" and event.running is not None:
            self._most = max(self._most, event.running + (event.stale_running or 0))

    def _drawn(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        if self._system is None:
            words = f"Workers: Unknown. The server does not answer since {moment(self._heard)}. {self._cause}"
            return Group(Text(escaped(words), "bold red"), self._log())
        return Group(*self._banner(self._system), *self._counts(self._system), self._log())

    def _banner(self, system: "System") -> list["RenderableType"]:
        from rich.text import Text

        by = f" by {system.requested_by}" if system.requested_by else ""
        if not system.workers_paused or system.mode is None:
            return [Text(escaped(f"Workers: Running   version {system.version}{by}"), "bold green")]
        until = f", ends by itself {moment(system.resume_at)}" if system.resume_at else ""
        since = f"paused{by} since {moment(system.requested_at)}{until}, version {system.version}"
        return [
            Text(f"Workers: Paused ({system.mode.capitalize()})", "bold yellow"),
            Text(escaped(system.reason or "")),
            Text(escaped(since), "bright_black"),
        ]

    def _counts(self, system: "System") -> list["RenderableType"]:
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        lines: list[RenderableType] = []
        if self._metrics is not None:
            metrics = self._metrics
            lines.append(
                Text(
                    f"{metrics.running} running ({metrics.parked} parked), {metrics.stale_running} stale,"
                    f" {metrics.queued} queued, {metrics.scheduled} scheduled"
                )
            )
            if system.workers_paused:
                held = metrics.running + metrics.stale_running
                done = self._most - held + (metrics.parked if system.mode == "quiesce" else 0)
                lines.append(
                    ProgressBar(total=self._most or 1, completed=done if self._most else 1, width=60)
                )
                if metrics.safe_to_upgrade:
                    lines.append(Text("Safe to upgrade", "bold green"))
                elif metrics.is_parked:
                    lines.append(Text("All parked", "bold green"))
        if self._workers is not None:
            seen = f"{self._workers.acknowledged} of {self._workers.connected} workers have seen this version"
            missing = self._workers.unacknowledged
            lines.append(Text(escaped(f"{seen}; not yet: {', '.join(missing)}" if missing else seen)))
        return lines

    def _log(self) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        for event in self._events:
            mode = f" ({event.mode})" if event.mode else ""
            table.add_row(
                moment(event.created_at),
                f"{event.action}{mode}",
                Text(event.outcome, COLOURS.get(event.outcome, "")),
                Text(escaped(event.actor or "")),
                Text(escaped(event.reason or ""), overflow="fold"),
            )
        return table
