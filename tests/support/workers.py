"""Real `holdfast worker run` processes, and a ledger of what their handlers do.

The handlers are in support/handlers.py. Whatever they do they write into a file as it happens, with this host's
monotonic clock, so that a test can tell what was done twice, or in a moment in which nothing was to be done.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from support.reaper import reaper

__all__ = ["PATIENCE_SECONDS", "Ledger", "Line", "WorkerProcess", "start_worker", "start_workers", "until"]

#: The longest that a test waits for one thing to happen.
PATIENCE_SECONDS: Final = 60.0 + float(os.environ.get("HOLDFAST_TEST_LEASE_SECONDS", "0"))
SECONDS_TO_STOP: Final = 20.0
LINES_SHOWN: Final = 40
HERE: Final = Path(__file__).parent


def until(condition: Callable[[], Any], what: str = "it", seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask again until the condition holds, and return what it said; bounded."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} has not come within {seconds:g} s"
        time.sleep(0.02)
    return found


class WorkerProcess:
    """One worker. Ends with the block, by force unless it has ended by itself."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], cwd: Path) -> None:
        self._arguments = arguments
        self._environment = environment
        self._cwd = cwd
        self._log: IO[bytes]
        self.process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """Its stderr so far."""
        return os.pread(self._log.fileno(), 1 << 26, 0).decode(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return [
            json.loads(line) for line in self.text.splitlines() if line.startswith("{") and line.endswith("}")
        ]

    def said(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for such a line of its log."""

        def look() -> dict[str, Any] | None:
            return next((e for e in self.events if e["event"] == event and fields.items() <= e.items()), None)

        found: dict[str, Any] = until(look, f"the worker's line {event!r}")
        return found

    def count(self, event: str) -> int:
        return sum(line["event"] == event for line in self.events)

    def send(self, sign: signal.Signals) -> None:
        self.process.send_signal(sign)

    def ended(self, seconds: float = SECONDS_TO_STOP) -> int:
        """Wait for its end; its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker has not ended within {seconds:g} s") from None

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS_TO_STOP)

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("wb+", prefix="holdfast-worker-")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "holdfast_worker.cli", "worker", "run", *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self._cwd,
            env=os.environ | self._environment,
            start_new_session=True,
        )
        reaper().watch_process(self.process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS_TO_STOP)
        reaper().forget(self.process.pid)
        if error is not None:
            lines = self.text.splitlines()[-LINES_SHOWN:]
            error.add_note("\n".join([f"--- the worker {self._arguments} wrote:", *lines, "---"]))
        self._log.close()


def start_worker(
    url: str, worker_id: str, folder: Path, *options: str, handler: str = "steps", **environment: str
) -> WorkerProcess:
    """A worker with a handler of support/handlers.py, unless `options` say --exec. `folder`: for its control files."""
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    chosen = [] if "--exec" in options else ["--handler", f"handlers:{handler}"]
    return WorkerProcess(
        ["--url", url, "--worker-id", worker_id, "--log-format", "json", *chosen, *options],
        {"XDG_RUNTIME_DIR": str(runtime), **environment},
        HERE,
    )


@contextmanager
def start_workers(
    url: str, names: Sequence[str], folder: Path, *options: str, **environment: str
) -> Generator[dict[str, WorkerProcess]]:
    """Several, all of them at work when the block begins."""
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(start_worker(url, name, folder, *options, **environment))
            for name in names
        }
        for worker in workers.values():
            worker.said("worker_started")
        yield workers


@dataclass(frozen=True)
class Line:
    """One thing that a handler did. `at`: time.monotonic() of this host."""

    job: str
    attempt: int
    worker: str
    what: str
    step: int
    at: float


class Ledger:
    """The file that the handlers write into; its path goes into the payload."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def payload(self, **more: Any) -> dict[str, Any]:
        return {"ledger": str(self.path), **more}

    def lines(self, what: str | None = None, job: object = None) -> list[Line]:
        """What was done so far, in the order of the file."""
        whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [Line(**json.loads(line)) for line in whole]
        return [
            line
            for line in found
            if (what is None or line.what == what) and (job is None or line.job == str(job))
        ]
