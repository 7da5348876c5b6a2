"""Heartbeats and outcomes: what the holder of a job says. None of this waits for the gate."""

from collections.abc import Callable
from typing import Any, Final, Literal
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import HoldfastError, JobNotFound, JobNotOwned, JobStateConflict, LeaseLost
from holdfast_core.gate import GateCache
from holdfast_core.schemas import (
    CancelAckRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    Job,
    ReleaseRequest,
    Transport,
)
from holdfast_core.services.jobs import job_uuid
from holdfast_core.services.presence import Presence
from holdfast_core.services.tokens import fence
from holdfast_core.services.watch import PauseWatch
from holdfast_core.settings import Settings
from holdfast_core.states import JobStatus
from holdfast_core.store import leases as store
from holdfast_core.store.jobs import VOID, find, job_from
from holdfast_core.store.pause import read_system

__all__ = ["LeaseService", "OutcomeService"]

log = structlog.get_logger(__name__)

#: How often a holder is expected to heartbeat within its lease.
HEARTBEATS_A_LEASE: Final = 3

Verb = Literal["complete", "fail", "release", "cancel_ack"]


class LeaseService:
    """Keeps leases alive."""

    def __init__(
        self, database: Database, watch: PauseWatch, presence: Presence, settings: Settings, clock: Clock
    ) -> None:
        self._database = database
        self._watch = watch
        self._presence = presence
        self._settings = settings
        self._clock = clock

    async def heartbeat(
        self, caller: Caller, job_id: str, request: HeartbeatRequest, *, transport: Transport = "rest"
    ) -> HeartbeatAnswer:
        """Extend the lease, also one that has run out while nobody took the job, paused or not.

        Raises JobNotFound, JobNotOwned, or LeaseLost: the claim is over, stop working on the job.
        """
        found = job_uuid(job_id)
        token_hash = fence(self._settings, request.lease_token)
        self._presence.seen(
            request.worker_id,
            transport,
            every=request.lease_seconds / HEARTBEATS_A_LEASE,
            observed_version=request.observed_version,
        )
        asked_at = self._clock.monotonic()

        def work(connection: Connection) -> HeartbeatAnswer:
            row = store.heartbeat(connection, found, request, token_hash)
            if row is None:
                raise _why_not(find(connection, found), found, request.worker_id, token_hash, None)
            job = job_from(row, compact=request.compact)
            return HeartbeatAnswer(**dict(job), system=read_system(connection))

        answer = await self._database.write(work, lane=Lane.SINGLE)
        self._watch.learn(answer.system, asked_at=asked_at)
        self._presence.answered(request.worker_id, answer.system.version)
        return answer


class OutcomeService:
    """Takes what became of a job. Repeated by the claim that made it, an outcome answers again and writes nothing."""

    def __init__(
        self, database: Database, bus: ChangeBus, cache: GateCache, presence: Presence, settings: Settings
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._presence = presence
        self._settings = settings

    async def complete(self, caller: Caller, job_id: str, request: CompleteRequest) -> Job:
        """The job succeeded. Raises JobNotFound, JobNotOwned, LeaseLost or JobStateConflict."""
        token_hash = fence(self._settings, request.lease_token)
        return await self._end(
            "complete",
            job_id,
            request.worker_id,
            token_hash,
            lambda connection, found: store.complete(
                connection, found, request.worker_id, token_hash, request.result_summary
            ),
        )

    async def fail(self, caller: Caller, job_id: str, request: FailRequest) -> Job:
        """The job failed; `retryable` brings it back while attempts are left. Raises as `complete` does."""
        token_hash = fence(self._settings, request.lease_token)

        def work(connection: Connection, found: UUID) -> Row[Any] | None:
            if not request.retryable:
                return store.fail(connection, found, request.worker_id, token_hash, request.error_message)
            return store.fail_retryable(
                connection,
                found,
                request.worker_id,
                token_hash,
                request.error_message,
                self._settings.lease_retry_delay_seconds,
            )

        return await self._end("fail", job_id, request.worker_id, token_hash, work)

    async def release(self, caller: Caller, job_id: str, request: ReleaseRequest) -> Job:
        """The job goes back to its place, no attempt used. Raises as `complete` does."""
        token_hash = fence(self._settings, request.lease_token)
        job = await self._end(
            "release",
            job_id,
            request.worker_id,
            token_hash,
            lambda connection, found: store.release(connection, found, request.worker_id, token_hash),
        )
        log.info("job_released", job_id=job_id, worker_id=request.worker_id, reason=request.reason)
        return job

    async def cancel_ack(self, caller: Caller, job_id: str, request: CancelAckRequest) -> Job:
        """The holder has stopped, as it was asked to. Raises as `complete` does."""
        token_hash = fence(self._settings, request.lease_token)
        return await self._end(
            "cancel_ack",
            job_id,
            request.worker_id,
            token_hash,
            lambda connection, found: store.cancel_ack(
                connection, found, request.worker_id, token_hash, request.message
            ),
        )

    async def _end(
        self,
        verb: Verb,
        job_id: str,
        worker_id: str,
        token_hash: str | None,
        work: Callable[[Connection, UUID], Row[Any] | None],
    ) -> Job:
        found = job_uuid(job_id)
        self._presence.seen(worker_id, None)

        def ending(connection: Connection) -> tuple[Job, bool]:
            row = work(connection, found)
            if row is not None:
                return job_from(row), True
            row = find(connection, found)
            if _repeated(row, verb, worker_id, token_hash):
                assert row is not None
                return job_from(row), False
            raise _why_not(row, found, worker_id, token_hash, verb)

        job, changed = await self._database.write(ending, lane=Lane.SINGLE)
        if changed:
            if job.status is JobStatus.QUEUED:
                self._bus.announce("jobs")
            if self._cache.paused() is not None:
                self._bus.announce("running")  # somebody waits for the drain
        return job


#: The ways in which a holder ends its own claim.
_BY_HOLDER: Final = frozenset({"complete", "fail", "release", "cancel_ack"})


def _same_claim(row: Row[Any], worker_id: str, token_hash: str | None) -> bool:
    return row.claim_worker == worker_id and token_hash in (None, row.claim_token_hash)


def _repeated(row: Row[Any] | None, verb: Verb, worker_id: str, token_hash: str | None) -> bool:
    """Whether this very claim has made this very outcome before."""
    return row is not None and _same_claim(row, worker_id, token_hash) and row.claim_outcome == verb


def _why_not(
    row: Row[Any] | None, job_id: UUID, worker_id: str, token_hash: str | None, verb: Verb | None
) -> HoldfastError:
    """Why the holder's call found nothing to change."""
    if row is None:
        return JobNotFound(f"No job has the id {job_id}.")
    if row.status == JobStatus.RUNNING:
        if row.claimed_by != worker_id:
            return JobNotOwned(f"Worker {row.claimed_by} holds the job, not {worker_id}. Stop working on it.")
        if verb == "cancel_ack" and _same_claim(row, worker_id, token_hash):
            return JobStateConflict(
                "Nobody asked to cancel this job. Complete it, fail it, or release it instead."
            )
        return LeaseLost(
            "The job was claimed again since, so this leaseToken is void. Stop working on the job."
        )
    if row.claim_worker is None:
        return JobStateConflict(f"The job is {row.status} and was never claimed. Claim it first.")
    if row.claim_worker != worker_id:
        return JobNotOwned(
            f"The job is {row.status}; worker {row.claim_worker} held it last, not {worker_id}."
        )
    if _same_claim(row, worker_id, token_hash) and row.claim_outcome in _BY_HOLDER and verb is not None:
        return JobStateConflict(
            f"This claim has already ended with {row.claim_outcome}; the job is {row.status}."
        )
    if row.claim_outcome == VOID:
        return LeaseLost(f"The claim was ended from outside; the job is {row.status}. Stop working on it.")
    return LeaseLost(f"The claim is over; the job is {row.status}. Stop working on it.")
