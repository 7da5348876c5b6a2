"""One worker of the demo: claims over REST, compiles a file, says what came of it.

    python -m holdfast_worker.demo.worker --url URL --worker-id ID

Each thing that happens is one line of JSON on stdout. It ends in order, giving back nothing half done,
at SIGTERM or when its stdin closes. The full runtime with checkpoints is `holdfast worker run`; this is
the smallest loop that obeys the pause.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any, Final

from holdfast_core.errors import Conflict, HoldfastError, Unavailable
from holdfast_core.schemas import Job, System
from holdfast_worker.client import Client
from holdfast_worker.demo import JOB_TYPE, LEASE_SECONDS, POLL_INTERVAL_SECONDS

__all__ = ["examine"]

#: How long one claim waits for work. A worker that is told to end answers within this time.
_CLAIM_WAIT_SECONDS: Final = 1.0
#: A second apart; after that the server is taken for gone.
_HAND_IN_ATTEMPTS: Final = 5


def examine(root: Path, name: str) -> dict[str, Any]:
    """Hash one file and compile it. A file that does not compile is a result, not a failure. Raises OSError."""
    source = (root / name).read_bytes()
    result: dict[str, Any] = {
        "path": name,
        "sha256": hashlib.sha256(source).hexdigest(),
        "bytes": len(source),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return result | {"compiled": False, "error": f"{type(error).__name__}: {error}"[:500]}
    return result | {"compiled": True, "codeObjects": _count(code)}


def _count(code: CodeType) -> int:
    return 1 + sum(_count(inner) for inner in code.co_consts if isinstance(inner, CodeType))


class _Worker:
    def __init__(self, url: str, worker_id: str, stop: threading.Event) -> None:
        self._client = Client(url, token="")
        self._url = url
        self._id = worker_id
        self._stop = stop
        self._version: int | None = None
        self._paused = False

    def run(self) -> None:
        with self._client:
            while not self._stop.is_set():
                try:
                    answer = self._client.claim(
                        self._id,
                        LEASE_SECONDS,
                        allowed_types=[JOB_TYPE],
                        wait_seconds=_CLAIM_WAIT_SECONDS,
                        observed_version=self._version,
                    )
                except Unavailable as error:
                    self._tell("unavailable", detail=str(error))
                    self._stop.wait(1.0)
                    continue
                self._learn(answer.system)
                if answer.job is not None:
                    self._work(answer.job)
                elif answer.system.workers_paused:
                    self._tell("refused", version=answer.system.version)
                    self._stop.wait(POLL_INTERVAL_SECONDS)

    def _learn(self, system: System) -> None:
        """One line for each version of the pause, and one when it clears."""
        if system.version == self._version:
            return
        self._version = system.version
        if system.workers_paused:
            self._tell("paused", version=system.version, mode=system.mode, reason=system.reason)
        elif self._paused:
            self._tell("resumed", version=system.version)
        self._paused = system.workers_paused

    def _work(self, job: Job) -> None:
        started = time.monotonic()
        payload = job.payload or {}
        token = job.lease_token or ""
        try:
            with self._heartbeats(job.id, token):
                result = examine(Path(str(payload["root"])), str(payload["path"]))
                # The pace makes the drain long enough to be watched; the work itself takes milliseconds.
                pace = min(float(payload.get("paceSeconds", 0.0)), 60.0)
                self._stop.wait(max(0.0, started + pace - time.monotonic()))
            summary = json.dumps(result)
            self._hand_in(lambda: self._client.complete(job.id, self._id, summary, lease_token=token))
            self._tell("completed", jobId=str(job.id), sha256=result["sha256"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            message = f"{type(error).__name__}: {error}"
            self._hand_in(lambda: self._client.fail(job.id, self._id, message, lease_token=token))
            self._tell("failed", jobId=str(job.id), detail=message)
        except Conflict as error:
            self._tell("lost", jobId=str(job.id), detail=str(error))

    def _hand_in(self, outcome: Callable[[], Job]) -> None:
        """Say it until it is answered: an outcome may be repeated by the claim that made it."""
        for _ in range(_HAND_IN_ATTEMPTS - 1):
            try:
                outcome()
            except Unavailable as error:
                self._tell("unavailable", detail=str(error))
                time.sleep(1.0)
            else:
                return
        outcome()

    @contextmanager
    def _heartbeats(self, job_id: Any, token: str) -> Generator[None]:
        """Keep the lease of a job that takes long, from a thread with a client of its own."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(LEASE_SECONDS / 3):
                try:
                    with Client(self._url, token="") as client:
                        client.heartbeat(job_id, self._id, LEASE_SECONDS, lease_token=token)
                except HoldfastError as error:
                    self._tell("heartbeat_failed", jobId=str(job_id), detail=str(error))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=5)

    def _tell(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "worker": self._id, **fields})
        # One write, so that lines of two threads do not mix.
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--worker-id", required=True)
    options = parser.parse_args()
    stop = threading.Event()

    def told_to_end(*_: object) -> None:
        stop.set()

    def watch_stdin() -> None:
        while os.read(0, 4096):
            pass
        stop.set()

    signal.signal(signal.SIGTERM, told_to_end)
    threading.Thread(target=watch_stdin, daemon=True).start()
    try:
        _Worker(options.url, options.worker_id, stop).run()
    except BrokenPipeError:
        # Whoever listened is gone. What is left in the buffer must not fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    _main()
