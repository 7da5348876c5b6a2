"""`holdfast worker tray`: a worker of this host as an icon beside the clock."""

import click

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.local_workers import chosen, which
from holdfast_worker.terminal.output import say

__all__ = ["tray"]


@click.command()
@which
def tray(worker_id: str | None) -> None:
    """Show a worker of this host as an icon beside the clock.

    The icon says whether it is idle, busy, paused or disconnected; its menu pauses and resumes the worker, opens its
    status page, and ends the icon, which leaves the worker alone. With --worker-id it waits for a worker that does not
    run yet. Needs `pip install 'holdfast[tray]'`.
    """
    worker_id = chosen(None).worker_id if worker_id is None else worker_id
    from holdfast_worker.tray.place import NoDesktop

    try:
        from holdfast_worker.tray.app import open_tray

        icon = open_tray(worker_id)
        say(f"The worker {worker_id} is beside the clock; Ctrl-C ends the icon.")
        icon.run()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("holdfast"):
            raise
        stop(
            Exit.FAILED,
            f"`holdfast worker tray` needs libraries for icons ({error.name} is missing). Install them:"
            " pip install 'holdfast[tray]'",
        )
    except NoDesktop as error:
        stop(Exit.FAILED, f"There is no place for an icon here: {error}.")
