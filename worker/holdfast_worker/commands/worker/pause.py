"""`holdfast worker pause`: one worker of this host takes nothing new."""

import click

from holdfast_worker.terminal.local_workers import chosen, show, told, which
from holdfast_worker.terminal.options import as_json
from holdfast_worker.terminal.output import say

__all__ = ["pause"]


@click.command()
@which
@as_json
def pause(worker_id: str | None, as_json: bool) -> None:
    """Pause one worker of this host: it takes nothing new.

    It stays connected, and what it runs goes on. The pause is in its memory only: it ends with
    `holdfast worker resume`, or with a restart.
    """
    found = chosen(worker_id)
    with told(found):
        from holdfast_worker.runtime.control.asking import switch

        status = show(switch(found, "pause"), as_json=as_json)
    running = len(status.jobs)
    goes_on = f"; {running} {'job goes' if running == 1 else 'jobs go'} on" if running else ""
    say(f"The worker {found.worker_id} takes nothing new{goes_on}.")
