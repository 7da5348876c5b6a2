"""Offers: how a push session gets its jobs. An offer is a claim, by the same gate; it counts once it is accepted.

What holds, in the order of the session's frames: no offer follows a paused `system`, and an offer goes out under the
very version that the session was told of last. Whatever was claimed and is not accepted goes back: at a pause, at an
answer that does not come, at the end of the session, and when the worker wants nothing any more.
"""

import random
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from anyio import CancelScope, Event, move_on_after, sleep
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from holdfast_core.callers import Caller
from holdfast_core.errors import HoldfastError
from holdfast_core.policy import admit_worker
from holdfast_core.schemas import ClaimRequest, Job, System
from holdfast_core.schemas.sessions import OfferFrame, ServerFrame, WorkerCapabilities
from holdfast_core.services.claims import ClaimService
from holdfast_core.services.counters import Counted, Counters
from holdfast_core.services.handbacks import HandBacks
from holdfast_core.services.refusals import MOST_REFUSED, Refusals
from holdfast_core.services.watch import PauseWatch

__all__ = ["Offers"]

log = structlog.get_logger(__name__)

#: How long an offer waits for its answer.
ANSWER_SECONDS: Final = 10.0
#: The lease of a job that is only offered: it outlasts the answer, whatever lease the worker asks for, and ends soon
#: should this process be gone.
OFFER_LEASE_SECONDS: Final = 15
#: Offers that one session may have open at once: what waits to be sent to a worker that does not read has a bound.
MOST_OPEN: Final = 16
#: How long one claim for a session waits for work.
CLAIM_SECONDS: Final = 30.0
#: How long a session rests after the store has failed: half of it to all of it, so that they do not come back together.
AFTER_FAILURE_SECONDS: Final = 2.0
#: How long an offer waits for the session to hear of the version that it was made under.
VERSION_SECONDS: Final = 2.0


class Offers:
    """The offers of one session. `send` puts a frame into the session's order, at once. `tasks` has to be set before
    anything else is called."""

    tasks: TaskGroup

    def __init__(
        self,
        caller: Caller,
        worker_id: str,
        send: Callable[[ServerFrame], None],
        *,
        claims: ClaimService,
        handbacks: HandBacks,
        refusals: Refusals,
        watch: PauseWatch,
        counters: Counters,
    ) -> None:
        self._caller = caller
        self._worker_id = worker_id
        self._send = send
        self._claims = claims
        self._handbacks = handbacks
        self._refusals = refusals
        self._watch = watch
        self._counters = counters
        self._over = False
        self._ready = 0
        self._told: System | None = None
        self._capabilities: WorkerCapabilities | None = None
        self._request: ClaimRequest | None = None
        self._enabled = False
        #: What is offered and not answered, each with what ends its wait.
        self._open: dict[UUID, tuple[Job, CancelScope]] = {}
        self._claiming = CancelScope()
        self._changed = Event()

    # What the worker says, and what it has been told

    def admit(self, capabilities: WorkerCapabilities) -> None:
        """Raises NotAllowed where the worker says that it takes more than its token is bound to."""
        admit_worker(
            self._caller,
            self._worker_id,
            "claim jobs",
            types=capabilities.types,
            capabilities=capabilities.capabilities,
        )

    def describe(self, capabilities: WorkerCapabilities) -> None:
        """What the worker takes, from now on."""
        if capabilities == self._capabilities:
            return
        self._capabilities = capabilities
        before = self._request
        self._request = ClaimRequest.model_validate(
            {
                "workerId": self._worker_id,
                "leaseSeconds": OFFER_LEASE_SECONDS,
                "allowedTypes": capabilities.types,
                "workerCapabilities": capabilities.capabilities,
                "waitSeconds": CLAIM_SECONDS,
            }
        )
        self._enabled = capabilities.auto_enabled
        if self._request != before:
            self._claiming.cancel()
        self._look_again()

    def ready(self, slots: int) -> None:
        """How many more jobs it would take."""
        self._ready = slots
        self._look_again()

    def learn(self, system: System) -> None:
        """The session has been told of this. With a pause, what is not accepted yet goes back."""
        self._told = system
        if system.workers_paused:
            self._withdraw_all("the system was paused before the offer was accepted")
        self._look_again()

    def end(self) -> None:
        """The session is over: nothing is offered any more, and what is not accepted yet goes back."""
        self._over = True
        self._withdraw_all("the session ended before the offer was accepted")
        self._look_again()

    def take(self, job_id: UUID, lease_token: str) -> Job | None:
        """The offer that the worker answers, which is not open any more; None where it was not."""
        found = self._open.get(job_id)
        if found is None or found[0].lease_token != lease_token:
            return None
        job, waiting = self._open.pop(job_id)
        waiting.cancel()
        self._look_again()  # there is room for another
        return job

    def refused(self, job_id: UUID) -> None:
        """The worker has turned this job down: it gets nothing until it is ready anew, and this one not for a while."""
        self._ready = 0
        self._refusals.add(self._worker_id, job_id)
        self._look_again()

    async def hand_back(self, job: Job, counted: Counted, reason: str) -> None:
        """Give an offered job back. Cancelled or not, it goes."""
        self._counters.add(counted)
        await self._handbacks.give(job, reason)

    # What happens by itself

    async def run(self) -> None:
        """Claim for the worker while it is ready, until cancelled; then nothing that was not accepted stays."""
        try:
            while True:
                await checkpoint()  # whatever a claim answers at once, the others have their turn
                await self._until(self._wanted)
                await self._claim()
        finally:
            self._over = True
            for job in self._close_all():
                await self.hand_back(
                    job, "offers_withdrawn", "the session ended before the offer was accepted"
                )

    def _wanted(self) -> bool:
        return (
            not self._over
            and self._told is not None
            and not self._told.workers_paused
            and self._enabled
            and self._request is not None
            and self._ready > 0
            and len(self._open) < MOST_OPEN
        )

    def _may_offer(self, system: System) -> bool:
        """Whether a job that was claimed under this `system` may go out now."""
        return (
            self._wanted()
            and self._told is not None
            and self._told.version == system.version
            and self._watch.paused is None
        )

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _look_again(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()
        if not self._wanted():
            self._claiming.cancel()

    async def _claim(self) -> None:
        """One claim, to its offer."""
        assert self._request is not None
        refused, seconds = self._refusals.of(self._worker_id)
        if len(refused) >= MOST_REFUSED:
            await sleep(max(0.0, seconds))
            return
        # What was turned down may be offered again once its time is over: then this claim is begun anew.
        wait = max(0.0, min(CLAIM_SECONDS, seconds))
        request = self._request.model_copy(update={"wait_seconds": wait})
        job: Job | None = None
        try:
            with CancelScope() as self._claiming:
                answer = await self._claims.offer(self._caller, request, avoid=refused)
                job = answer.job
                # The session hears of each version in its order, so what was claimed under a newer one waits for it.
                version = answer.system.version
                with move_on_after(VERSION_SECONDS):
                    await self._until(lambda: self._told is not None and self._told.version >= version)
                if job is not None and self._may_offer(answer.system):
                    self._offer(job, answer.system)
                    job = None
        except HoldfastError as error:
            log.warning("offer_not_made", worker_id=self._worker_id, cause=error.detail)
            await sleep(AFTER_FAILURE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
        finally:
            if job is not None:
                await self.hand_back(job, "offers_withdrawn", "it could not be offered any more")

    def _offer(self, job: Job, system: System) -> None:
        waiting = CancelScope()
        self._ready -= 1
        self._open[job.id] = (job, waiting)
        self._send(OfferFrame(job=job, system=system))
        self.tasks.start_soon(self._expire, job, waiting)

    async def _expire(self, job: Job, waiting: CancelScope) -> None:
        with waiting:
            await sleep(ANSWER_SECONDS)
        if job.lease_token is not None and self.take(job.id, job.lease_token) is not None:
            self.refused(job.id)
            await self.hand_back(job, "offers_unanswered", f"no answer within {ANSWER_SECONDS:g} s")

    def _withdraw_all(self, reason: str) -> None:
        for job in self._close_all():
            self.tasks.start_soon(self.hand_back, job, "offers_withdrawn", reason)

    def _close_all(self) -> list[Job]:
        closed = list(self._open.values())
        self._open.clear()
        for _, waiting in closed:
            waiting.cancel()
        return [job for job, _ in closed]
