"""`holdfast status`: the pause, and how far the drain is."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import write_facts, write_json

__all__ = ["status"]


@click.command()
@server
@as_json
def status(url: str | None, token: str | None, as_json: bool) -> None:
    """Show whether workers are paused, and what still runs."""
    with connected(url, token) as client:
        snapshot = client.status()
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import snapshot_facts

        write_facts(snapshot_facts(snapshot))
