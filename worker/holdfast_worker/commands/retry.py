"""`holdfast retry`: run finished jobs again."""

import json
from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

if TYPE_CHECKING:
    from holdfast_core.schemas import Job
    from holdfast_worker.client import Client

__all__ = ["retry"]


@click.command()
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--status",
    type=click.Choice(["failed", "dead_letter", "cancelled"]),
    help="All jobs that ended so, instead of single ones.",
)
@click.option("--type", "job_type", help="With --status: only jobs of this type.")
@click.option("--reason", help="Why; the log keeps it. Required with --status.")
@server
@as_json
def retry(
    job_ids: tuple[str, ...],
    status: str | None,
    job_type: str | None,
    reason: str | None,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Run failed, dead-lettered or cancelled jobs again.

    Each goes back to its old place, from attempt 1, also while paused.
    """
    if bool(job_ids) == (status is not None):
        raise click.UsageError("give either the IDs of jobs or --status")
    if status is None and job_type is not None:
        raise click.UsageError("--type belongs to --status")
    with connected(url, token) as client:
        if status is not None:
            if reason is None:
                raise click.UsageError("--status needs a --reason")
            count = _retry_all(client, status, reason, job_type)
            if as_json:
                write_json(json.dumps({"retried": count}).encode())
            else:
                say(f"Queued {count} {'job' if count == 1 else 'jobs'} again.")
            return
        done: list[Job] = []
        bodies: list[object] = []
        try:
            for job_id in job_ids:
                done.append(client.retry(job_id, reason))
                bodies.append(json.loads(client.last_answer))
        finally:  # what was done is told, also where the next one is refused
            if as_json:
                write_json(json.dumps({"items": bodies}).encode())
            elif done:
                from holdfast_worker.terminal.views import JOB_COLUMNS, job_row

                write_table(JOB_COLUMNS, [job_row(job) for job in done])


def _retry_all(client: "Client", status: str, reason: str, job_type: str | None) -> int:
    """The server takes some thousands a call; between the calls it is told how far it came."""
    count = 0
    while True:
        answer = client.retry_all(status, reason, job_type=job_type)
        count += answer.retried
        if not answer.more:
            return count
        say(f"{count} so far.")
