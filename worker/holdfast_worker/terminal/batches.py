"""Enqueueing a file of jobs, some at a time."""

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import click

from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.payload import as_sent, read_object
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
    progress = _Progress()
    with progress.told():
        for batch in _batches(file):
            with progress.sending(batch):
                client.enqueue_batch([job for _, job in batch])
            # As they came: they may hold fields that are newer than this client.
            for job in json.loads(client.last_answer)["items"]:
                click.echo(json.dumps(job) if as_json else escaped(job["id"]))
            say(f"{progress.count} enqueued.")
    if not progress.count:
        say("There was nothing to enqueue.")


class _Progress:
    """How far it came, by lines of the file."""

    def __init__(self) -> None:
        self.count = 0
        self._last = 0
        self._doubtful: tuple[int, int] | None = None

    @contextmanager
    def sending(self, batch: list[Line]) -> Generator[None]:
        """One batch is on its way. What the server says of `jobs[i]` is said of its line."""
        from holdfast_core.errors import HoldfastError, InvalidRequest

        self._doubtful = (batch[0][0], batch[-1][0])
        try:
            yield
        except InvalidRequest as error:
            self._doubtful = None
            raise type(error)(_by_lines(error.detail, batch), errors=error.errors) from error
        except HoldfastError as error:
            if _surely_not_done(error):
                self._doubtful = None
            raise
        self._doubtful = None
        self._last = batch[-1][0]
        self.count += len(batch)

    @contextmanager
    def told(self) -> Generator[None]:
        """Where it breaks off, by a failure or by Ctrl-C, the way to go on is told."""
        try:
            yield
        except BaseException:
            done = f"The lines up to {self._last} were enqueued" if self._last else "Nothing was enqueued"
            if self._doubtful is not None:
                first, last = self._doubtful
                say(
                    f"{done}; whether the lines {first} to {last} were is not known: all of them or none."
                    " Lines with an idempotencyKey may be sent again: what is there is not added twice."
                )
            elif self._last:
                say(f"{done}, those behind it were not. Go on with line {self._last + 1}.")
            else:
                say(f"{done}.")
            raise


def _surely_not_done(error: Exception) -> bool:
    """Whether the server refused the batch, or never saw it."""
    from holdfast_core.errors import HoldfastError
    from holdfast_worker.failures import ServerUnreachable

    match error:
        case ServerUnreachable():
            return not error.sent
        case HoldfastError():
            return error.status < 500
        case _:
            return False


def _by_lines(detail: str, batch: list[Line]) -> str:
    def line(found: re.Match[str]) -> str:
        index = int(found[1])
        return f"line {batch[index][0]}" if index < len(batch) else found[0]

    return re.sub(r"\bjobs\[([0-9]{1,4})\]", line, detail)


def _batches(file: IO[bytes]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), start=1):
        if not line.strip():
            continue
        job, length = _read(number, line)
        if batch and (len(batch) == MAX_JOBS or size + length > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((number, job))
        size += length
    if batch:
        yield batch


def _read(number: int, line: bytes) -> tuple[dict[str, Any], int]:
    """The job in a line, and its length as it will be sent, with what parts it from the next."""
    try:
        if len(line) > MAX_BYTES:
            raise ValueError(f"is longer than {MAX_BYTES:,} bytes")
        job = read_object(line)
    except ValueError as error:
        raise click.BadParameter(f"line {number} {error}", param_hint="--batch") from None
    return job, len(as_sent(job)) + 2
