"""What the tests of the command line share: running it, and putting a server into states."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol
from uuid import UUID

from holdfast_core.schemas import Job
from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.reaper import reaper

__all__ = ["PATIENCE_SECONDS", "Bench", "Cli", "Result", "Running", "StandIn"]

#: No verb of these tests takes longer by itself; what hangs fails here.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Result:
    """How a verb ended, and what it wrote where."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Running:
    """A verb that still runs; its stderr is read line by line as it comes, its stdout once `wrote` is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._written: list[str] = []
        self._more = threading.Condition()
        assert process.stderr is not None
        self._readers = [self._reading(process.stderr, self._lines)]

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self, text: str) -> str:
        """Wait until a line on stderr holds `text`, and return that line."""
        return self._holds(text, self._lines)

    def wrote(self, text: str) -> str:
        """Wait until a line on stdout holds `text`, and return that line."""
        if len(self._readers) == 1:
            assert self._process.stdout is not None
            self._readers.append(self._reading(self._process.stdout, self._written))
        return self._holds(text, self._written)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> Result:
        """Wait for its end. May be called again, and then has no more to read."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        watchdog.start()
        out = ""
        try:
            if len(self._readers) == 1 and not self._process.stdout.closed:
                with self._process.stdout as stdout:
                    out = stdout.read()
            code = self._process.wait()
            for reader in self._readers:
                reader.join()
        finally:
            watchdog.cancel()
        return Result(code, out + "".join(self._written), "".join(self._lines))

    def hang_up(self) -> None:
        """Close the pipe that its stdout goes to."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.ended()
        reaper().forget(self._process.pid)

    def _holds(self, text: str, lines: list[str]) -> str:
        with self._more:
            self._more.wait_for(lambda: any(text in line for line in lines), PATIENCE_SECONDS)
            found = [line for line in lines if text in line]
            assert found, f"{text!r} has not come: {lines}"
            return found[0]

    def _reading(self, stream: IO[str], lines: list[str]) -> threading.Thread:
        reader = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
        reader.start()
        return reader

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._more:
                    lines.append(line)
                    self._more.notify_all()


@dataclass
class Cli:
    """Runs `holdfast …` against one server."""

    url: str
    started: list[Running] = field(default_factory=list)

    def __call__(self, *arguments: str, stdin: str | bytes = b"", **environment: str) -> Result:
        """Run to the end, everything through pipes."""
        done = subprocess.run(
            self._command(arguments),
            check=False,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            env=self._environment(environment),
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str, **environment: str) -> Running:
        """Start, and go on beside it."""
        process = subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(environment),
        )
        reaper().watch_process(process.pid)
        self.started.append(Running(process))
        return self.started[-1]

    def on_terminal(self, *arguments: str, columns: int = 120, typed: str = "", **environment: str) -> Result:
        """Run to the end on a terminal at which `typed` was typed; `out` holds what it got, of both streams."""
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                self._command(arguments),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=self._environment({"TERM": "xterm-256color", "COLUMNS": str(columns), **environment}),
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
        watchdog.start()
        shown = b""
        try:
            os.write(ours, typed.encode())
            while True:
                try:
                    part = os.read(ours, 65_536)
                except OSError:  # Linux: the other end is closed
                    break
                if not part:
                    break
                shown += part
            code = process.wait()
        finally:
            watchdog.cancel()
            os.close(ours)
        return Result(code, shown.decode(), "")

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "holdfast_worker.cli", *arguments]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
        return plain | {"HOLDFAST_URL": self.url} | more


@dataclass
class Bench:
    """A server that is running and empty at the start of a test, and what puts it into states."""

    client: Client

    def enqueue(self, job_type: str = "test", count: int = 1, **payload: Any) -> list[Job]:
        return [self.client.enqueue(job_type, payload) for _ in range(count)]

    def run_job(self, *, lease_seconds: int = 600) -> Job:
        """A new job, held by the worker `holder`."""
        self.enqueue()
        job = self.client.claim("holder", lease_seconds).job
        assert job is not None
        return job

    def finish(self, job: Job) -> None:
        self.client.complete(job.id, "holder", lease_token=job.lease_token)

    def park(self, job: Job) -> None:
        self.client.heartbeat(job.id, "holder", 600, lease_token=job.lease_token, phase="parked")

    def stale_job(self) -> Job:
        """A job whose worker has died: its lease has run out."""
        job = self.run_job(lease_seconds=1)
        self.until(lambda: self.client.status().metrics.stale_running > 0)
        return job

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask again until it holds; bounded."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it has not come"
            threading.Event().wait(0.05)

    def status_of(self, job_id: UUID | str) -> JobStatus:
        return self.client.job(job_id).status

    def clear(self) -> None:
        """Running, nothing queued, nothing held."""
        for status in (JobStatus.QUEUED, JobStatus.RUNNING):
            for job in self.client.jobs(status=status, limit=200).items:
                self.client.cancel(job.id)
        for job in self.client.jobs(status=JobStatus.RUNNING, limit=200).items:
            self.client.cancel_ack(job.id, "holder")
        if self.client.status().system.workers_paused:
            self.client.resume("test over")


class Answering(Protocol):
    """Sets what the stand-in answers from now on."""

    def __call__(self, status: int, body: bytes, **headers: str) -> None: ...


class AnsweringAt(Protocol):
    """Sets what the stand-in answers from now on where the path holds this."""

    def __call__(self, part: str, status: int, body: bytes, **headers: str) -> None: ...


class AnsweringInTurn(Protocol):
    """Sets what the stand-in answers to the next requests, one after the other."""

    def __call__(self, *answers: tuple[int, bytes]) -> None: ...


@dataclass
class StandIn:
    """Something that speaks HTTP at `url` and is no Holdfast server. `seen` are the requests' headers and `:path`."""

    url: str
    answer: Answering
    answer_at: AnsweringAt
    answer_in_turn: AnsweringInTurn
    seen: list[dict[str, str]]
