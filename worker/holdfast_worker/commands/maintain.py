"""`holdfast maintain`: pause, wait, run a command, resume."""

from typing import Literal

import click

from holdfast_worker.terminal.options import DURATION, connected, server

__all__ = ["maintain"]


@click.command()
@click.option("--reason", required=True, help="Why; it goes into the audit log and the banner.")
@click.option(
    "--mode",
    type=click.Choice(["drain", "quiesce"]),
    default="drain",
    show_default=True,
    help="drain: running jobs finish first. quiesce: they park at their next checkpoint.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default=1_800.0,
    help="How long to wait at most, like 90s, 30m, 2h; by default 30m.",
)
@click.option(
    "--within",
    is_flag=True,
    help="On a system that is paused already: wait and run, and leave the pause alone.",
)
@server
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def maintain(
    reason: str,
    mode: Literal["drain", "quiesce"],
    timeout: float,
    within: bool,
    url: str | None,
    token: str | None,
    command: tuple[str, ...],
) -> None:
    """Run a command while no job runs.

    Pauses all workers, waits until drained (in quiesce: until all that runs is parked), runs COMMAND, and
    resumes if it ended with 0. If it did not, the pause stays and the verb ends with 1.

    \b
        holdfast maintain --reason "Upgrade to 2.4" -- ./upgrade.sh --all

    Refused (3) where workers are paused already, unless --within is given. When the wait ends without
    success (4: time is up; 5: only stale jobs remain), or is interrupted, nothing has been run and this
    pause is undone. A pause that somebody else changed meanwhile is left as it is (8).
    """
    import os
    import shutil

    from holdfast_worker.terminal.maintenance import Maintenance

    if shutil.which(command[0]) is None:
        raise click.BadParameter(
            f"there is no program {command[0]!r} that can be run here; nothing was paused",
            param_hint="COMMAND",
        )
    with connected(url, token) as client:
        environment = os.environ | {"HOLDFAST_URL": url or client.url}
        Maintenance(client, reason, mode, timeout).run(command, environment, within=within)
