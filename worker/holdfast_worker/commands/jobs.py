"""`holdfast jobs`: list jobs."""

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

__all__ = ["jobs"]


@click.command()
@click.option(
    "--status",
    type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled", "dead_letter"]),
    help="Only jobs that stand so; running includes stale ones.",
)
@click.option("--type", "job_type", help="Only jobs of this type.")
@click.option("--claimed-by", metavar="WORKER", help="Only jobs of this worker.")
@click.option("--q", metavar="TEXT", help="Part of the type, the id or the worker.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="How many jobs.")
@server
@as_json
def jobs(
    status: str | None,
    job_type: str | None,
    claimed_by: str | None,
    q: str | None,
    limit: int,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    with connected(url, token) as client:
        page = client.jobs(status=status, job_type=job_type, claimed_by=claimed_by, q=q, limit=limit)
        if as_json:
            write_json(client.last_answer)
            return
        from holdfast_worker.terminal.views import JOB_COLUMNS, job_row

        if page.items:
            write_table(JOB_COLUMNS, [job_row(job) for job in page.items])
        else:
            say("No such jobs.")
        if page.next_cursor is not None:
            say(f"There are older ones; narrow the list, or raise --limit above {limit}.")
