"""`holdfast worker resume`: one worker of this host takes work again."""

import click

from holdfast_worker.terminal.local_workers import chosen, show, told, which
from holdfast_worker.terminal.options import as_json
from holdfast_worker.terminal.output import say

__all__ = ["resume"]


@click.command()
@which
@as_json
def resume(worker_id: str | None, as_json: bool) -> None:
    """Let one worker of this host take work again.

    A pause of the whole system is not touched: `holdfast resume` ends that.
    """
    found = chosen(worker_id)
    with told(found):
        from holdfast_worker.runtime.control.asking import switch

        status = show(switch(found, "resume"), as_json=as_json)
    if status.system is not None and status.system.workers_paused:
        say(
            f"The worker {found.worker_id} is not paused any more, but the system is: `holdfast resume` ends that."
        )
    else:
        say(f"The worker {found.worker_id} takes work again.")
