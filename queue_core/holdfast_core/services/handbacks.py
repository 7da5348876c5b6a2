"""Jobs that were claimed for a worker which is not to have them after all: they go back, and soon.

It matters most while paused: nothing sweeps then, so an offer that is lost would keep the system from being drained
until an operator requeues it.
"""

from collections import deque
from typing import Final

import structlog
from anyio import CancelScope, Event, move_on_after, sleep

from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import Job
from holdfast_core.services.claims import ClaimService

__all__ = ["HandBacks"]

log = structlog.get_logger(__name__)

#: How long one hand-back may hold up whoever asks for it.
GIVE_SECONDS: Final = 5.0
#: The rest between two rounds over what could not be given back.
REST_SECONDS: Final = 0.5
#: Jobs that wait for another try. Beyond that a lease runs out in its time.
MOST_WAITING: Final = 10_000


class HandBacks:
    """Gives claimed jobs back, and tries again where the store is away."""

    def __init__(self, claims: ClaimService) -> None:
        self._claims = claims
        self._waiting: deque[tuple[Job, str]] = deque(maxlen=MOST_WAITING)
        self._more = Event()

    async def give(self, job: Job, reason: str) -> None:
        """Give it back, whether or not the caller is cancelled meanwhile; later on if the store is away now."""
        with CancelScope(shield=True):
            with move_on_after(GIVE_SECONDS) as within:
                if await self._given(job, reason):
                    return
            if within.cancelled_caught:
                log.warning("offer_not_taken_back", job_id=str(job.id), cause="the store is slow")
        self._waiting.append((job, reason))
        self._more.set()

    async def run(self) -> None:
        """Try again what could not be given back, until cancelled."""
        while True:
            await self._more.wait()
            self._more = Event()
            for _ in range(len(self._waiting)):
                job, reason = self._waiting.popleft()
                if not await self._given(job, reason):
                    self._waiting.append((job, reason))
                    self._more.set()
            await sleep(REST_SECONDS)

    async def _given(self, job: Job, reason: str) -> bool:
        try:
            await self._claims.give_back(job, reason)
        except HoldfastError as error:
            log.warning("offer_not_taken_back", job_id=str(job.id), cause=error.detail)
            return False
        return True
