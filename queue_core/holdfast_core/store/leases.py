"""What the holder of a job says: heartbeats and outcomes. None of these passes the gate.

Each is one conditional UPDATE, so two calls for a job cannot both win. A lease that has run out is not lost
until somebody takes the job: the statements do not look at the clock.
"""

from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    String,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    update,
)

from holdfast_core.db.prepared import Stored, first
from holdfast_core.db.tables import jobs, status_is
from holdfast_core.db.types import Now
from holdfast_core.schemas import HeartbeatRequest
from holdfast_core.states import JobStatus
from holdfast_core.store.backoff import backoff
from holdfast_core.store.given import Given, bound
from holdfast_core.store.jobs import SHOWN, put_back

__all__ = [
    "cancel_ack",
    "complete",
    "complete_values",
    "fail",
    "fail_retryable",
    "give_back",
    "heartbeat",
    "heartbeat_values",
    "release",
]

# Held by this worker, and, where a token is given, under this very claim.
_held: Final[ColumnElement[bool]] = and_(
    jobs.c.id == bindparam("job_id"),
    status_is(JobStatus.RUNNING),
    jobs.c.claimed_by == bindparam("worker_id"),
    or_(
        bindparam("token_hash", type_=String()).is_(None),
        jobs.c.claim_token_hash == bindparam("token_hash", type_=String()),
    ),
)


def heartbeat_values(given: Given, *more: ColumnElement[bool]) -> dict[str, Any]:
    """What a heartbeat sets. `more`: what else is progress, beside a new phase and a new checkpoint.

    It extends the lease from now on, expired or not, and touches no indexed column, so the row stays where it is.
    """
    new_phase, new_checkpoint = given("new_phase", String()), given("new_checkpoint", String())
    return {
        "lease_expires_at": Now(given("lease_seconds", Float())),
        "phase": func.coalesce(new_phase, jobs.c.phase),
        "checkpoint": func.coalesce(new_checkpoint, jobs.c.checkpoint),
        "heartbeat_at": Now(),
        # What it says anew is progress; to repeat what it said is none.
        "progressed_at": case(
            (
                or_(
                    func.coalesce(new_phase, jobs.c.phase) != jobs.c.phase,
                    and_(
                        new_checkpoint.is_not(None),
                        new_checkpoint != func.coalesce(jobs.c.checkpoint, literal("", String())),
                    ),
                    *more,
                ),
                Now(),
            ),
            else_=jobs.c.progressed_at,
        ),
        "updated_at": Now(),
    }


# Extend the lease.
_HEARTBEAT = update(jobs).where(_held).values(heartbeat_values(bound)).returning(*SHOWN)

# The same, with a new progress.
_HEARTBEAT_PROGRESS = _HEARTBEAT.values(
    progress=bindparam("new_progress", type_=jobs.c.progress.type), progressed_at=Now()
)

_over: Final[dict[str, Any]] = {
    "lease_expires_at": None,
    "phase": None,
    "finished_at": Now(),
    "updated_at": Now(),
}


def complete_values(given: Given) -> dict[str, Any]:
    """What ends a job in `succeeded`."""
    return {
        "status": JobStatus.SUCCEEDED.value,
        "result_summary": given("summary", String()),
        "error_message": None,
        "claim_outcome": "complete",
        **_over,
    }


# The job succeeded; this counts also where its cancellation was asked for.
_COMPLETE = update(jobs).where(_held).values(complete_values(bound)).returning(*SHOWN)

# The holder stopped a job whose cancellation was asked for.
_CANCEL_ACK = (
    update(jobs)
    .where(_held, jobs.c.cancel_requested_at.is_not(None))
    .values(
        status=JobStatus.CANCELLED.value,
        error_message=func.coalesce(bindparam("message", type_=String()), jobs.c.error_message),
        claim_outcome="cancel_ack",
        **_over,
    )
    .returning(*SHOWN)
)

# The job goes back to its place; no attempt is used.
_RELEASE = update(jobs).where(_held).values(put_back(outcome="release", uses_attempt=False)).returning(*SHOWN)


# The same by the server, for a caller that is gone: its requestId may be used again.
_GIVE_BACK = _RELEASE.values(request_id=None, asked_at=None)


@cache
def _fail(dialect: str, retryable: bool) -> Update:
    # A retryable failure comes back after a back-off while attempts are left; a plain one is final.
    # Either ends in `cancelled` where the cancellation was asked for.
    values = put_back(outcome="fail", uses_attempt=True, delay=backoff(dialect))
    if not retryable:
        cancelled = jobs.c.cancel_requested_at.is_not(None)
        values = {
            **_over,
            "status": _either(cancelled, JobStatus.CANCELLED, JobStatus.FAILED),
            "claim_outcome": "fail",
        }
    values["error_message"] = bindparam("message", type_=String())
    return update(jobs).where(_held).values(values).returning(*SHOWN)


def _either(condition: ColumnElement[bool], then: JobStatus, otherwise: JobStatus) -> Any:
    return case((condition, literal(then.value, String(16))), else_=literal(otherwise.value, String(16)))


def _holder(job_id: UUID, worker_id: str, token_hash: str | None) -> dict[str, Any]:
    return {"job_id": job_id, "worker_id": worker_id, "token_hash": token_hash}


def heartbeat(
    connection: Connection, job_id: UUID, request: HeartbeatRequest, token_hash: str | None
) -> Stored | None:
    """Extend the lease. None where the caller does not hold the job."""
    arguments: dict[str, Any] = {
        **_holder(job_id, request.worker_id, token_hash),
        "lease_seconds": float(request.lease_seconds),
        "new_phase": request.phase,
        "new_checkpoint": request.checkpoint,
    }
    if request.progress is None:
        return first(connection, _HEARTBEAT, arguments)
    return first(connection, _HEARTBEAT_PROGRESS, {**arguments, "new_progress": request.progress})


def complete(
    connection: Connection, job_id: UUID, worker_id: str, token_hash: str | None, summary: str | None
) -> Stored | None:
    """End the job in `succeeded`. None where the caller does not hold it."""
    return first(connection, _COMPLETE, {**_holder(job_id, worker_id, token_hash), "summary": summary})


def fail(
    connection: Connection, job_id: UUID, worker_id: str, token_hash: str | None, message: str
) -> Stored | None:
    """End the job in `failed`. None where the caller does not hold it."""
    statement = _fail(connection.dialect.name, retryable=False)
    return first(connection, statement, {**_holder(job_id, worker_id, token_hash), "message": message})


def fail_retryable(
    connection: Connection,
    job_id: UUID,
    worker_id: str,
    token_hash: str | None,
    message: str,
    delay_seconds: float,
) -> Stored | None:
    """Put the job back for another attempt. None where the caller does not hold it."""
    statement = _fail(connection.dialect.name, retryable=True)
    arguments = {**_holder(job_id, worker_id, token_hash), "message": message, "delay_seconds": delay_seconds}
    return first(connection, statement, arguments)


def release(connection: Connection, job_id: UUID, worker_id: str, token_hash: str | None) -> Stored | None:
    """Give the job back to its place. None where the caller does not hold it."""
    return first(connection, _RELEASE, _holder(job_id, worker_id, token_hash))


def give_back(connection: Connection, job_id: UUID, worker_id: str, token_hash: str) -> Stored | None:
    """Give a job back whose claimer never heard of it. None where this very claim is over."""
    return first(connection, _GIVE_BACK, _holder(job_id, worker_id, token_hash))


def cancel_ack(
    connection: Connection, job_id: UUID, worker_id: str, token_hash: str | None, message: str | None
) -> Stored | None:
    """End the job in `cancelled`. None where the caller does not hold it, or nobody asked for that."""
    return first(connection, _CANCEL_ACK, {**_holder(job_id, worker_id, token_hash), "message": message})
