"""Claims: the one way to take a job (CONTRACT section 4, RS-01)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog
from anyio import CancelScope, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled
from sqlalchemy.exc import IntegrityError

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import HoldfastError, KeyReused, StoreUnavailable
from holdfast_core.gate import GateCache
from holdfast_core.policy import admit_worker
from holdfast_core.schemas import ClaimAnswer, ClaimRequest, Job, Transport
from holdfast_core.services.batches import Asking, Batches, Begun
from holdfast_core.services.counters import Counters
from holdfast_core.services.presence import Presence
from holdfast_core.services.spans import traced
from holdfast_core.services.tokens import hash_token, mint_token
from holdfast_core.services.waiters import Waiter, Waiters
from holdfast_core.services.watch import PauseWatch
from holdfast_core.store import claims as store
from holdfast_core.store import leases
from holdfast_core.store.claim_batches import take_together
from holdfast_core.store.sqlite_claims import take_in_turn

__all__ = ["ClaimService"]

log = structlog.get_logger(__name__)

#: Looks of one claim where others take what it sees, or its twin is under way.
TRIES: Final = 8


#: What claims ask for that share a statement: types (None: any) and capabilities.
Kind = tuple[tuple[str, ...] | None, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Call:
    """A claim, the token that its hash is of, and when its call came, by the monotonic clock."""

    claim: store.Claim
    token: str
    arrived_at: float

    @property
    def kind(self) -> Kind:
        """Which claims it can share a statement with."""
        return self.claim.types, self.claim.capabilities

    def aged(self, now: float) -> store.Claim:
        """The claim as it is to be made now."""
        return replace(self.claim, age_seconds=now - self.arrived_at)


class ClaimService:
    """Hands out jobs, through the gate."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        cache: GateCache,
        watch: PauseWatch,
        waiters: Waiters,
        presence: Presence,
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._watch = watch
        self._waiters = waiters
        self._presence = presence
        self._counters = counters
        self._clock = clock
        #: What all claims are answered while a pause is known.
        self._paused_answer: ClaimAnswer | None = None
        self._alone = traced("holdfast.claims", self._alone)  # type: ignore[method-assign]
        self._together = traced("holdfast.claims", self._together)  # type: ignore[method-assign]
        self._batches: Batches[Kind, _Call, store.Taken] = Batches(self._alone, self._together)

    async def claim(
        self, caller: Caller, request: ClaimRequest, *, transport: Transport = "rest"
    ) -> ClaimAnswer:
        """One job under a lease, or null: paused, or nothing to do within `wait_seconds`.

        A claim that meets a pause, or is waiting when one is made, is answered at once. To cancel the call
        is safe at any time: a job that was taken for it is given back.
        """
        if request.wait_seconds <= 0:
            begun = self.begin(caller, request, transport=transport)
            return begun if isinstance(begun, ClaimAnswer) else await begun.finish()
        request = self._noted(caller, request, transport)
        answer = self._paused() or await self._claim(request)
        self._answered(request.worker_id, answer)
        return answer

    def begin(
        self, caller: Caller, request: ClaimRequest, *, transport: Transport = "rest"
    ) -> ClaimAnswer | Begun[ClaimAnswer]:
        """The same for one that does not wait for work: the answer, where a pause is known, or what to wait for.

        `finish` may be cancelled at any time; of a claim that goes on without it nobody gives the job back.
        """
        request = self._noted(caller, request, transport)
        answer = self._paused()
        if answer is not None:
            self._answered(request.worker_id, answer)
            return answer
        call = self._call(request)
        asked_at = call.arrived_at
        asking = self._batches.begin(call.kind, call)

        def plain() -> ClaimAnswer | None:
            taken = asking.told
            if taken is None or taken.crowded or taken.over:
                return None
            self._looked(taken, asked_at)
            return answered(taken)

        async def finish() -> ClaimAnswer:
            return answered(await self._take(call, asking))

        def answered(taken: store.Taken) -> ClaimAnswer:
            answer = _answer(taken)
            self._answered(request.worker_id, answer)
            return answer

        return Begun(asking.when_over, plain, finish)

    def _paused(self) -> ClaimAnswer | None:
        paused = self._cache.paused()
        if paused is None:
            return None
        if self._paused_answer is None or self._paused_answer.system is not paused:
            self._paused_answer = ClaimAnswer(job=None, system=paused)
        return self._paused_answer

    def _noted(self, caller: Caller, request: ClaimRequest, transport: Transport) -> ClaimRequest:
        """A claim that may be made, within the bounds of its caller; its worker is there."""
        admit_worker(
            caller,
            request.worker_id,
            "claim jobs",
            types=request.allowed_types,
            capabilities=request.worker_capabilities,
        )
        self._presence.seen(
            request.worker_id,
            transport,
            every=request.wait_seconds,
            observed_version=request.observed_version,
            capabilities=request.worker_capabilities,
            auto_enabled=True,
        )
        return _bound(caller, request)

    def _answered(self, worker_id: str, answer: ClaimAnswer) -> None:
        self._presence.answered(worker_id, answer.system.version)
        if answer.job is not None:
            self._counters.add("claims_granted")
        else:
            self._counters.add("claims_paused" if answer.system.workers_paused else "claims_empty")

    async def offer(
        self, caller: Caller, request: ClaimRequest, *, avoid: tuple[UUID, ...] = ()
    ) -> ClaimAnswer:
        """A claim for a worker that has said that it is ready: by the same way, but its presence is its session's to
        tell, and nobody asked where there is nothing. `avoid`: jobs that it is not to get."""
        admit_worker(
            caller,
            request.worker_id,
            "claim jobs",
            types=request.allowed_types,
            capabilities=request.worker_capabilities,
        )
        answer = self._paused() or await self._claim(_bound(caller, request), avoid)
        if answer.job is not None:
            self._counters.add("claims_granted")
        return answer

    async def give_back(self, job: Job, reason: str) -> None:
        """A job that was taken for somebody who is not to have it goes back to its place, no attempt used, by the
        token of that very claim. Nothing where that is over. Raises StoreUnavailable."""
        assert job.claimed_by is not None
        assert job.lease_token is not None
        worker_id, token_hash = job.claimed_by, hash_token(job.lease_token)
        row = await self._database.write(lambda c: leases.give_back(c, job.id, worker_id, token_hash))
        if row is not None:
            self._bus.announce("jobs")
            if self._cache.paused() is not None:
                self._bus.announce("running")  # somebody waits for the drain
            log.info("claim_given_back", job_id=str(job.id), worker_id=worker_id, reason=reason)

    async def _claim(self, request: ClaimRequest, avoid: tuple[UUID, ...] = ()) -> ClaimAnswer:
        call = self._call(request, avoid)
        if request.wait_seconds <= 0:
            return _answer(await self._take(call))
        claim = call.claim
        # In the row before the first look, so that work which comes in between is not missed.
        with self._waiters.join((claim.types, claim.capabilities, claim.avoid)) as waiter:
            return await self._wait(call, waiter, call.arrived_at + request.wait_seconds)

    def _call(self, request: ClaimRequest, avoid: tuple[UUID, ...] = ()) -> _Call:
        token = mint_token()
        claim = store.Claim(
            worker_id=request.worker_id,
            lease_seconds=request.lease_seconds,
            token_hash=hash_token(token),
            types=None if request.allowed_types is None else tuple(sorted(set(request.allowed_types))),
            capabilities=tuple(request.worker_capabilities),
            request_id=request.request_id,
            avoid=avoid,
        )
        return _Call(claim, token, self._clock.monotonic())

    async def _wait(self, call: _Call, waiter: Waiter, deadline: float) -> ClaimAnswer:
        taken = await self._take(call)
        while taken.row is None and not taken.known and not taken.system.workers_paused:
            left = deadline - self._clock.monotonic()
            if left <= 0 or not await waiter.wait(left):
                break
            waiter.rest()
            if (answer := self._paused()) is not None:
                return answer
            if await self._worth_a_try(call.claim):
                taken = await self._take(call)
        if taken.row is not None:
            waiter.wake()  # there may be more: leaving the row wakes the next
        return _answer(taken)

    async def _worth_a_try(self, claim: store.Claim) -> bool:
        # On SQLite a claim takes the writers' lock, and every commit of anybody wakes the waiters.
        if self._database.dialect == "postgresql":
            return True
        return await self._database.read(lambda connection: store.any_ready(connection, claim))

    async def _take(self, call: _Call, asking: Asking[_Call, store.Taken] | None = None) -> store.Taken:
        """`asking`: the first look, where it has begun with the call. Raises KeyReused where the requestId stands for a
        claim that is over."""
        asked_at = call.arrived_at
        for _ in range(TRIES):
            if asking is None:
                asked_at = self._clock.monotonic()
            try:
                taken = await (self._ask(call) if asking is None else self._batches.finish(asking))
            except IntegrityError:
                if call.claim.request_id is None:
                    raise
                continue  # its twin, in this very moment, got a job: that is this call's job, too
            finally:
                asking = None
            self._looked(taken, asked_at)
            if taken.row is not None or not taken.crowded:
                break
        else:
            raise StoreUnavailable(
                "Too many claims at once took what this one had seen. Repeat it in a moment."
            )
        if taken.over:
            raise KeyReused(
                "requestId: the claim that it stands for is over. Take a new one for each claim.",
                system=taken.system,
            )
        if (job := taken.job) is not None:
            try:
                await checkpoint_if_cancelled()
            except get_cancelled_exc_class():
                with CancelScope(shield=True):
                    try:
                        await self.give_back(job, "its caller was gone before the answer")
                    except HoldfastError as error:
                        # The lease runs out in its time.
                        log.warning("claim_not_given_back", job_id=str(job.id), cause=error.detail)
                raise
        return taken

    def _looked(self, taken: store.Taken, asked_at: float) -> None:
        self._counters.observe("claim_latency", self._clock.monotonic() - asked_at)
        self._watch.learn(taken.system, asked_at=asked_at)

    async def _ask(self, call: _Call) -> store.Taken:
        if call.claim.avoid:
            return await self._alone(call)
        return await self._batches.ask(call.kind, call)

    async def _alone(self, call: _Call) -> store.Taken:
        return await self._database.write(
            lambda c: store.take(c, call.aged(self._clock.monotonic()), token=call.token), lane=Lane.GATED
        )

    async def _together(self, calls: Sequence[_Call]) -> list[store.Taken | None]:
        # Of calls that are one claim the last is made here: it is the repeat, whose caller is still there. The others
        # then find what it got.
        last = {call.claim.made_by or number: number for number, call in enumerate(calls)}
        order = sorted(last.values())
        chosen = [calls[number] for number in order]
        tokens = [call.token for call in chosen]

        def ages() -> list[float]:
            # In the transaction: they are to be those at its time.
            now = self._clock.monotonic()
            return [now - call.arrived_at for call in chosen]

        claims = [call.claim for call in chosen]
        if self._database.dialect == "sqlite":
            won = await self._database.write(lambda c: take_in_turn(c, claims, ages()), lane=Lane.GATED)
            taken = won.taken(tokens)
        else:
            taken = await self._database.write(
                lambda c: take_together(c, claims, ages=ages(), tokens=tokens), lane=Lane.GATED
            )
        came = dict(zip(order, taken, strict=True))
        return [came.get(number) for number in range(len(calls))]


def _bound(caller: Caller, request: ClaimRequest) -> ClaimRequest:
    """The same, within the types of the caller's token."""
    types = caller.types_of(request.allowed_types)
    return request if types == request.allowed_types else request.model_copy(update={"allowed_types": types})


def _answer(taken: store.Taken) -> ClaimAnswer:
    return ClaimAnswer(job=taken.job, system=taken.system)
