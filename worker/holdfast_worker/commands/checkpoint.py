"""`holdfast checkpoint`: where a command that a worker runs may be parked."""

from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.options import DURATION

if TYPE_CHECKING:
    from holdfast_worker.runtime.ask import Held
    from holdfast_worker.runtime.status import CheckpointKind

__all__ = ["checkpoint"]


@click.command()
@click.argument("label", required=False)
@click.option(
    "--kind",
    type=click.Choice(["stage", "step", "tool"]),
    help="What boundary this is; the worker's --checkpoints says which count. Without it, it always counts.",
)
@click.option("--timeout", type=DURATION, help="How long to wait at most; by default until the resume.")
@click.option("--outside-ok", is_flag=True, help="Where this is no job of a worker, pass.")
def checkpoint(
    label: str | None, kind: "CheckpointKind | None", timeout: float | None, outside_ok: bool
) -> None:
    """Wait here while workers are quiesced, in a command of `holdfast worker run --exec`.

    Ends with 0 at once while they run, and else after the resume; meanwhile the job is parked and keeps its lease.
    LABEL says where the job is. Ends with 4 when --timeout is over, and with 6 where the worker is gone: then the
    command should stop. With `set -e` a script does so by itself.
    """
    from holdfast_worker.runtime.ask import NotInAJob, WorkerGone, ask_checkpoint

    try:
        held = ask_checkpoint(label, kind, timeout)
    except NotInAJob as error:
        if outside_ok:
            return
        stop(
            Exit.USAGE,
            "`holdfast checkpoint` is for the commands that `holdfast worker run --exec` runs: it waits while workers"
            f" are quiesced. This is no job of a worker ({error}). --outside-ok passes here.",
        )
    except WorkerGone as error:
        stop(
            Exit.UNREACHABLE,
            f"The worker of this job is gone: {error}. Stop: somebody else may run the job by now.",
        )
    if held is not None:
        stop(Exit.TIMED_OUT, _still(held))


def _still(held: "Held") -> str:
    if held.silent:
        return "The worker has not answered in time, so nothing is known. Ask again, or stop."
    reason = f": {held.reason}" if held.reason else ""
    return f"Workers are still paused ({held.mode}{reason}). Ask again, or stop."
