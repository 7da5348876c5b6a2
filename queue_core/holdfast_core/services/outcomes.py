"""Outcomes: what became of a job, as its holder says. None of this waits for the gate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.db import Database, Lane
from holdfast_core.db.prepared import Stored
from holdfast_core.db.types import columns
from holdfast_core.gate import GateCache
from holdfast_core.policy import admit_worker
from holdfast_core.schemas import CancelAckRequest, CompleteRequest, FailRequest, Job, ReleaseRequest
from holdfast_core.services.batches import Batches, Begun
from holdfast_core.services.counters import Counted, Counters
from holdfast_core.services.holders import Verb, repeated, why_not
from holdfast_core.services.jobs import job_uuid
from holdfast_core.services.presence import Presence
from holdfast_core.services.spans import traced
from holdfast_core.services.tokens import fence
from holdfast_core.settings import Settings
from holdfast_core.states import JobStatus
from holdfast_core.store import leases as store
from holdfast_core.store.jobs import find, job_from
from holdfast_core.store.lease_batches import Holder, complete_together, one_a_job
from holdfast_core.store.sqlite_leases import complete_in_turn

__all__ = ["OutcomeService"]

log = structlog.get_logger(__name__)

_COUNTED: Final[Mapping[Verb, Counted]] = {
    "complete": "jobs_complete",
    "fail": "jobs_fail",
    "release": "jobs_release",
    "cancel_ack": "jobs_cancel_ack",
}


@dataclass(frozen=True, slots=True)
class _End:
    """One job that succeeded."""

    holder: Holder
    summary: str | None


#: The row of a job after an outcome, and whether that has changed it.
_Ended = tuple[Stored, bool]


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
        self._write = traced("holdfast.outcomes", self._write)  # type: ignore[method-assign]
        self._complete_together = traced("holdfast.outcomes", self._complete_together)  # type: ignore[method-assign]
        self._completes: Batches[None, _End, _Ended] = Batches(self._complete, self._complete_together)

    async def complete(self, caller: Caller, job_id: str, request: CompleteRequest) -> Job:
        """The job succeeded. Raises JobNotFound, JobNotOwned, LeaseLost or JobStateConflict."""
        return await self.begin_complete(caller, job_id, request).finish()

    def begin_complete(self, caller: Caller, job_id: str, request: CompleteRequest) -> Begun[Job]:
        """The same for who has no task to wait in. Raises what can be told at once."""
        admit_worker(caller, request.worker_id, "end jobs")
        token_hash = fence(self._settings, request.lease_token)
        holder = Holder(job_uuid(job_id), request.worker_id, token_hash)
        self._presence.seen(holder.worker_id, None)
        asking = self._completes.begin(None, _End(holder, request.result_summary))

        def plain() -> Job | None:
            return None if asking.told is None else self._ended("complete", *asking.told)

        async def finish() -> Job:
            return self._ended("complete", *await self._completes.finish(asking))

        return Begun(asking.when_over, plain, finish)

    async def fail(self, caller: Caller, job_id: str, request: FailRequest) -> Job:
        """The job failed; `retryable` brings it back while attempts are left. Raises as `complete` does."""
        admit_worker(caller, request.worker_id, "end jobs")
        token_hash = fence(self._settings, request.lease_token)

        def work(connection: Connection, found: UUID) -> Stored | None:
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

    async def _complete(self, end: _End) -> _Ended:
        holder = end.holder
        return await self._write(
            "complete",
            holder,
            lambda connection, found: store.complete(
                connection, found, holder.worker_id, holder.token_hash, end.summary
            ),
        )

    async def _complete_together(self, ends: Sequence[_End]) -> list[_Ended | None]:
        chosen = one_a_job([end.holder for end in ends])
        said = [(ends[number].holder, ends[number].summary) for number in chosen.values()]
        if self._database.dialect == "sqlite":
            ended = await self._database.write(lambda c: complete_in_turn(c, said), lane=Lane.SINGLE)
            rows = ended.by_id()
        else:
            rows = await self._database.write(lambda c: complete_together(c, said), lane=Lane.SINGLE)
        return [
            (row, True)
            if chosen[end.holder.job_id] == number and (row := rows.get(end.holder.job_id)) is not None
            else None
            for number, end in enumerate(ends)
        ]

    async def _end(
        self,
        verb: Verb,
        job_id: str,
        worker_id: str,
        token_hash: str | None,
        work: Callable[[Connection, UUID], Stored | None],
    ) -> Job:
        holder = Holder(job_uuid(job_id), worker_id, token_hash)
        self._presence.seen(worker_id, None)
        return self._ended(verb, *await self._write(verb, holder, work))

    async def _write(
        self, verb: Verb, holder: Holder, work: Callable[[Connection, UUID], Stored | None]
    ) -> _Ended:
        """The job after `work`, and whether that changed it."""
        found, worker_id, token_hash = holder.job_id, holder.worker_id, holder.token_hash

        def ending(connection: Connection) -> _Ended:
            changed = work(connection, found)
            if changed is not None:
                return changed, True
            row = find(connection, found)
            if repeated(row, verb, worker_id, token_hash):
                assert row is not None
                return columns(row), False
            raise why_not(row, found, worker_id, token_hash, verb)

        return await self._database.write(ending, lane=Lane.SINGLE)

    def _ended(self, verb: Verb, row: Stored, changed: bool) -> Job:
        job = job_from(row)
        if changed:
            self._counters.add(_COUNTED[verb])
            self._counters.ended(job.status)
            if job.status is JobStatus.QUEUED:
                self._bus.announce("jobs")
            if self._cache.paused() is not None:
                self._bus.announce("running")  # somebody waits for the drain
        return job
