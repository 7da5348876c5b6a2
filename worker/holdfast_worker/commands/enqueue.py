"""`holdfast enqueue`: put one job into the queue."""

import sys
from pathlib import Path
from typing import IO, Any

import click

from holdfast_worker.terminal.batches import enqueue_lines
from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_json
from holdfast_worker.terminal.payload import read_object
from holdfast_worker.terminal.text import escaped

__all__ = ["enqueue"]


@click.command()
@click.option("--type", "job_type", help="What kind of job it is; workers choose by it.")
@click.option(
    "--payload", metavar="JSON|@FILE|-", help="A JSON object: as it stands, from a file, or (-) from stdin."
)
@click.option("--priority", type=int, help="-1000 to 1000, highest first; by default 0.")
@click.option("--max-attempts", type=int, help="1 to 100; by default 3.")
@click.option("--requires", "capabilities", multiple=True, metavar="CAPABILITY", help="May be repeated.")
@click.option("--run-at", metavar="TIME", help="Not before this time, like 2026-02-20T01:55:00Z.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="A repeat with the same key answers the first job, while it exists.",
)
@click.option(
    "--batch",
    metavar="FILE|-",
    type=click.File("rb"),
    help="Many jobs instead, one JSON object a line, as the API takes them.",
)
@server
@as_json
def enqueue(
    job_type: str | None,
    payload: str | None,
    priority: int | None,
    max_attempts: int | None,
    capabilities: tuple[str, ...],
    run_at: str | None,
    idempotency_key: str | None,
    batch: IO[bytes] | None,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Put a job, or many, into the queue, also while paused. Ids go to stdout.

    With --batch, up to 1,000 jobs at a time are added all or none. Where a line has an idempotencyKey, the whole
    file may be sent again after a failure: what is there already is not added twice.
    """
    if batch is not None:
        single = (job_type, payload, priority, max_attempts, run_at, idempotency_key, *capabilities)
        if any(value is not None for value in single):
            raise click.UsageError("with --batch everything stands in the file")
        with connected(url, token) as client:
            enqueue_lines(client, batch, as_json=as_json)
        return
    if job_type is None:
        raise click.UsageError("--type is missing (or --batch, for many)")
    content = None if payload is None else _read_object(payload)
    with connected(url, token) as client:
        job = client.enqueue(
            job_type,
            content,
            priority=priority,
            max_attempts=max_attempts,
            required_capabilities=capabilities,
            run_at=run_at,
            idempotency_key=idempotency_key,
        )
        say(f"Enqueued a job of type {job.type}.")
        if as_json:
            write_json(client.last_answer)
        else:
            click.echo(escaped(job.id))


def _read_object(source: str) -> dict[str, Any]:
    """The payload, or a usage error that says what is wrong with it."""
    text = source
    if source == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    elif source.startswith("@"):
        try:
            text = Path(source[1:]).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise click.BadParameter(
                f"{source[1:]!r} cannot be read: {error}", param_hint="--payload"
            ) from None
    try:
        return read_object(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--payload") from None
