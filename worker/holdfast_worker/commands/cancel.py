"""`holdfast cancel`: stop one job."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

__all__ = ["cancel"]


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--reason", help="Why; the job keeps it.")
@server
@as_json
def cancel(job_id: str, reason: str | None, url: str | None, token: str | None, as_json: bool) -> None:
    """Cancel a job.

    At once if it is queued or stale; if it runs, its worker is asked to stop.
    """
    with connected(url, token) as client:
        job = client.cancel(job_id, reason)
        if job.status == "running":
            say("Asked: its worker learns of it by its next heartbeat, and may still finish it.")
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import JOB_COLUMNS, job_row

        write_table(JOB_COLUMNS, [job_row(job)])
