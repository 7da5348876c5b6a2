"""Jobs: making, reading, and what a person asks of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
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
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.prepared import Stored, first
from holdfast_core.db.tables import jobs, lanes, status_is
from holdfast_core.db.types import UTC_TIME, Now, columns
from holdfast_core.schemas import EnqueueRequest, Job, JobQuery
from holdfast_core.states import JobStatus
from holdfast_core.store.lanes import add_lanes, lane_key

__all__ = [
    "SHOWN",
    "VOID",
    "New",
    "add_lanes_of",
    "cancel",
    "find",
    "find_by_keys",
    "insert_job",
    "insert_jobs",
    "is_stale",
    "job_from",
    "job_values",
    "list_jobs",
    "put_back",
    "requeue",
    "retry",
    "retry_many",
]

#: How a claim ended that its holder did not end.
VOID: Final = "void"

_LIKE_ESCAPE: Final = "\\"

#: The columns that a job is made of for those who ask; the others are for the queue's own use. Named where a
#: statement returns many jobs, since each value that is not needed costs there.
SHOWN: Final = tuple(jobs.c[name] for name in Job.model_fields if name in jobs.c)

# One job by its id.
_FIND = select(jobs).where(jobs.c.id == bindparam("job_id"))

# A new job, waiting in its lane. Nothing where the lane is missing, or the key is there already.
_VALUES: Final = (
    "id",
    "type",
    "priority",
    "payload",
    "required_capabilities",
    "affinity_key",
    "next_attempt_at",
    "max_attempts",
    "created_by_user_id",
    "enqueue_key",
    "enqueue_body",
)
_BY_SERVER: Final[dict[str, Any]] = {
    "status": literal(JobStatus.QUEUED.value, String(16)),
    "attempt": literal(1, Integer()),
    "ready": func.coalesce(bindparam("due_at", type_=UTC_TIME) <= Now(stable=True), true()),
    # One moment for a whole batch: their ids keep them in order.
    "created_at": Now(stable=True),
    "updated_at": Now(stable=True),
}


@cache
def _insert(dialect: str) -> Any:
    adding = (postgresql if dialect == "postgresql" else sqlite).insert(jobs)
    given = [bindparam(name, type_=jobs.c[name].type) for name in _VALUES]
    row = select(*given, *_BY_SERVER.values(), lanes.c.id).where(
        lanes.c.key == bindparam("lane_key", type_=String())
    )
    return (
        adding.from_select([*_VALUES, *_BY_SERVER, "lane"], row)
        .on_conflict_do_nothing(index_elements=["enqueue_key"], index_where=text("enqueue_key IS NOT NULL"))
        .returning(*jobs.c)
    )


# Many new jobs, in the order of the list.
_INSERT_MANY = insert(jobs).values(_BY_SERVER).returning(*jobs.c, sort_by_parameter_order=True)

# Jobs by what they were enqueued under.
_BY_KEY = select(jobs).where(jobs.c.enqueue_key.in_(bindparam("keys", expanding=True)))

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
        "ready": true() if delay is None else or_(over, delay <= 0),
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
        ready=true(),
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

_again: Final[dict[str, Any]] = {
    "status": JobStatus.QUEUED.value,
    "attempt": 1,
    "claimed_by": None,
    "checkpoint": None,
    "progress": None,
    "result_summary": None,
    "error_message": None,
    "cancel_requested_at": None,
    "cancel_reason": None,
    "next_attempt_at": None,
    "ready": true(),
    "started_at": None,
    "finished_at": None,
    "updated_at": Now(),
}
_RETRYABLE: Final = (JobStatus.FAILED.value, JobStatus.DEAD_LETTER.value, JobStatus.CANCELLED.value)

# A finished job that did not succeed runs again, as if it were new, in its old place.
_RETRY = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), jobs.c.status.in_(_RETRYABLE))
    .values(_again)
    .returning(*jobs.c)
)

# Many of them, those that ended first. Finished, so that the index of finished jobs finds them; and not of late, so
# that a job which fails again at once is not taken again.
_ENDED = (
    select(jobs.c.id)
    .where(
        jobs.c.finished_at.is_not(None),
        jobs.c.finished_at <= bindparam("ended_by", type_=UTC_TIME),
        jobs.c.status == bindparam("ended_as", type_=String()),
        or_(
            bindparam("job_type", type_=String()).is_(None),
            jobs.c.type == bindparam("job_type", type_=String()),
        ),
    )
    .order_by(jobs.c.finished_at)
    .limit(bindparam("at_most", type_=Integer()))
)
_RETRY_MANY = update(jobs).where(jobs.c.id.in_(_ENDED.with_for_update(skip_locked=True))).values(_again)


def job_from(row: Row[Any] | Stored, *, lease_token: str | None = None, compact: bool = False) -> Job:
    """The job of a row that holds all of the table's columns."""
    return Job.model_validate(job_values(row, lease_token=lease_token, compact=compact))


def job_values(
    row: Row[Any] | Stored, *, lease_token: str | None = None, compact: bool = False
) -> dict[str, Any]:
    """What a job is made of, for an answer that holds more than the job."""
    values = columns(row)
    if compact:
        values["payload"] = None
    values["lease_token"] = lease_token
    return values


def find(connection: Connection, job_id: UUID) -> Row[Any] | None:
    """The row of a job, or None."""
    return connection.execute(_FIND, {"job_id": job_id}).one_or_none()


@dataclass(frozen=True, slots=True)
class New:
    """A job that is to be enqueued. `key` and `body` are the hashes of its idempotency key and request."""

    id: UUID
    request: EnqueueRequest
    user_id: UUID | None
    key: str | None
    body: str | None

    @property
    def lane_key(self) -> str:
        """The key of its lane."""
        return lane_key(self.request.type, self.request.required_capabilities)

    def values(self) -> dict[str, Any]:
        """Its columns that are not the server's to fill."""
        request = self.request
        return {
            "id": self.id,
            "type": request.type,
            "priority": request.priority,
            "payload": request.payload,
            "required_capabilities": request.required_capabilities,
            "affinity_key": request.affinity_key,
            "next_attempt_at": request.run_at,
            "due_at": request.run_at,
            "max_attempts": request.max_attempts,
            "created_by_user_id": self.user_id,
            "enqueue_key": self.key,
            "enqueue_body": self.body,
        }


def insert_job(connection: Connection, new: New) -> Stored | None:
    """Add a job at the end of its priority. None where a job has its key already, or its lane is missing."""
    values = {**new.values(), "lane_key": new.lane_key}
    return first(connection, _insert(connection.dialect.name), values)


def add_lanes_of(connection: Connection, new: Sequence[New]) -> dict[str, int]:
    """The lanes of these jobs, made where they are missing."""
    kinds = {one.lane_key: (one.request.type, one.request.required_capabilities) for one in new}
    return add_lanes(connection, kinds)


def insert_jobs(connection: Connection, new: Sequence[New]) -> list[Job]:
    """Add many jobs, in their order. Raises IntegrityError where one has the key of a job that exists."""
    lane = add_lanes_of(connection, new)
    rows = [{**one.values(), "lane": lane[one.lane_key]} for one in new]
    return [job_from(row) for row in connection.execute(_INSERT_MANY, rows)]


def find_by_keys(connection: Connection, keys: Sequence[str]) -> dict[str, Stored]:
    """The jobs that were enqueued under these keys, by key."""
    if not keys:
        return {}
    return {row.enqueue_key: columns(row) for row in connection.execute(_BY_KEY, {"keys": list(keys)})}


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


def retry_many(
    connection: Connection, *, status: str, job_type: str | None, ended_by: datetime, limit: int
) -> int:
    """Queue up to `limit` jobs again that ended in `status` by that time. Returns how many there were."""
    arguments = {"ended_by": ended_by, "ended_as": status, "job_type": job_type, "at_most": limit}
    return connection.execute(_RETRY_MANY, arguments).rowcount
