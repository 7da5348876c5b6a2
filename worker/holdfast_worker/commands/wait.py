"""`holdfast wait`: block until the system is where a script wants it."""

from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import DURATION, as_json, connected, server
from holdfast_worker.terminal.output import write_facts, write_json

if TYPE_CHECKING:
    from holdfast_worker.terminal.waiting import Goal

__all__ = ["wait"]


@click.command()
@click.option(
    "--for",
    "goal",
    type=click.Choice(["drained", "parked", "running", "version"]),
    required=True,
    help="drained: safe to upgrade. parked: all that runs waits at a checkpoint. running: resumed."
    " version: changed.",
)
@click.option(
    "--since-version",
    type=click.IntRange(min=1),
    help="With --for version: until it is above this; by default above the present one.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default="30m",
    show_default=True,
    help="How long to wait at most, like 90s, 30m, 2h.",
)
@server
@as_json
def wait(
    goal: "Goal",
    since_version: int | None,
    timeout: float,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Wait for a drain, a park, a resume or a change of the pause.

    Ends with 0 when it has come, 4 when time is up. Waiting for drained or parked also ends with 3 where
    nothing is paused, 5 when nothing runs but stale jobs remain, and 8 when somebody changes the pause.
    """
    if since_version is not None and goal != "version":
        raise click.UsageError("--since-version belongs to --for version")
    with connected(url, token) as client:
        from holdfast_worker.terminal.views import snapshot_facts
        from holdfast_worker.terminal.waiting import wait_until

        outcome = wait_until(client, goal, timeout_seconds=timeout, since_version=since_version)
        if as_json:
            write_json(outcome.body)
        else:
            write_facts(snapshot_facts(outcome.snapshot))
        if outcome.exit is not Exit.DONE:
            stop(outcome.exit, outcome.message)
