"""Jobs: making, reading, and what a person asks of them."""

from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from holdfast_core.db.tables import jobs, status_is
from holdfast_core.db.types import Now, columns
from holdfast_core.schemas import EnqueueRequest, Job, JobQuery
from holdfast_core.states import JobStatus

__all__ = [
    "VOID",
    "cancel",
    "find",
    "insert_job",
    "is_stale",
    "job_from",
    "list_jobs",
    "put_back",
    "requeue",
    "retry",
]

#: How a claim ended that its holder did not end.
VOID: Final = "void"

_LIKE_ESCAPE: Final = "\\"

# One job by its id.
_FIND = select(jobs).where(jobs.c.id == bindparam("job_id"))

# A new job, waiting.
_INSERT = insert(jobs).values(created_at=Now(), updated_at=Now()).returning(*jobs.c)

is_stale: Final[ColumnElement[bool]] = and_(
    status_is(JobStatus.RUNNING), jobs.c.lease_expires_at <= Now(stable=True)
)


def put_back(
    *, outcome: str, uses_attempt: bool, delay: ColumnElement[float] | None = None, error: str | None = None
) -> dict[str, Any]:
    """What to set on a running job that goes back to its place.

    A job whose cancellation was asked for ends in `cancelled` instead, one that has used up its attempts
    in `dead_letter`. `delay` is in seconds from now; createdAt, and with it the place, stays.
    """
    cancelled = jobs.c.cancel_requested_at.is_not(None)
    exhausted = and_(literal(uses_attempt), jobs.c.attempt >= jobs.c.max_attempts)
    over = or_(cancelled, exhausted)
    values: dict[str, Any] = {
        "status": case(
            (cancelled, literal(JobStatus.CANCELLED.value, String(16))),
            (exhausted, literal(JobStatus.DEAD_LETTER.value, String(16))),
            else_=literal(JobStatus.QUEUED.value, String(16)),
        ),
        "attempt": case((over, jobs.c.attempt), else_=jobs.c.attempt + int(uses_attempt)),
        "claimed_by": case((over, jobs.c.claimed_by), else_=null()),
        "finished_at": case((over, Now()), else_=null()),
        "next_attempt_at": null() if delay is None else case((over, null()), else_=Now(delay)),
        "lease_expires_at": None,
        "phase": None,
        "claim_outcome": outcome,
        "updated_at": Now(),
    }
    if error is not None:
        values["error_message"] = error
    return values


# A job's row, held still: between two statements its holder could end the claim.
_HOLD = select(jobs.c.id).where(jobs.c.id == bindparam("job_id")).with_for_update()

# A queued or stale job ends at once. Its claim, if any, is void.
_CANCEL_NOW = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), or_(status_is(JobStatus.QUEUED), is_stale))
    .values(
        status=JobStatus.CANCELLED.value,
        cancel_requested_at=func.coalesce(jobs.c.cancel_requested_at, Now()),
        cancel_reason=func.coalesce(jobs.c.cancel_reason, bindparam("reason", type_=String())),
        finished_at=Now(),
        lease_expires_at=None,
        next_attempt_at=None,
        phase=None,
        # An outcome that its holder made stays known, so that it can be repeated.
        claim_outcome=case((status_is(JobStatus.RUNNING), literal(VOID)), else_=jobs.c.claim_outcome),
        updated_at=Now(),
    )
    .returning(*jobs.c)
)

# A running job is asked through its next heartbeat, once.
_CANCEL_ASK = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("job_id"),
        status_is(JobStatus.RUNNING),
        jobs.c.cancel_requested_at.is_(None),
    )
    .values(
        cancel_requested_at=Now(),
        cancel_reason=bindparam("reason", type_=String()),
        updated_at=Now(),
    )
    .returning(*jobs.c)
)

# A stale job goes back to its place at once, with one attempt used.
_REQUEUE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), is_stale)
    .values(put_back(outcome=VOID, uses_attempt=True))
    .returning(*jobs.c)
)

# A finished job that did not succeed runs again, as if it were new, in its old place.
_RETRY = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("job_id"),
        jobs.c.status.in_([JobStatus.FAILED.value, JobStatus.DEAD_LETTER.value, JobStatus.CANCELLED.value]),
    )
    .values(
        status=JobStatus.QUEUED.value,
        attempt=1,
        claimed_by=None,
        checkpoint=None,
        progress=None,
        result_summary=None,
        error_message=None,
        cancel_requested_at=None,
        cancel_reason=None,
        next_attempt_at=None,
        started_at=None,
        finished_at=None,
        updated_at=Now(),
    )
    .returning(*jobs.c)
)


def job_from(row: Row[Any], *, lease_token: str | None = None, compact: bool = False) -> Job:
    """The job of a row that holds all of the table's columns."""
    values = columns(row)
    if compact:
        values["payload"] = None
    return Job.model_validate({**values, "lease_token": lease_token})


def find(connection: Connection, job_id: UUID) -> Row[Any] | None:
    """The row of a job, or None."""
    return connection.execute(_FIND, {"job_id": job_id}).one_or_none()


def insert_job(connection: Connection, job_id: UUID, request: EnqueueRequest, user_id: UUID | None) -> Job:
    """Add a job at the end of its priority."""
    values: dict[str, Any] = {
        "id": job_id,
        "type": request.type,
        "status": JobStatus.QUEUED.value,
        "priority": request.priority,
        "payload": request.payload,
        "required_capabilities": request.required_capabilities,
        "affinity_key": request.affinity_key,
        "next_attempt_at": request.run_at,
        "attempt": 1,
        "max_attempts": request.max_attempts,
        "created_by_user_id": user_id,
    }
    return job_from(connection.execute(_INSERT, values).one())


def list_jobs(
    connection: Connection, query: JobQuery, *, before: UUID | None
) -> tuple[list[Job], UUID | None]:
    """A page of jobs, newest first, and the id to ask with for the next one. Ids sort by their making."""
    wanted = select(jobs).order_by(jobs.c.id.desc()).limit(query.limit + 1)
    if before is not None:
        wanted = wanted.where(jobs.c.id < before)
    if query.status is not None:
        wanted = wanted.where(jobs.c.status == query.status)
    if query.type is not None:
        wanted = wanted.where(jobs.c.type == query.type)
    if query.claimed_by is not None:
        wanted = wanted.where(jobs.c.claimed_by == query.claimed_by)
    if query.q is not None:
        escaped = query.q.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        part = f"%{escaped}%"
        wanted = wanted.where(
            or_(
                jobs.c.type.ilike(part, escape=_LIKE_ESCAPE),
                jobs.c.claimed_by.ilike(part, escape=_LIKE_ESCAPE),
                cast(jobs.c.id, String).ilike(part, escape=_LIKE_ESCAPE),
            )
        )
    found = [job_from(row) for row in connection.execute(wanted)]
    page = found[: query.limit]
    return page, page[-1].id if len(found) > query.limit else None


def cancel(connection: Connection, job_id: UUID, reason: str | None) -> Job | None:
    """Cancel a queued or stale job at once, ask the holder of a running one. None where it is neither, or was
    asked before."""
    arguments = {"job_id": job_id, "reason": reason}
    connection.execute(_HOLD, {"job_id": job_id})
    row = connection.execute(_CANCEL_NOW, arguments).one_or_none()
    if row is None:
        row = connection.execute(_CANCEL_ASK, arguments).one_or_none()
    return None if row is None else job_from(row)


def requeue(connection: Connection, job_id: UUID) -> Job | None:
    """Put a stale job back to its place. None where it is not stale."""
    row = connection.execute(_REQUEUE, {"job_id": job_id}).one_or_none()
    return None if row is None else job_from(row)


def retry(connection: Connection, job_id: UUID) -> Job | None:
    """Queue a failed, dead or cancelled job again. None where it is none of these."""
    row = connection.execute(_RETRY, {"job_id": job_id}).one_or_none()
    return None if row is None else job_from(row)
