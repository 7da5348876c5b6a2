"""`holdfast job`: one job."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import write_facts, write_json

__all__ = ["job"]


@click.command()
@click.argument("job_id", metavar="ID")
@server
@as_json
def job(job_id: str, url: str | None, token: str | None, as_json: bool) -> None:
    """Show one job."""
    with connected(url, token) as client:
        found = client.job(job_id)
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import job_facts

        write_facts(job_facts(found))
