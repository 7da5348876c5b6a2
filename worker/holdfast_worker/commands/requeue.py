"""`holdfast requeue`: put stale jobs back, the way out of a drain that a dead worker blocks."""

import json
from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json, write_table

if TYPE_CHECKING:
    from holdfast_core.schemas import Job
    from holdfast_worker.client import Client

__all__ = ["requeue"]


@click.command()
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--stale", is_flag=True, help="All jobs whose lease has run out.")
@click.option("--reason", required=True, help="Why; the job's log keeps it.")
@server
@as_json
def requeue(
    job_id: str | None, stale: bool, reason: str, url: str | None, token: str | None, as_json: bool
) -> None:
    """Put stale jobs back to their place.

    One attempt is used. It works while paused too: it is the way out of a drain that a dead worker
    blocks. A job whose worker still heartbeats is refused (3); with --stale it is left alone.
    """
    if stale == (job_id is not None):
        raise click.UsageError("give either the ID of one job or --stale")
    with connected(url, token) as client:
        if job_id is not None:
            done = [client.requeue(job_id, reason)]
            body = client.last_answer
        else:
            done, body = _requeue_stale(client, reason)
        if as_json:
            write_json(body)
            return
        from holdfast_worker.terminal.views import JOB_COLUMNS, job_row

        if done:
            write_table(JOB_COLUMNS, [job_row(job) for job in done])
        else:
            say("No job is stale.")


def _requeue_stale(client: "Client", reason: str) -> tuple[list["Job"], bytes]:
    """Requeue what has expired; the answer is `{"items": […]}` of the server's own answers."""
    from holdfast_core.errors import Conflict

    done: list[Job] = []
    bodies: list[object] = []
    for job in _expired(client):
        try:
            done.append(client.requeue(job.id, reason))
        except Conflict as error:
            say(f"Left alone: {job.id}: {error}")
        else:
            bodies.append(json.loads(client.last_answer))
    return done, json.dumps({"items": bodies}).encode()


def _expired(client: "Client") -> list["Job"]:
    # By the server's clock, as the snapshot tells it: this host's may be off. It lags by up to two
    # seconds, so what expired in this very moment is left for the next time.
    now = client.status().metrics.measured_at
    found: list[Job] = []
    cursor: str | None = None
    while True:
        page = client.jobs(status="running", limit=200, cursor=cursor)
        found += [job for job in page.items if job.lease_expires_at and job.lease_expires_at < now]
        cursor = page.next_cursor
        if cursor is None:
            return found
