"""Parking: where a job stands against the quiesce, and the wait at a checkpoint.

A job runs, is *parking* (quiesced, on its way to a checkpoint), or is *parked* (waits at one). Whoever reaches a
checkpoint of the job waits there until the quiesce is over and the lease is known to be ours: a parked job does
nothing, so it may outlast its lease while the server is away, but asks before it goes on.
"""

import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

import structlog
from anyio import Event, move_on_after

from holdfast_core.schemas import MAX_CHECKPOINT
from holdfast_core.states import JobPhase
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.joblog import JobLog
from holdfast_worker.runtime.lease import Lease
from holdfast_worker.runtime.status import CheckpointAnswer, CheckpointKind

__all__ = ["SEAT_SECONDS", "Parking"]

log = structlog.get_logger(__name__)

#: A child process that waits at a checkpoint comes back within this time, or counts as gone.
SEAT_SECONDS: Final = 15.0
#: What is known of the pause may be this old at a checkpoint, where the server does not push.
FRESH_SECONDS: Final = 0.05


class Parking:
    """The checkpoints of one job."""

    def __init__(
        self,
        hold: Hold,
        lease: Lease,
        job_log: JobLog,
        boundaries: frozenset[CheckpointKind],
        freshen: Callable[[], Awaitable[None]],
    ) -> None:
        self._hold = hold
        self._lease = lease
        self._job_log = job_log
        self._boundaries = boundaries
        self._freshen = freshen
        self._waiting = 0
        self._seat = False
        self._seat_until = 0.0
        self._visitors = 0
        self._since = 0.0
        self.label: str | None = None
        #: Set anew at each change of the phase or the label.
        self.moved = Event()

    @property
    def phase(self) -> JobPhase:
        """What the job does right now."""
        if self._waiting:
            return JobPhase.PARKED
        return JobPhase.PARKING if self._hold.quiesced else JobPhase.RUNNING

    @property
    def parked(self) -> bool:
        """Whether somebody waits at a checkpoint of the job."""
        return self._waiting > 0

    async def checkpoint(self, label: str | None, kind: CheckpointKind | None) -> None:
        """Wait while quiesced. `kind` None always counts as a safe boundary."""
        if not await self._reached(label, kind):
            return
        with self._parked():
            await self._free()

    async def visit(
        self, label: str | None, kind: CheckpointKind | None, wait_seconds: float
    ) -> CheckpointAnswer:
        """A child process reaches a checkpoint, or comes back to it. While it is away for less than SEAT_SECONDS, the
        job stays parked."""
        if self._seat or await self._reached(label, kind):
            self._take_seat()
            self._visitors += 1
            try:
                with move_on_after(wait_seconds):
                    await self._free()
            finally:
                self._visitors -= 1
                self._seat_until = time.monotonic() + SEAT_SECONDS
                self._move()
            if not self._must_wait():
                self._leave_seat()
        system = self._hold.system
        return CheckpointAnswer(
            hold=self._seat,
            mode=None if system is None else system.mode,
            reason=None if system is None else system.reason,
            version=self._hold.version,
        )

    def seat_ends_in(self) -> float | None:
        """After how many seconds a child process that is away counts as gone; None where none is."""
        if not self._seat or self._visitors:
            return None
        return max(0.0, self._seat_until - time.monotonic())

    def clear_seat(self) -> None:
        """The child process has not come back."""
        if self.seat_ends_in() == 0.0:
            self._leave_seat()

    async def _reached(self, label: str | None, kind: CheckpointKind | None) -> bool:
        """Whether to wait here."""
        if label is not None and label != self.label:
            self.label = label[:MAX_CHECKPOINT]
            self._move()
        if kind is not None and kind not in self._boundaries:
            return False
        await self._freshen()
        return self._must_wait()

    def _must_wait(self) -> bool:
        return self._hold.quiesced or (self.parked and self._lease.has_run_out)

    async def _free(self) -> None:
        """Until the quiesce is over, and then until a heartbeat has said that the job is still ours."""
        while self._must_wait():
            moved, revision = self.moved, self._hold.revision
            if self._hold.quiesced:
                await self._hold.changed(revision)
            else:
                await moved.wait()

    @contextmanager
    def _parked(self) -> Generator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _take_seat(self) -> None:
        if not self._seat:
            self._seat = True
            self._enter()

    def _leave_seat(self) -> None:
        if self._seat:
            self._seat = False
            self._leave()

    def _enter(self) -> None:
        self._waiting += 1
        if self._waiting > 1:
            return
        self._since = time.monotonic()
        system = self._hold.system
        where = f": {self.label}" if self.label else ""
        log.info("job_parked", checkpoint=self.label, pause_version=self._hold.version)
        self._job_log.add(
            "info",
            f"Paused at checkpoint{where}",
            None if system is None else {"pauseVersion": system.version, "reason": system.reason},
        )
        self._move()

    def _leave(self) -> None:
        self._waiting -= 1
        if self._waiting:
            return
        seconds = time.monotonic() - self._since
        log.info("job_goes_on", checkpoint=self.label, waited_seconds=round(seconds, 1))
        self._job_log.add("info", f"Goes on after {seconds:.1f} s at a checkpoint")
        self._move()

    def renewed(self) -> None:
        """The lease is ours anew: who waits for that looks again."""
        self._move()

    def _move(self) -> None:
        moved, self.moved = self.moved, Event()
        moved.set()
