"""`holdfast retry`: run finished jobs again."""

import json
import sys
from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table
from holdfast_worker.terminal.text import escaped

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
@click.option("--yes", is_flag=True, help="With --status: do not ask first, as on a terminal it does.")
@server
@as_json
def retry(
    job_ids: tuple[str, ...],
    status: str | None,
    job_type: str | None,
    reason: str | None,
    yes: bool,
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
    if yes and status is None:
        raise click.UsageError("--yes belongs to --status")
    with connected(url, token) as client:
        if status is not None:
            if reason is None:
                raise click.UsageError("--status needs a --reason")
            if not yes and sys.stdin.isatty():
                _ask(status, job_type)
            _retry_all(client, status, reason, job_type, as_json)
        else:
            _retry_each(client, job_ids, reason, as_json)


def _ask(status: str, job_type: str | None) -> None:
    of_type = "" if job_type is None else f" of type {escaped(job_type)}"
    click.confirm(f"Run all jobs{of_type} again that ended in {status}?", abort=True, err=True)


def _retry_all(client: "Client", status: str, reason: str, job_type: str | None, as_json: bool) -> None:
    """The server takes some thousands a call. How far it came is told, also where a later call fails."""
    count = 0
    more = True
    while more:
        try:
            answer = client.retry_all(status, reason, job_type=job_type)
        except BaseException:
            if count:
                say(f"Queued {count} jobs again before this; ask once more for the others.")
            raise
        count += answer.retried
        more = answer.more
        if more:
            say(f"{count} so far.")
    if as_json:
        write_json(json.dumps({"retried": count}).encode())
    else:
        say(f"Queued {count} {'job' if count == 1 else 'jobs'} again.")


def _retry_each(client: "Client", job_ids: tuple[str, ...], reason: str | None, as_json: bool) -> None:
    done: list[Job] = []
    bodies: list[object] = []
    try:
        for job_id in job_ids:
            done.append(client.retry(job_id, reason))
            bodies.append(json.loads(client.last_answer))
    finally:  # what was done is told, also where the next one is refused
        if as_json and done:
            write_json(json.dumps({"items": bodies}).encode())
        elif done:
            from holdfast_worker.terminal.views import JOB_COLUMNS, job_row

            write_table(JOB_COLUMNS, [job_row(job) for job in done])
