"""How `holdfast watch` draws each part of how things stand."""

from datetime import datetime
from typing import TYPE_CHECKING, Final

from holdfast_worker.terminal.output import COLOURS
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from holdfast_core.schemas import ControlEvent, Metrics, System, WorkerCounts

__all__ = ["acknowledged", "banner", "counts", "drain", "held", "log", "unknown"]

BAR_WIDTH: Final = 40


def held(metrics: "Metrics") -> int:
    """Jobs that are not over: running, parked or stale."""
    return metrics.running + metrics.stale_running


def unknown(since: datetime, cause: str) -> "RenderableType":
    """The banner where nobody knows how things stand. `since`: when the server was last heard."""
    from rich.text import Text

    words = f"Workers: Unknown since {since:%H:%M:%S} UTC. The server does not answer. {cause}"
    return Text(escaped(words), "bold red")


def banner(system: "System") -> list["RenderableType"]:
    """Running or paused: why, by whom, since when, until when."""
    from rich.text import Text

    by = f" by {system.requested_by}" if system.requested_by else ""
    if not system.workers_paused or system.mode is None:
        since = f"since {moment(system.updated_at)}{by}, version {system.version}"
        return [Text("Workers: Running", "bold green"), Text(escaped(since), "bright_black")]
    until = f", ends by itself {moment(system.resume_at)}" if system.resume_at else ""
    since = f"since {moment(system.requested_at)}{by}{until}, version {system.version}"
    return [
        Text(f"Workers: Paused ({system.mode.capitalize()})", "bold yellow"),
        Text(escaped(system.reason or "")),
        Text(escaped(since), "bright_black"),
    ]


def counts(metrics: "Metrics") -> list["RenderableType"]:
    """The counts of jobs, in one line."""
    from rich.text import Text

    return [
        Text(
            f"{metrics.running} running ({metrics.parked} parked), {metrics.stale_running} stale,"
            f" {metrics.queued} queued, {metrics.scheduled} scheduled"
        )
    ]


def drain(system: "System", metrics: "Metrics", most: int) -> list["RenderableType"]:
    """How far it is, of as many jobs as were held at the most; with none the bar is full from the start."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = most - held(metrics) + (metrics.parked if system.mode == "quiesce" else 0)
    what = "ended or parked" if system.mode == "quiesce" else "ended"
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        ProgressBar(total=most or 1, completed=done if most else 1, width=BAR_WIDTH),
        f"{done} of {most} {what}",
    )
    if metrics.safe_to_upgrade:
        return [grid, Text("Safe to upgrade", "bold green")]
    return [grid, Text("All parked", "bold green")] if metrics.is_parked else [grid]


def acknowledged(workers: "WorkerCounts") -> list["RenderableType"]:
    """How many workers have seen the version."""
    from rich.text import Text

    missing = f"; not yet: {', '.join(workers.unacknowledged)}" if workers.unacknowledged else ""
    return [
        Text(
            escaped(f"{workers.acknowledged} of {workers.connected} workers have seen this version{missing}")
        )
    ]


def log(events: list["ControlEvent"]) -> "Table":
    """These lines of the audit log."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for last in (False, False, False, False, True):
        table.add_column(no_wrap=not last, overflow="fold" if last else "ellipsis")  # the reason gives way
    for event in events:
        mode = f" ({event.mode})" if event.mode else ""
        table.add_row(
            moment(event.created_at),
            f"{event.action}{mode}",
            Text(event.outcome, COLOURS.get(event.outcome, "")),
            Text(escaped(event.actor or "")),
            Text(escaped(event.reason or "")),
        )
    return table
