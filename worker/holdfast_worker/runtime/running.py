"""One job from its claim to its end: the handler, and what goes on beside it.

Beside the handler run the heartbeats, the guard that stops it before its lease can be somebody else's, the sender of
its log, and what tells of a new phase. Whatever it comes to is then said until the server has answered.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from anyio import CancelScope, Event, create_task_group, move_on_after, sleep
from anyio.lowlevel import checkpoint

from holdfast_core.schemas import Job as ClaimedJob
from holdfast_core.states import JobPhase
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.job import Job
from holdfast_worker.runtime.joblog import JobLog
from holdfast_worker.runtime.keeper import LeaseKeeper
from holdfast_worker.runtime.lease import Lease
from holdfast_worker.runtime.options import Options
from holdfast_worker.runtime.outcome import Outcome, deliver, failed, finished, stopped
from holdfast_worker.runtime.parking import Parking
from holdfast_worker.runtime.status import CheckpointAnswer, CheckpointKind, JobAtWork
from holdfast_worker.runtime.stopping import Stop
from holdfast_worker.runtime.transports.base import Held, Transport

__all__ = ["Handler", "JobRun"]

log = structlog.get_logger(__name__)

Handler = Callable[[Job], Awaitable[object]]

#: How long the end of a job waits for its last log lines.
FLUSH_SECONDS: Final = 3.0


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
        self._keeper = LeaseKeeper(
            self.held, self.lease, transport, hold, poll_seconds=options.pause_poll_seconds, stop=self.stop
        )
        self._parking = Parking(hold, self.lease, self.log, options.checkpoints, self._keeper.freshen)
        self._scope = CancelScope()
        self._stopped_by: Stop | None = None
        self._reporting = CancelScope()
        self._started_at = datetime.now(UTC)

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
        """Send it with the next heartbeat. Raises TypeError or ValueError where it cannot be written as JSON."""
        json.dumps(dict(progress), allow_nan=False)
        self._keeper.say_progress(dict(progress))

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
            log.info("job_stopping", job_id=str(self.claimed.id), cause=why.value)
            self._scope.cancel(why.value)

    def give_up(self) -> None:
        """Do not wait for the server any longer to take the outcome."""
        self._reporting.cancel()

    # The course of it

    async def run(self, handler: Handler) -> None:
        """Run the handler to its end, and have the server know of it. Raises NotAuthenticated and NotAllowed only."""
        with structlog.contextvars.bound_contextvars(job_id=str(self.claimed.id)):
            log.info("job_started", type=self.claimed.type, attempt=self.claimed.attempt)
            async with create_task_group() as tasks:
                tasks.start_soon(self._keeper.beat, self._parking)
                for task in (self.log.run, self._tell_changes, self._warn_when_late, self._clear_seats):
                    tasks.start_soon(task)
                await self._keeper.ask_first()
                tasks.start_soon(self._keeper.guard, self._parking)
                outcome = await self._handle(handler)
                await self.log.flush(FLUSH_SECONDS)
                self._keeper.ending = True
                await deliver(outcome, self.transport, self.held, self._reporting)
                tasks.cancel_scope.cancel()

    async def _handle(self, handler: Handler) -> Outcome:
        outcome: Outcome | None = None
        with self._scope:
            try:
                outcome = finished(await handler(Job(self)))
            except (Exception, SystemExit) as error:
                # What a handler raises while it is being stopped comes of that.
                outcome = failed(error) if self._stopped_by is None else None
        if self._stopped_by is not None and (outcome is None or self._stopped_by is Stop.LEASE_LOST):
            return stopped(self._stopped_by)
        assert outcome is not None
        return outcome

    async def _tell_changes(self) -> None:
        """A new phase, or a version that has just been learnt, goes to the server at once."""
        changed = Event()

        async def watch(wait: Callable[[], Awaitable[object]]) -> None:
            while True:
                await wait()
                changed.set()

        async with create_task_group() as tasks:
            told = (self._parking.phase, self._hold.version)
            tasks.start_soon(watch, self._hold_changes)
            tasks.start_soon(watch, self._parking_moves)
            while True:
                await changed.wait()
                changed = Event()
                now = (self._parking.phase, self._hold.version)
                if now != told:
                    told = now
                    self.lease.tell()
                    self._keeper.wish()

    async def _hold_changes(self) -> None:
        await self._hold.changed(self._hold.revision)

    async def _parking_moves(self) -> None:
        await self._parking.moved.wait()

    async def _warn_when_late(self) -> None:
        """A line of the log where a quiesce finds no checkpoint; operators are told by the server."""
        warned: int | None = None
        while True:
            revision = self._hold.revision
            if self._on_the_way() and warned != self._hold.version:
                with move_on_after(self._options.checkpoint_timeout_seconds) as patience:
                    while self._on_the_way():
                        await self._parking.moved.wait()
                if patience.cancelled_caught and self._on_the_way():
                    warned = self._hold.version
                    log.warning(
                        "checkpoint_late",
                        pause_version=self._hold.version,
                        timeout_seconds=self._options.checkpoint_timeout_seconds,
                        advice="the job has reached no checkpoint since the quiesce; it goes on working",
                    )
            await self._hold.changed(revision)

    def _on_the_way(self) -> bool:
        return self._parking.phase is JobPhase.PARKING

    async def _clear_seats(self) -> None:
        """A child process that does not come back to its checkpoint waits there no longer."""
        while True:
            moved, left = self._parking.moved, self._parking.seat_ends_in()
            if left is None:
                await moved.wait()
            else:
                await sleep(left)
                self._parking.clear_seat()
