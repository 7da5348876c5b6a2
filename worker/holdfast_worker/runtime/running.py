"""One job from its claim to its end: the handler, and the lease keeper beside it.

Four tasks: the handler; heartbeats, at a third of the lease; the guard, which stops the handler before the lease can be
somebody else's; and the sender of the log. Whatever the handler comes to is then said until the server has answered.
"""

import json
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import structlog
from anyio import (
    CancelScope,
    Event,
    create_task_group,
    fail_after,
    get_cancelled_exc_class,
    move_on_after,
    sleep,
)
from anyio.lowlevel import checkpoint

from holdfast_core.errors import Conflict, HoldfastError, NotAllowed, NotAuthenticated, NotFound
from holdfast_core.schemas import MAX_TEXT
from holdfast_core.schemas import Job as ClaimedJob
from holdfast_core.states import JobPhase
from holdfast_worker.runtime.backoff import Backoff
from holdfast_worker.runtime.errors import JobFailed
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.job import Job
from holdfast_worker.runtime.joblog import JobLog
from holdfast_worker.runtime.lease import Lease
from holdfast_worker.runtime.options import Options
from holdfast_worker.runtime.parking import FRESH_SECONDS, Parking
from holdfast_worker.runtime.status import CheckpointAnswer, CheckpointKind, JobAtWork
from holdfast_worker.runtime.transports.base import Held, Transport

__all__ = ["Handler", "JobRun", "Stop"]

log = structlog.get_logger(__name__)

Handler = Callable[[Job], Awaitable[object]]

HEARTBEATS_A_LEASE: Final = 3
#: A heartbeat comes up to this part earlier or later, so that a fleet does not beat as one.
JITTER: Final = 0.1
#: How long a checkpoint waits for a heartbeat to tell it of the pause, where the server does not push.
FRESHEN_SECONDS: Final = 2.0
#: How long the end of a job waits for its last log lines.
FLUSH_SECONDS: Final = 3.0


class Stop(StrEnum):
    """Why a handler is stopped before its end."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"
    LEASE_RUNS_OUT = "the lease runs out and the server does not answer"
    WORKER_STOPS = "the worker stops"


@dataclass(frozen=True)
class _Outcome:
    """What is to be said of a job; `say` None: nothing."""

    name: str
    say: Callable[[], Awaitable[None]] | None


class JobRun:
    """A job in this worker's hands."""

    def __init__(
        self,
        claimed: ClaimedJob,
        *,
        asked_at: float,
        worker_id: str,
        transport: Transport,
        hold: Hold,
        options: Options,
        surroundings: Mapping[str, str],
    ) -> None:
        self.claimed = claimed
        self.worker_id = worker_id
        self.transport = transport
        self.held = Held(claimed.id, claimed.lease_token or "")
        self.lease = Lease(options.lease_seconds, asked_at=asked_at)
        self.log = JobLog(transport, self.held)
        #: By it a child process of this job is known at the control port.
        self.token = secrets.token_urlsafe(24)
        self._hold = hold
        self._options = options
        self._surroundings = surroundings
        self._parking = Parking(hold, self.lease, self.log, options.checkpoints, self._freshen)
        self._progress: Mapping[str, Any] | None = None
        self._scope = CancelScope()
        self._stopped_by: Stop | None = None
        self._reporting = CancelScope()
        self._told = False
        self._started_at = datetime.now(UTC)
        self._log = log.bind(job_id=str(claimed.id))
        # Heartbeats that were wished for and that have been tried, so that a wish can wait for its own.
        self._wished = 0
        self._tried = 0
        self._wish = Event()
        self._beaten = Event()

    # What the handle and the control port use

    @property
    def parked(self) -> bool:
        """Whether it waits at a checkpoint."""
        return self._parking.parked

    async def checkpoint(self, label: str | None, kind: CheckpointKind | None) -> None:
        """Wait here while quiesced."""
        await checkpoint()  # whoever is to be stopped stops here at the latest
        await self._parking.checkpoint(label, kind)

    async def visit(
        self, label: str | None, kind: CheckpointKind | None, wait_seconds: float
    ) -> CheckpointAnswer:
        """The same for a child process, bounded; it comes back."""
        return await self._parking.visit(label, kind, wait_seconds)

    def say_progress(self, progress: Mapping[str, Any]) -> None:
        """Send it with the next heartbeat. Raises ValueError where it cannot be written as JSON."""
        json.dumps(dict(progress), allow_nan=False)
        self._progress = dict(progress)

    def environment(self) -> dict[str, str]:
        """For child processes."""
        return {
            **self._surroundings,
            "HOLDFAST_WORKER_ID": self.worker_id,
            "HOLDFAST_JOB_ID": str(self.claimed.id),
            "HOLDFAST_JOB_TYPE": self.claimed.type,
            "HOLDFAST_JOB_ATTEMPT": str(self.claimed.attempt),
            "HOLDFAST_JOB_TOKEN": self.token,
        }

    def at_work(self) -> JobAtWork:
        """What the control port shows of it."""
        return JobAtWork(
            id=self.claimed.id,
            type=self.claimed.type,
            attempt=self.claimed.attempt,
            phase=self._parking.phase,
            checkpoint=self._parking.label,
            started_at=self._started_at,
        )

    def stop(self, why: Stop) -> None:
        """Stop the handler. The first reason counts."""
        if self._stopped_by is None:
            self._stopped_by = why
            self._log.info("job_stopping", cause=why.value)
            self._scope.cancel(why.value)

    def give_up(self) -> None:
        """Do not wait for the server any longer to take the outcome."""
        self._reporting.cancel()

    # The course of it

    async def run(self, handler: Handler) -> None:
        """Run the handler to its end, and have the server know of it. Raises NotAuthenticated and NotAllowed only."""
        with structlog.contextvars.bound_contextvars(job_id=str(self.claimed.id)):
            self._log.info("job_started", type=self.claimed.type, attempt=self.claimed.attempt)
            async with create_task_group() as tasks:
                for task in (self._keep, self._guard, self._watch, self.log.run):
                    tasks.start_soon(task)
                outcome = await self._handle(handler)
                await self._report(outcome)
                tasks.cancel_scope.cancel()

    async def _handle(self, handler: Handler) -> _Outcome:
        result: object = None
        failure: Exception | SystemExit | None = None
        finished = False
        with self._scope:
            try:
                result = await handler(Job(self))
                finished = True
            except get_cancelled_exc_class():
                raise
            except (Exception, SystemExit) as error:
                failure = error
        stopped_by = self._stopped_by
        if stopped_by is Stop.LEASE_LOST:
            return _Outcome("lost", None)
        if finished:
            return self._completed(result)
        match stopped_by:
            case Stop.CANCELLED:
                return _Outcome("cancelled", lambda: self.transport.stopped(self.held, "stopped on request"))
            case Stop.LEASE_RUNS_OUT | Stop.WORKER_STOPS:
                return _Outcome("released", lambda: self.transport.release(self.held, stopped_by.value))
            case _:
                assert failure is not None
                return self._failed(failure)

    def _completed(self, result: object) -> _Outcome:
        try:
            summary = _summary_of(result)
        except (TypeError, ValueError) as error:
            return self._failed(JobFailed(f"The handler's result cannot be written as JSON: {error}"))
        return _Outcome("succeeded", lambda: self.transport.complete(self.held, summary))

    def _failed(self, failure: Exception | SystemExit) -> _Outcome:
        final = isinstance(failure, JobFailed)
        said = str(failure) if final else f"{type(failure).__name__}: {failure}"
        text = (said or type(failure).__name__)[:MAX_TEXT]
        self._log.warning("job_failed", error=text, retryable=not final, exc_info=not final and failure)
        return _Outcome("failed", lambda: self.transport.fail(self.held, text, retryable=not final))

    async def _report(self, outcome: _Outcome) -> None:
        """Say what came of it, until it is answered. The claim that has made an outcome may repeat it."""
        if outcome.say is None:
            self._log.warning("job_lost")
            return
        await self.log.flush(FLUSH_SECONDS)
        delays = Backoff()
        with self._reporting:
            while True:
                self._told = True
                try:
                    await outcome.say()
                except (NotAuthenticated, NotAllowed):
                    raise
                except (Conflict, NotFound) as error:
                    self._log.warning(
                        "outcome_refused", outcome=outcome.name, code=error.code, detail=error.detail
                    )
                    return
                except HoldfastError as error:
                    delay = delays.next()
                    self._log.warning(
                        "outcome_not_taken", outcome=outcome.name, detail=error.detail, again_in=delay
                    )
                    await sleep(delay)
                else:
                    self._log.info("job_ended", outcome=outcome.name)
                    return
        self._log.warning("outcome_not_delivered", outcome=outcome.name)

    # The lease

    async def _keep(self) -> None:
        """Heartbeats, until the claim is over."""
        delays = Backoff(most=self.lease.seconds / HEARTBEATS_A_LEASE)
        failed = False
        while True:
            pause = delays.next() if failed else self._until_next_beat()
            with move_on_after(pause):
                await self._wish.wait()
            self._wish = Event()
            try:
                await self._beat()
            except (Conflict, NotFound) as error:
                if self._told:
                    return  # the outcome came first
                self._log.warning("lease_lost", code=error.code, detail=error.detail)
                self.stop(Stop.LEASE_LOST)
                return
            except (NotAuthenticated, NotAllowed):
                raise
            except (HoldfastError, TimeoutError) as error:
                if not failed:
                    self._log.warning("heartbeat_failed", detail=str(error) or "no answer in time")
                failed = True
            else:
                if failed:
                    self._log.info("heartbeat_answered_again")
                    delays.reset()
                failed = False

    def _until_next_beat(self) -> float:
        since = time.monotonic() - (self.lease.until - self.lease.seconds)
        every = self.lease.seconds / HEARTBEATS_A_LEASE
        if self.parked and not self.transport.pushes:
            every = min(every, self._options.pause_poll_seconds)  # so a resume is heard of within that time
        return max(0.0, every * random.uniform(1 - JITTER, 1 + JITTER) - since)  # noqa: S311 (no secret)

    async def _beat(self) -> None:
        serving = self._wished
        progress, self._progress = self._progress, None
        asked_at = time.monotonic()
        try:
            with fail_after(max(1.0, self.lease.seconds / HEARTBEATS_A_LEASE)):
                beat = await self.transport.heartbeat(
                    self.held, phase=self._parking.phase, checkpoint=self._parking.label, progress=progress
                )
        except BaseException:
            if self._progress is None:  # nothing newer meanwhile
                self._progress = progress
            raise
        finally:
            self._tried = serving
            beaten, self._beaten = self._beaten, Event()
            beaten.set()
        self.lease.renewed(asked_at=asked_at)
        self._parking.renewed()
        if beat.cancel_requested:
            self.stop(Stop.CANCELLED)

    async def _freshen(self) -> None:
        """Ask the server how things stand, unless that is known well enough."""
        if (self.transport.pushes and self._hold.system) or self._hold.age_seconds < FRESH_SECONDS:
            return
        mine = self._ask_for_beat()
        with move_on_after(FRESHEN_SECONDS):
            while self._tried < mine:
                await self._beaten.wait()

    def _ask_for_beat(self) -> int:
        self._wished += 1
        self._wish.set()
        return self._wished

    async def _guard(self) -> None:
        """Stop the handler in time where nothing renews the lease. A parked job does nothing, and may stay."""
        while True:
            moved = self._parking.moved
            if self.parked:
                await moved.wait()
                continue
            left = self.lease.deadline - time.monotonic()
            if left <= 0:
                self._log.error("lease_runs_out", lease_seconds=self.lease.seconds)
                self.stop(Stop.LEASE_RUNS_OUT)
                return
            with move_on_after(left):
                await moved.wait()

    # What changes around it

    async def _watch(self) -> None:
        """Tell the server at once of a new phase, and operators of a checkpoint that does not come."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._tell_changes)
            tasks.start_soon(self._warn_when_late)
            while True:  # a child process that does not come back to its checkpoint
                moved, left = self._parking.moved, self._parking.seat_ends_in()
                if left is None:
                    with move_on_after(FRESHEN_SECONDS):
                        await moved.wait()
                else:
                    await sleep(left)
                    self._parking.clear_seat()

    async def _tell_changes(self) -> None:
        told = (self._parking.phase, self._hold.version)
        async with create_task_group() as tasks:
            changed = Event()

            async def on_hold() -> None:
                revision = self._hold.revision
                while True:
                    revision = await self._hold.changed(revision)
                    changed.set()

            async def on_parking() -> None:
                while True:
                    await self._parking.moved.wait()
                    changed.set()

            tasks.start_soon(on_hold)
            tasks.start_soon(on_parking)
            while True:
                await changed.wait()
                changed = Event()
                now = (self._parking.phase, self._hold.version)
                if now != told:
                    told = now
                    for listener in self.lease.listeners:
                        listener(self.lease.deadline)
                    self._ask_for_beat()

    async def _warn_when_late(self) -> None:
        revision = self._hold.revision
        warned: int | None = None
        while True:
            if self._on_the_way() and warned != self._hold.version:
                with move_on_after(self._options.checkpoint_timeout_seconds) as patience:
                    while self._on_the_way():
                        await self._parking.moved.wait()
                if patience.cancelled_caught and self._on_the_way():
                    warned = self._hold.version
                    self._log.warning(
                        "checkpoint_late",
                        pause_version=self._hold.version,
                        timeout_seconds=self._options.checkpoint_timeout_seconds,
                        advice="the job has reached no checkpoint since the quiesce; it goes on working",
                    )
            revision = await self._hold.changed(revision)

    def _on_the_way(self) -> bool:
        return self._parking.phase is JobPhase.PARKING


def _summary_of(result: object) -> str | None:
    if result is None:
        return None
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, allow_nan=False)
    return text[:MAX_TEXT]
