"""`holdfast worker stop`: one worker of this host ends, in good order."""

import click

from holdfast_worker.terminal.local_workers import chosen, show, told, which
from holdfast_worker.terminal.options import as_json
from holdfast_worker.terminal.output import say

__all__ = ["stop"]


@click.command()
@which
@as_json
def stop(worker_id: str | None, as_json: bool) -> None:
    """Stop one worker of this host, as SIGTERM does.

    It takes nothing new; what runs gets its grace to end, what is parked goes back to its place. The verb does not
    wait for that.
    """
    found = chosen(worker_id)
    with told(found):
        from holdfast_worker.runtime.control.asking import switch

        status = show(switch(found, "stop"), as_json=as_json)
    running = len(status.jobs)
    left = f" once {'its job has' if running == 1 else f'its {running} jobs have'}" if running else ""
    say(f"The worker {found.worker_id} (process {found.pid}) ends{left}.")
