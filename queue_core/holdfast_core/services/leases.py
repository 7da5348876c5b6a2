"""Heartbeats and outcomes: what the holder of a job says. None of this waits for the gate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Row

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.gate import GateCache
from holdfast_core.policy import admit_worker
from holdfast_core.schemas import (
    CancelAckRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    Job,
    ReleaseRequest,
    System,
    Transport,
)
from holdfast_core.schemas.sessions import HeldJobState
from holdfast_core.services.counters import Counted, Counters
from holdfast_core.services.holders import Verb, repeated, why_not
from holdfast_core.services.jobs import job_uuid
from holdfast_core.services.presence import Presence
from holdfast_core.services.tokens import fence, hash_token
from holdfast_core.services.watch import PauseWatch
from holdfast_core.settings import Settings
from holdfast_core.states import JobStatus
from holdfast_core.store import leases as store
from holdfast_core.store.jobs import find, job_from
from holdfast_core.store.pause import read_system

__all__ = ["HEARTBEATS_A_LEASE", "Beats", "LeaseService", "OutcomeService"]

log = structlog.get_logger(__name__)

#: How often a holder is expected to heartbeat within its lease.
HEARTBEATS_A_LEASE: Final = 3


_COUNTED: Final[Mapping[Verb, Counted]] = {
    "complete": "jobs_complete",
    "fail": "jobs_fail",
    "release": "jobs_release",
    "cancel_ack": "jobs_cancel_ack",
}


@dataclass(frozen=True, slots=True)
class Beats:
    """What became of one heartbeat for several jobs: each of them as it is now (without its payload), or None where
    that claim is over; in the order in which they were named. `system` is from the same transaction."""

    jobs: list[Job | None]
    system: System


class LeaseService:
    """Keeps leases alive."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        watch: PauseWatch,
        presence: Presence,
        counters: Counters,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._counters = counters
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
        admit_worker(caller, request.worker_id, "keep leases")
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
                raise why_not(find(connection, found), found, request.worker_id, token_hash, None)
            job = job_from(row, compact=request.compact)
            return HeartbeatAnswer(**dict(job), system=read_system(connection))

        answer = await self._database.write(work, lane=Lane.SINGLE)
        self._watch.learn(answer.system, asked_at=asked_at)
        self._presence.answered(request.worker_id, answer.system.version)
        self._counters.add("heartbeats")
        if request.phase is not None and answer.system.workers_paused:
            self._bus.announce("running")  # somebody may wait for the last one to park
        return answer

    async def heartbeat_all(
        self, caller: Caller, worker_id: str, lease_seconds: int, held: Sequence[HeldJobState]
    ) -> Beats:
        """Extend the leases of several jobs of a worker, all in one transaction. Its presence is the caller's to
        tell. Raises StoreUnavailable: then none of them has moved."""
        admit_worker(caller, worker_id, "keep leases")
        requests = [_beat(worker_id, lease_seconds, job) for job in held]
        # In the order of their ids, so that no two writers wait for each other in a circle.
        order = sorted(range(len(held)), key=lambda number: held[number].job_id)
        asked_at = self._clock.monotonic()

        def work(connection: Connection) -> Beats:
            found: dict[int, Job] = {}
            for number in order:
                job, request = held[number], requests[number]
                row = store.heartbeat(connection, job.job_id, request, hash_token(job.lease_token))
                if row is not None:
                    found[number] = job_from(row, compact=True)
            return Beats([found.get(number) for number in range(len(held))], read_system(connection))

        lane = Lane.SINGLE if len(held) == 1 else Lane.PLAIN
        beats = await self._database.write(work, lane=lane)
        self._watch.learn(beats.system, asked_at=asked_at)
        self._counters.add("heartbeats", sum(job is not None for job in beats.jobs))
        if beats.system.workers_paused and any(job.phase is not None for job in held):
            self._bus.announce("running")
        return beats


def _beat(worker_id: str, lease_seconds: int, job: HeldJobState) -> HeartbeatRequest:
    return HeartbeatRequest.model_validate(
        {
            "workerId": worker_id,
            "leaseSeconds": lease_seconds,
            "phase": job.phase,
            "checkpoint": job.checkpoint,
            "progress": job.progress,
        }
    )


class OutcomeService:
    """Takes what became of a job. Repeated by the claim that made it, an outcome answers again and writes nothing."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        cache: GateCache,
        presence: Presence,
        counters: Counters,
        settings: Settings,
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._counters = counters
        self._presence = presence
        self._settings = settings

    async def complete(self, caller: Caller, job_id: str, request: CompleteRequest) -> Job:
        """The job succeeded. Raises JobNotFound, JobNotOwned, LeaseLost or JobStateConflict."""
        admit_worker(caller, request.worker_id, "end jobs")
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
        admit_worker(caller, request.worker_id, "end jobs")
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
        admit_worker(caller, request.worker_id, "end jobs")
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
        admit_worker(caller, request.worker_id, "end jobs")
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
            if repeated(row, verb, worker_id, token_hash):
                assert row is not None
                return job_from(row), False
            raise why_not(row, found, worker_id, token_hash, verb)

        job, changed = await self._database.write(ending, lane=Lane.SINGLE)
        if changed:
            self._counters.add(_COUNTED[verb])
            if job.status is JobStatus.QUEUED:
                self._bus.announce("jobs")
            if self._cache.paused() is not None:
                self._bus.announce("running")  # somebody waits for the drain
        return job
