"""The lease keeper beside a handler: heartbeats, and the stop before the lease can be somebody else's."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from anyio import Event, fail_after, move_on_after

from holdfast_core.errors import Conflict, HoldfastError, NotAllowed, NotAuthenticated, NotFound
from holdfast_worker.runtime.backoff import Backoff
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.lease import Lease
from holdfast_worker.runtime.parking import FRESH_SECONDS, Parking
from holdfast_worker.runtime.stopping import Stop
from holdfast_worker.runtime.transports.base import Held, Transport

__all__ = ["LeaseKeeper"]

log = structlog.get_logger(__name__)

HEARTBEATS_A_LEASE: Final = 3
#: A heartbeat comes up to this part earlier or later, so that a fleet does not beat as one.
JITTER: Final = 0.1
#: How long a checkpoint waits for a heartbeat to tell it of the pause, where the server does not push.
FRESHEN_SECONDS: Final = 2.0
#: The least time that a heartbeat gets to be answered.
LEAST_ANSWER_SECONDS: Final = 1.0


class LeaseKeeper:
    """Keeps one job's lease. `stop` is called, once for each, with what ends the handler."""

    def __init__(
        self,
        held: Held,
        lease: Lease,
        transport: Transport,
        hold: Hold,
        *,
        poll_seconds: float,
        stop: Callable[[Stop], None],
    ) -> None:
        self._held = held
        self._lease = lease
        self._transport = transport
        self._hold = hold
        self._poll_seconds = poll_seconds
        self._stop = stop
        self._progress: Mapping[str, Any] | None = None
        self._every = lease.seconds / HEARTBEATS_A_LEASE
        #: Once the outcome is being told, a refused heartbeat is no news.
        self.ending = False
        # Heartbeats that were wished for and that have been tried, so that a wish can wait for its own.
        self._wished = 0
        self._tried = 0
        self._wish = Event()
        self._beaten = Event()

    def say_progress(self, progress: Mapping[str, Any]) -> None:
        """Send it with the next heartbeat."""
        self._progress = progress

    def wish(self) -> int:
        """Let a heartbeat go out at once. Returns its number."""
        self._wished += 1
        self._wish.set()
        return self._wished

    async def freshen(self) -> None:
        """Ask the server how things stand, unless that is known well enough."""
        if (self._transport.pushes and self._hold.system) or self._hold.age_seconds < FRESH_SECONDS:
            return
        with move_on_after(FRESHEN_SECONDS):
            await self._until_tried(self.wish())

    async def ask_first(self) -> None:
        """An answer to the claim that was long on its way has used up much of the lease: renew it before the work."""
        if time.monotonic() > self._lease.until - self._lease.seconds / 2:
            await self._until_tried(self.wish())

    async def beat(self, parking: Parking) -> None:
        """Heartbeats until the claim is over. Raises NotAuthenticated and NotAllowed."""
        delays = Backoff(most=self._every)
        failed = False
        while True:
            with move_on_after(delays.next() if failed else self._until_next(parking)):
                await self._wish.wait()
            self._wish = Event()
            try:
                await self._beat(parking)
            except (NotAuthenticated, NotAllowed):
                raise
            except (Conflict, NotFound) as error:
                if not self.ending:
                    log.warning("lease_lost", code=error.code, detail=error.detail)
                    self._lease.lost()
                    self._stop(Stop.LEASE_LOST)
                return
            except (HoldfastError, TimeoutError) as error:
                if not failed:
                    log.warning("heartbeat_failed", detail=str(error) or "no answer in time")
                failed = True
            else:
                if failed:
                    log.info("heartbeat_answered_again")
                    delays.reset()
                failed = False

    async def guard(self, parking: Parking) -> None:
        """Stop the handler in time where nothing renews the lease. A parked job does nothing, and may stay."""
        while True:
            moved = parking.moved
            if parking.parked:
                await moved.wait()
                continue
            left = self._lease.deadline - time.monotonic()
            if left <= 0:
                log.error("lease_runs_out", lease_seconds=self._lease.seconds)
                self._stop(Stop.LEASE_RUNS_OUT)
                return
            with move_on_after(left):
                await moved.wait()

    async def _until_tried(self, number: int) -> None:
        while self._tried < number:
            await self._beaten.wait()

    def _until_next(self, parking: Parking) -> float:
        since = time.monotonic() - (self._lease.until - self._lease.seconds)
        every = self._every
        if parking.parked and not self._transport.pushes:
            every = min(every, self._poll_seconds)  # so a resume is heard of within that time
        return max(0.0, every * random.uniform(1 - JITTER, 1 + JITTER) - since)  # noqa: S311 (no secret)

    async def _beat(self, parking: Parking) -> None:
        serving = self._wished
        progress, self._progress = self._progress, None
        asked_at = time.monotonic()
        try:
            with fail_after(max(LEAST_ANSWER_SECONDS, self._every)):
                beat = await self._transport.heartbeat(
                    self._held, phase=parking.phase, checkpoint=parking.label, progress=progress
                )
        except BaseException:
            if self._progress is None:  # nothing newer meanwhile
                self._progress = progress
            raise
        finally:
            self._tried = serving
            beaten, self._beaten = self._beaten, Event()
            beaten.set()
        self._lease.renewed(asked_at=asked_at)
        parking.renewed()
        if beat.cancel_requested:
            self._stop(Stop.CANCELLED)
