"""`holdfast workers`: the fleet."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

__all__ = ["workers"]


@click.command()
@server
@as_json
def workers(url: str | None, token: str | None, as_json: bool) -> None:
    """List the workers.

    What each does, and which version of the pause it has seen.
    """
    with connected(url, token) as client:
        version = 0 if as_json else client.status().system.version
        found = client.workers()
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import WORKER_COLUMNS, worker_row

        if found.items:
            write_table(WORKER_COLUMNS, [worker_row(worker, version) for worker in found.items])
            say(f"The pause is at version {version}.")
        else:
            say("No worker has been heard of yet.")
