"""Jobs: making and reading them, and what a person asks of them. None of this waits for the gate."""

from uuid import UUID

import structlog
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.db import Database, Lane
from holdfast_core.errors import FieldError, InvalidRequest, JobNotFound, JobStateConflict
from holdfast_core.ids import uuid7
from holdfast_core.schemas import (
    CancelRequest,
    EnqueueRequest,
    Job,
    JobPage,
    JobQuery,
    RequeueRequest,
    RetryRequest,
)
from holdfast_core.states import JobStatus
from holdfast_core.store import jobs as store

__all__ = ["JobService", "job_uuid"]

log = structlog.get_logger(__name__)


def job_uuid(job_id: str) -> UUID:
    """The id as a UUID. Raises JobNotFound where it cannot be one: then no job has it."""
    try:
        found = UUID(job_id)
    except ValueError:
        found = None
    if found is None or str(found) != job_id.lower():
        raise JobNotFound("No job has this id: ids look like 0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90.")
    return found


class JobService:
    """Jobs, for producers, viewers and operators."""

    def __init__(self, database: Database, bus: ChangeBus) -> None:
        self._database = database
        self._bus = bus

    async def enqueue(self, caller: Caller, request: EnqueueRequest) -> Job:
        """Add a job. Works while paused, too; nothing hands it out before the resume."""
        job_id = uuid7()
        job = await self._database.write(
            lambda connection: store.insert_job(connection, job_id, request, caller.user_id), lane=Lane.SINGLE
        )
        self._bus.announce("jobs")
        return job

    async def get(self, caller: Caller, job_id: str) -> Job:
        """One job. Raises JobNotFound."""
        found = job_uuid(job_id)
        row = await self._database.read(lambda connection: store.find(connection, found))
        if row is None:
            raise _not_found(found)
        return store.job_from(row)

    async def list(self, caller: Caller, query: JobQuery) -> JobPage:
        """A page of jobs, newest first. Raises InvalidRequest for a cursor that is not ours."""
        before: UUID | None = None
        if query.cursor is not None:
            try:
                before = UUID(query.cursor)
            except ValueError:
                raise InvalidRequest.of(FieldError("cursor", "is not one that a list answered")) from None
        items, more = await self._database.read(
            lambda connection: store.list_jobs(connection, query, before=before)
        )
        return JobPage(items=items, next_cursor=None if more is None else str(more))

    async def cancel(self, caller: Caller, job_id: str, request: CancelRequest) -> Job:
        """Cancel a queued or stale job at once; ask the holder of a running one through its heartbeat.

        Repeating it changes nothing. Raises JobNotFound, or JobStateConflict for a job that has ended otherwise.
        """
        found = job_uuid(job_id)

        def work(connection: Connection) -> tuple[Job, bool]:
            job = store.cancel(connection, found, request.reason)
            if job is not None:
                return job, True
            job = _existing(connection, found)
            asked = job.status is JobStatus.RUNNING and job.cancel_requested_at is not None
            if job.status is not JobStatus.CANCELLED and not asked:
                raise JobStateConflict(f"The job has ended in {job.status} and cannot be cancelled.")
            return job, False

        job, changed = await self._database.write(work)
        if changed:
            self._bus.announce("running")
            log.info("job_cancel", job_id=job_id, status=job.status, reason=request.reason, actor=caller.name)
        return job

    async def requeue(self, caller: Caller, job_id: str, request: RequeueRequest) -> Job:
        """Put a stale job back to its place, also while paused: the way out of a drain that a dead worker
        blocks. Raises JobNotFound, or JobStateConflict for a job that is not stale."""
        found = job_uuid(job_id)

        def work(connection: Connection) -> Job:
            job = store.requeue(connection, found)
            if job is not None:
                return job
            job = _existing(connection, found)
            if job.status is JobStatus.RUNNING:
                assert job.lease_expires_at is not None
                raise JobStateConflict(
                    f"Worker {job.claimed_by} holds the job under a lease until"
                    f" {job.lease_expires_at:%Y-%m-%dT%H:%M:%SZ}; only a stale job can be requeued. Cancel it to"
                    " ask its worker to stop."
                )
            raise JobStateConflict(f"The job is {job.status}, not stale, so there is nothing to requeue.")

        job = await self._database.write(work)
        self._bus.announce("running")
        self._bus.announce("jobs")
        log.info("job_requeued", job_id=job_id, status=job.status, reason=request.reason, actor=caller.name)
        return job

    async def retry(self, caller: Caller, job_id: str, request: RetryRequest) -> Job:
        """Queue a failed, dead or cancelled job again, from attempt 1, in its old place. Raises JobNotFound or
        JobStateConflict."""
        found = job_uuid(job_id)

        def work(connection: Connection) -> Job:
            job = store.retry(connection, found)
            if job is not None:
                return job
            job = _existing(connection, found)
            raise JobStateConflict(
                f"The job is {job.status}; only a failed, dead_letter or cancelled one can be retried."
            )

        job = await self._database.write(work)
        self._bus.announce("jobs")
        log.info("job_retried", job_id=job_id, reason=request.reason, actor=caller.name)
        return job


def _existing(connection: Connection, job_id: UUID) -> Job:
    row = store.find(connection, job_id)
    if row is None:
        raise _not_found(job_id)
    return store.job_from(row)


def _not_found(job_id: UUID) -> JobNotFound:
    return JobNotFound(f"No job has the id {job_id}.")
