"""Offers: how a push session gets its jobs. An offer is a claim, by the same gate; it counts once it is accepted."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from anyio import CancelScope, Event, move_on_after, sleep
from anyio.abc import TaskGroup

from holdfast_core.callers import Caller
from holdfast_core.clock import Clock
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import ClaimRequest, Job, ReleaseRequest, System
from holdfast_core.schemas.sessions import OfferFrame, ServerFrame, WorkerCapabilities
from holdfast_core.services.claims import ClaimService
from holdfast_core.services.counters import Counted, Counters
from holdfast_core.services.leases import OutcomeService

__all__ = ["Offers"]

log = structlog.get_logger(__name__)

#: How long an offer waits for its answer.
ANSWER_SECONDS: Final = 10.0
#: How long a job that a worker has turned down is not offered to it.
AVOID_SECONDS: Final = 30.0
#: Jobs of which one worker's refusal is remembered; the oldest make room.
AVOIDED_MOST: Final = 256
#: How long one claim for a session waits for work, and rests after the store has failed.
CLAIM_SECONDS: Final = 30.0
AFTER_FAILURE_SECONDS: Final = 1.0
#: How long the hand-back of what was not accepted may take when a session ends.
HAND_BACK_SECONDS: Final = 5.0


class Offers:
    """The offers of one session. `send` puts a frame into the session's order, at once."""

    def __init__(
        self,
        caller: Caller,
        worker_id: str,
        claims: ClaimService,
        outcomes: OutcomeService,
        counters: Counters,
        clock: Clock,
        avoided: dict[tuple[str, UUID], float],
        send: Callable[[ServerFrame], None],
    ) -> None:
        self._caller = caller
        self._worker_id = worker_id
        self._claims = claims
        self._outcomes = outcomes
        self._counters = counters
        self._clock = clock
        self._avoided = avoided
        self._send = send
        self._ready = 0
        self._system: System | None = None
        self._request: ClaimRequest | None = None
        self._enabled = False
        self._claiming = CancelScope()
        self._open: dict[UUID, Job] = {}
        self._changed = Event()
        self.tasks: TaskGroup | None = None

    def describe(self, capabilities: WorkerCapabilities, lease_seconds: int) -> None:
        """What the worker takes, from now on."""
        self._request = ClaimRequest.model_validate(
            {
                "workerId": self._worker_id,
                "leaseSeconds": lease_seconds,
                "allowedTypes": capabilities.types,
                "workerCapabilities": capabilities.capabilities,
                "waitSeconds": CLAIM_SECONDS,
            }
        )
        self._enabled = capabilities.auto_enabled
        self._look_again()

    def ready(self, slots: int) -> None:
        """How many more jobs it would take."""
        self._ready = slots
        self._look_again()

    def learn(self, system: System) -> None:
        """The session has been told of this. With a pause, what is not accepted yet goes back."""
        self._system = system
        if system.workers_paused:
            for job in list(self._open.values()):
                self._take_back(
                    job, "offers_withdrawn", "the system was paused before the offer was accepted"
                )
        self._look_again()

    def accepted(self, job_id: UUID, lease_token: str) -> bool:
        """Whether this offer is still open; it is not any more."""
        job = self._open.get(job_id)
        if job is None or job.lease_token != lease_token:
            return False
        del self._open[job_id]
        self._counters.add("offers_accepted")
        return True

    def rejected(self, job_id: UUID, lease_token: str, reason: str | None) -> bool:
        """The worker does not take it. Whether the offer was still open."""
        job = self._open.get(job_id)
        if job is None or job.lease_token != lease_token:
            return False
        self._turned_down(job, "offers_rejected", reason or "rejected")
        return True

    async def run(self) -> None:
        """Claim for the worker while it is ready, until cancelled; then nothing that was not accepted stays."""
        try:
            while True:
                await self._until_wanted()
                await self._claim()
        finally:
            with move_on_after(HAND_BACK_SECONDS, shield=True):
                for job in list(self._open.values()):
                    del self._open[job.id]
                    await self._release(job, "the session ended before the offer was accepted")

    def _wanted(self) -> bool:
        running = self._system is not None and not self._system.workers_paused
        return running and self._enabled and self._ready > 0 and self._request is not None

    async def _until_wanted(self) -> None:
        while not self._wanted():
            await self._changed.wait()

    def _look_again(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()
        if not self._wanted():
            self._claiming.cancel()

    async def _claim(self) -> None:
        assert self._request is not None
        now = self._clock.monotonic()
        avoid = tuple(
            job for (worker, job), until in self._avoided.items() if worker == self._worker_id and until > now
        )
        taken: Job | None = None
        with CancelScope() as self._claiming:
            try:
                answer = await self._claims.offer(self._request, avoid=avoid)
            except HoldfastError as error:
                log.warning("offer_not_made", worker_id=self._worker_id, cause=error.detail)
                await sleep(AFTER_FAILURE_SECONDS)
                return
            taken = answer.job
            version = answer.system.version
            # The session hears of each version in order: the offer waits for the one that it was made under.
            while taken is not None and self._system is not None and self._system.version < version:
                await self._changed.wait()
        if taken is None:
            return
        if not self._wanted():
            await self._release(taken, "the worker does not take work any more")
            return
        assert self._system is not None
        assert self.tasks is not None
        self._ready -= 1
        self._open[taken.id] = taken
        self._send(OfferFrame(job=taken, system=self._system))
        self.tasks.start_soon(self._expire, taken)

    async def _expire(self, job: Job) -> None:
        await sleep(ANSWER_SECONDS)
        if self._open.get(job.id) is job:
            self._turned_down(job, "offers_unanswered", "the offer was not answered")

    def _turned_down(self, job: Job, counted: Counted, reason: str) -> None:
        now = self._clock.monotonic()
        while len(self._avoided) >= AVOIDED_MOST:
            del self._avoided[next(iter(self._avoided))]
        self._avoided[self._worker_id, job.id] = now + AVOID_SECONDS
        self._ready = 0
        self._take_back(job, counted, reason)
        self._look_again()

    def _take_back(self, job: Job, counted: Counted, reason: str) -> None:
        assert self.tasks is not None
        del self._open[job.id]
        self._counters.add(counted)
        self.tasks.start_soon(self._release, job, reason)

    async def _release(self, job: Job, reason: str) -> None:
        request = ReleaseRequest.model_validate(
            {"workerId": self._worker_id, "leaseToken": job.lease_token, "reason": reason}
        )
        try:
            with CancelScope(shield=True):
                await self._outcomes.release(self._caller, str(job.id), request)
        except HoldfastError as error:
            # The lease runs out in its time.
            log.warning("offer_not_taken_back", job_id=str(job.id), cause=error.detail)
