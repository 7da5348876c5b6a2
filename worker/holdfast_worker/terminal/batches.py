"""Enqueueing a file of jobs, some at a time."""

import json
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Final, cast

import click

from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.text import escaped

if TYPE_CHECKING:
    from holdfast_worker.client import Client

__all__ = ["enqueue_lines"]

#: What the server takes in one batch, with room for what stands around the jobs.
MAX_JOBS: Final = 1_000
MAX_BYTES: Final = 8 * 1_048_576 - 4_096

Line = tuple[int, dict[str, Any]]


def enqueue_lines(client: "Client", file: IO[bytes], *, as_json: bool) -> None:
    """Add the jobs of a file, one JSON object a line, batch by batch. Tells how far it came, also where it fails."""
    done = 0
    last = 0
    try:
        for batch in _batches(file):
            answer = client.enqueue_batch([job for _, job in batch])
            done += len(answer.items)
            last = batch[-1][0]
            for job in answer.items:
                click.echo(job.model_dump_json() if as_json else escaped(job.id))
            say(f"{done} enqueued.")
    except BaseException:
        if last:
            say(f"The lines up to {last} were enqueued, those behind it were not.")
        raise
    if done == 0:
        say("There was nothing to enqueue.")


def _batches(file: IO[bytes]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        job = _read(number, line)
        # As it will be sent: written with escapes, it may be longer than it came.
        length = len(json.dumps(job)) + 1
        if batch and (len(batch) == MAX_JOBS or size + length > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((number, job))
        size += length
    if batch:
        yield batch


def _read(number: int, line: bytes) -> dict[str, Any]:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"line {number} is not JSON: {error}", param_hint="--batch") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f'line {number} is no object like {{"type": "t"}}', param_hint="--batch")
    return cast("dict[str, Any]", value)
