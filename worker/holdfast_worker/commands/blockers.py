"""`holdfast blockers`: what keeps the system from drained."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

__all__ = ["blockers"]


@click.command()
@server
@as_json
def blockers(url: str | None, token: str | None, as_json: bool) -> None:
    """List what keeps the system from drained.

    Each running or stale job with its worker, a verdict (progressing, slow, parked, stale) and the way out.
    """
    with connected(url, token) as client:
        found = client.blockers()
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import BLOCKER_COLUMNS, blocker_row

        if not found.items:
            say("Nothing keeps the system from drained.")
            return
        write_table(BLOCKER_COLUMNS, [blocker_row(blocker) for blocker in found.items])
        if found.total > len(found.items):
            say(f"And {found.total - len(found.items)} more.")
