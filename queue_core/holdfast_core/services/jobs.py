"""Jobs: making and reading them, and what a person asks of them. None of this waits for the gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.db import Database, Lane
from holdfast_core.db.prepared import Stored
from holdfast_core.errors import FieldError, InvalidRequest, JobNotFound, JobStateConflict
from holdfast_core.ids import uuid7
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import (
    BulkRetryAnswer,
    BulkRetryRequest,
    CancelRequest,
    EnqueueBatchRequest,
    EnqueueRequest,
    Job,
    JobBatch,
    JobPage,
    JobQuery,
    RequeueRequest,
    RetryRequest,
)
from holdfast_core.services.batches import Batches
from holdfast_core.services.counters import Counters
from holdfast_core.services.keys import body_hash, key_hash, key_reused
from holdfast_core.states import JobStatus
from holdfast_core.store import jobs as store
from holdfast_core.store.job_batches import insert_together, is_small
from holdfast_core.store.metrics import database_time

__all__ = ["Enqueued", "JobService", "job_uuid"]

log = structlog.get_logger(__name__)

#: What idempotency keys of jobs belong to, on every transport.
ROUTE: Final = "jobs"
#: Jobs that a bulk retry queues in one transaction, and in one call.
RETRY_BATCH: Final = 1_000
RETRY_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job, and whether this call has made it."""

    job: Job
    is_new: bool


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

    def __init__(self, database: Database, bus: ChangeBus, counters: Counters) -> None:
        self._database = database
        self._counters = counters
        self._bus = bus
        self._batches: Batches[None, store.New, Stored] = Batches(self._add, self._add_together)

    async def enqueue(self, caller: Caller, request: EnqueueRequest) -> Enqueued:
        """Add a job. Works while paused, too; nothing hands it out before the resume.

        A repeat with the same idempotency key answers the first job, while it exists. Raises KeyReused where
        that was another request.
        """
        admit(caller, Permission.PRODUCE, "add jobs")
        new = _new(caller, request)
        # On SQLite the writer's thread puts together what waits for it.
        alone = self._database.dialect == "sqlite" or not is_small(new)
        row = await (self._add(new) if alone else self._batches.ask(None, new))
        job = store.job_from(row)
        if job.id != new.id:
            _same_request(row, new)
            return Enqueued(job, is_new=False)
        self._counters.add("jobs_enqueued")
        self._bus.announce("jobs")
        return Enqueued(job, is_new=True)

    async def _add(self, new: store.New) -> Stored:
        row = await self._database.write(lambda c: store.insert_job(c, new), lane=Lane.SINGLE)
        if row is None:
            # The first of its kind, or a repeat.
            row = await self._database.write(lambda c: _insert_or_find(c, new))
        return row

    async def _add_together(self, new: Sequence[store.New]) -> list[Stored | None]:
        added = await self._database.write(lambda c: insert_together(c, new), lane=Lane.SINGLE)
        return [added.get(one.id) for one in new]

    async def enqueue_batch(self, caller: Caller, request: EnqueueBatchRequest) -> JobBatch:
        """Add many jobs in their order, all or none. Those whose idempotency key is known already are answered as
        they are. Raises InvalidRequest where one key comes twice, or KeyReused."""
        admit(caller, Permission.PRODUCE, "add jobs")
        new = [_new(caller, one) for one in request.jobs]
        _refuse_doubles(request)

        def work(connection: Connection) -> tuple[list[Job], int]:
            known = store.find_by_keys(connection, [one.key for one in new if one.key is not None])
            for one in new:
                if one.key in known:
                    _same_request(known[one.key], one)
            missing = [one for one in new if one.key not in known]
            made = {job.id: job for job in store.insert_jobs(connection, missing)} if missing else {}
            items = [made[one.id] if one.id in made else store.job_from(known[one.key or ""]) for one in new]
            return items, len(made)

        try:
            items, added = await self._database.write(work)
        except IntegrityError:  # somebody enqueued under one of its keys in this very moment
            items, added = await self._database.write(work)
        if added:
            self._counters.add("jobs_enqueued", added)
            self._bus.announce("jobs")
        return JobBatch(items=items)

    async def get(self, caller: Caller, job_id: str) -> Job:
        """One job; a worker sees its own. Raises JobNotFound."""
        admit(caller, Permission.JOBS, "see jobs")
        found = job_uuid(job_id)
        row = await self._database.read(lambda connection: store.find(connection, found))
        if row is None or not caller.owns(row.claimed_by):
            raise _not_found(found)
        return store.job_from(row)

    async def list(self, caller: Caller, query: JobQuery) -> JobPage:
        """A page of jobs, newest first; a worker sees its own. Raises InvalidRequest for a cursor that is not ours."""
        admit(caller, Permission.JOBS, "see jobs")
        if caller.bounds is not None:
            caller.bind(query.claimed_by or caller.bounds.worker_id)
            query = query.model_copy(update={"claimed_by": caller.bounds.worker_id})
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
        admit(caller, Permission.PRODUCE, "cancel jobs")
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
            self._counters.ended(job.status)
            self._bus.announce("running")
            log.info("job_cancel", job_id=job_id, status=job.status, reason=request.reason, actor=caller.name)
        return job

    async def requeue(self, caller: Caller, job_id: str, request: RequeueRequest) -> Job:
        """Put a stale job back to its place, also while paused: the way out of a drain that a dead worker
        blocks. Raises JobNotFound, or JobStateConflict for a job that is not stale."""
        admit(caller, Permission.REQUEUE, "put jobs back")
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
        self._counters.ended(job.status)
        self._bus.announce("running")
        self._bus.announce("jobs")
        log.info("job_requeued", job_id=job_id, status=job.status, reason=request.reason, actor=caller.name)
        return job

    async def retry(self, caller: Caller, job_id: str, request: RetryRequest) -> Job:
        """Queue a failed, dead or cancelled job again, from attempt 1, in its old place. Raises JobNotFound or
        JobStateConflict."""
        admit(caller, Permission.PRODUCE, "run jobs again")
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

    async def retry_many(self, caller: Caller, request: BulkRetryRequest) -> BulkRetryAnswer:
        """Queue all jobs again that have ended in `status` by now, those that ended first before the others, at most
        10,000 a call."""
        admit(caller, Permission.PRODUCE, "run jobs again")
        ended_by = await self._database.read(database_time)
        count = 0
        more = True
        while more and count < RETRY_MOST:
            changed = await self._database.write(
                lambda connection: store.retry_many(
                    connection,
                    status=request.status,
                    job_type=request.type,
                    ended_by=ended_by,
                    limit=RETRY_BATCH,
                )
            )
            count += changed
            more = changed == RETRY_BATCH
            if changed:
                self._bus.announce("jobs")
        log.info(
            "jobs_retried",
            count=count,
            status=request.status,
            type=request.type,
            reason=request.reason,
            actor=caller.name,
        )
        return BulkRetryAnswer(retried=count, more=more)


def _new(caller: Caller, request: EnqueueRequest) -> store.New:
    key = request.idempotency_key
    return store.New(
        id=uuid7(),
        request=request,
        user_id=caller.user_id,
        key=None if key is None else key_hash(caller, ROUTE, key),
        body=None if key is None else body_hash(request),
    )


def _insert_or_find(connection: Connection, new: store.New) -> Stored:
    """The row of the job that was made now, or of the one that has its key."""
    while True:  # a job that is removed between the two looks frees its key
        store.add_lanes_of(connection, [new])
        row = store.insert_job(connection, new)
        if row is None:
            row = store.find_by_keys(connection, [new.key or ""]).get(new.key or "")
        if row is not None:
            return row


def _same_request(row: Stored, new: store.New) -> None:
    if row["enqueue_body"] != new.body:
        raise key_reused()


def _refuse_doubles(request: EnqueueBatchRequest) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(request.jobs):
        if one.idempotency_key is None:
            continue
        if one.idempotency_key in first:
            raise InvalidRequest.of(
                FieldError(
                    f"jobs[{number}].idempotencyKey", f"is that of jobs[{first[one.idempotency_key]}], too"
                )
            )
        first[one.idempotency_key] = number


def _existing(connection: Connection, job_id: UUID) -> Job:
    row = store.find(connection, job_id)
    if row is None:
        raise _not_found(job_id)
    return store.job_from(row)


def _not_found(job_id: UUID) -> JobNotFound:
    return JobNotFound(f"No job has the id {job_id}.")
