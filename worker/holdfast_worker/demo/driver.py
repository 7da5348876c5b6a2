"""The course of the demo, from an empty folder to checked claims.

Its bound is progress, not a total: whatever takes longer than STALL_SECONDS without anything moving
ends the demo as failed.
"""

import queue
import signal
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast_core.errors import Conflict, HoldfastError
from holdfast_core.schemas import Job, Snapshot
from holdfast_core.states import TERMINAL
from holdfast_worker.client import Client
from holdfast_worker.demo import JOB_TYPE
from holdfast_worker.demo.checks import Check, Run, all_checks
from holdfast_worker.demo.child import Child, environment
from holdfast_worker.demo.files import Selection, payload_for
from holdfast_worker.demo.ledger import Ledger
from holdfast_worker.failures import ServerUnreachable
from holdfast_worker.terminal.drain import DrainView

__all__ = ["DemoFailed", "Plan", "Report", "running_demo"]

#: How long nothing may move. A dead worker's lease, its back-off and the grace are well within it.
STALL_SECONDS: Final = 60.0
#: How long the server may take to start, its migrations included.
START_SECONDS: Final = 90.0
#: How long the pause is held after the drain, to see that nothing moves.
PROOF_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.2
_READY: Final = "Holdfast is ready at "
_PAUSE_REASON: Final = "Demo: an upgrade"
_RESUME_REASON: Final = "Demo: the upgrade is done"


class DemoFailed(Exception):
    """The demo could not go on; the text says where and why."""


@dataclass(frozen=True)
class Plan:
    """What to do, and whom to tell."""

    selection: Selection
    workers: int
    pace_seconds: float
    say: Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What came of it."""

    run: Run
    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)


@contextmanager
def running_demo(plan: Plan) -> Generator["Demo"]:
    """A demo whose server runs inside of the `with`. Processes and files are gone when it is left.

    SIGTERM and SIGHUP are taken as Ctrl-C; at the clean-up all three are ignored, which takes seconds at most.
    """
    known = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    # What is ignored already stays so: `nohup` means it.
    ends = [end for end in known if end is not None and signal.getsignal(end) != signal.SIG_IGN]
    before = {end: signal.signal(end, _interrupt) for end in ends}
    try:
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="holdfast-demo-", ignore_cleanup_errors=True)
                )
            )
            demo = Demo(plan, folder)
            stack.callback(demo.clean_up)
            stack.callback(_ignore, ends)
            demo.start_server()
            yield demo
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _ignore(ends: list[signal.Signals]) -> None:
    for end in ends:
        signal.signal(end, signal.SIG_IGN)


class Demo:
    """One run. Everything that it learns comes over REST, or from its own workers' stdout."""

    url = ""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._say = plan.say
        self._env = environment(folder / "holdfast.db")
        self._ledger = Ledger()
        self._server: Child | None = None
        self._workers: list[Child] = []
        self._died: dict[str, str] = {}
        self._requeued = 0
        self._started = time.monotonic()

    def start_server(self) -> None:
        """Start `holdfast serve` on a free port and an empty database, and wait until it is ready."""
        self._say("Starting a server of its own, on a fresh SQLite database in a temporary folder …")
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        arguments = ["holdfast_worker.demo.tether", "serve", "--port", "0"]
        self._server = Child("server", arguments, folder=self._folder, env=self._env, on_line=lines.put)
        deadline = time.monotonic() + START_SECONDS
        line = ""
        while not line:
            try:
                line = lines.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self._check_server()
                if time.monotonic() > deadline:
                    raise DemoFailed(f"The server was not ready within {START_SECONDS:g} s.") from None
        if not line.startswith(_READY):
            raise DemoFailed(f"The server said {line!r} instead of being ready.")
        self.url = line.removeprefix(_READY)
        self._say(
            f"It is ready at {self.url} (process {self._server.pid}); its dashboard is {self.url}/tasks"
        )

    def run(self) -> Report:
        """The whole course. Raises DemoFailed where it cannot go on."""
        try:
            with Client(self.url, token="") as client:
                run = self._course(client)
        except ServerUnreachable as error:
            self._check_server()
            raise DemoFailed(str(error)) from None
        except HoldfastError as error:
            raise DemoFailed(f"The server refused ({error.code}): {error.detail}") from None
        return Report(run, tuple(all_checks(run)), time.monotonic() - self._started)

    def stay(self) -> None:
        """Keep the server up until a signal. Raises DemoFailed should it end by itself."""
        while True:
            self._check_server()
            time.sleep(_TICK_SECONDS)

    def clean_up(self) -> None:
        """End the workers, then the server."""
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()
        if self._server is not None:
            self._server.end()

    # The course

    def _course(self, client: Client) -> Run:
        total = len(self._plan.selection.files)
        self._enqueue(client)
        self._start_workers()
        self._until_done(-(-total // 3))
        self._say(
            f"{self._ledger.completed.total()} of {total} done. Pausing in drain, in the middle of the work …"
        )
        paused = client.pause("drain", _PAUSE_REASON)
        self._say(f"Paused (version {paused.system.version}): no claim is handed out from here on.")
        queued = [self._queued(client)]
        drained = self._drain(client)
        queued.append(self._queued(client))
        self._say("Safe to upgrade.")
        queued.append(self._stand_still(client, paused.system.version))
        resumed = client.resume(_RESUME_REASON)
        if resumed.warning:
            self._say(f"Warning: {resumed.warning}")
        self._say(f"Resumed (version {resumed.system.version}). The workers go on …")
        jobs = self._until_all_ended(client)
        self._end_workers()
        events = client.history(limit=200).items
        return Run(
            selection=self._plan.selection,
            jobs=jobs,
            events=events,
            ledger=self._ledger,
            workers=[worker.name for worker in self._workers],
            died=list(self._died.values()),
            requeued=self._requeued,
            paused=paused,
            resumed=resumed,
            queued=queued,
            drained=drained,
        )

    def _enqueue(self, client: Client) -> None:
        selection = self._plan.selection
        self._say(
            f"Enqueueing {len(selection.files)} jobs: compile and hash one Python file each,"
            f" {len(selection.files)} of {selection.found} below {selection.root}"
        )
        for name in selection.files:
            client.enqueue(JOB_TYPE, payload_for(selection, name, self._plan.pace_seconds))

    def _start_workers(self) -> None:
        for number in range(1, self._plan.workers + 1):
            name = f"demo-{number}"
            arguments = ["holdfast_worker.demo.worker", "--url", self.url, "--worker-id", name]
            worker = Child(name, arguments, folder=self._folder, env=self._env, on_line=self._ledger.take)
            self._workers.append(worker)
            self._say(f"Worker {name} started (process {worker.pid})")

    def _until_done(self, count: int) -> None:
        for _ in self._ticks(lambda: self._ledger.completed.total() + len(self._ledger.failed)):
            if self._ledger.completed.total() + len(self._ledger.failed) >= count:
                return

    def _drain(self, client: Client) -> Snapshot:
        """Watch the running jobs end. Stale ones, of a worker that died, are put back as an operator would."""
        with DrainView("drained") as view:
            held = [0]
            answer: Snapshot = client.status()
            for _ in self._ticks(lambda: held[0], every=0.0):
                metrics = answer.metrics
                held[0] = metrics.running + metrics.stale_running
                # A count of before the pause would look as if the queue had moved.
                if metrics.measured_at >= answer.system.updated_at:
                    view.show(answer)
                if metrics.safe_to_upgrade:
                    return answer
                if metrics.stale_running and not metrics.running:
                    self._put_back_stale(client)
                answer = client.wait("drained", timeout_seconds=_TICK_SECONDS)
        raise AssertionError("the ticks end by raising")

    def _put_back_stale(self, client: Client) -> None:
        for job in self._jobs(client, status="running"):
            try:
                client.requeue(job.id, "Demo: its worker is gone")
            except Conflict:
                continue
            self._requeued += 1
            self._say(
                f"Job {job.id} was stale, its worker is gone: put back by hand, as `holdfast requeue` does."
            )

    def _stand_still(self, client: Client, version: int) -> tuple[str, ...]:
        """Hold the pause a little, while the workers keep asking."""
        before = self._ledger.refused(version)
        deadline = time.monotonic() + PROOF_SECONDS
        for _ in self._ticks(lambda: self._ledger.refused(version)):
            if time.monotonic() >= deadline and self._ledger.refused(version) > before:
                break
        queued = self._queued(client)
        refused = self._ledger.refused(version) - before
        self._say(
            f"For {PROOF_SECONDS:g} s workers asked {refused} times and got nothing; {len(queued)} jobs stay queued."
        )
        return queued

    def _until_all_ended(self, client: Client) -> list[Job]:
        total = len(self._plan.selection.files)
        seen = [0]
        for _ in self._ticks(lambda: seen[0]):
            metrics = client.status().metrics
            left = metrics.queued + metrics.scheduled + metrics.running + metrics.stale_running
            seen[0] = total - left
            # The backlog may have been counted a moment ago; the list is exact.
            if left == 0:
                jobs = self._jobs(client)
                if all(job.status in TERMINAL for job in jobs):
                    return jobs
        raise AssertionError("the ticks end by raising")

    def _end_workers(self) -> None:
        self._check_workers()
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()

    # What it asks for and watches

    def _queued(self, client: Client) -> tuple[str, ...]:
        return tuple(str(job.id) for job in self._jobs(client, status="queued"))

    def _jobs(self, client: Client, status: str | None = None) -> list[Job]:
        found: list[Job] = []
        cursor: str | None = None
        while True:
            page = client.jobs(status=status, job_type=JOB_TYPE, limit=200, cursor=cursor)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    def _ticks(self, measure: Callable[[], int], *, every: float = _TICK_SECONDS) -> Generator[None]:
        """Come back again and again while the measure changes at least once in STALL_SECONDS."""
        latest, since = measure(), time.monotonic()
        while True:
            yield
            self._check_server()
            self._check_workers()
            now = measure()
            if now != latest:
                latest, since = now, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise DemoFailed(f"Nothing has moved for {STALL_SECONDS:g} s.")
            time.sleep(every)

    def _check_server(self) -> None:
        server = self._server
        if server is not None and server.exit_code is not None:
            raise DemoFailed(
                f"The server ended by itself ({_how(server.exit_code)}). {server.last_words()}".rstrip()
            )

    def _check_workers(self) -> None:
        for worker in self._workers:
            code = worker.exit_code
            if code is not None and worker.name not in self._died:
                self._died[worker.name] = f"{worker.name} ended by itself ({_how(code)})"
                words = worker.last_words()
                self._say(f"Worker {self._died[worker.name]}. {words}".rstrip())
        if self._workers and len(self._died) == len(self._workers):
            raise DemoFailed(f"No worker is left: {'; '.join(self._died.values())}.")


def _how(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
