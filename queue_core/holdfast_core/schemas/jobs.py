"""Jobs, claims, leases and outcomes (CONTRACT section 4)."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from holdfast_core.schemas.base import (
    MAX_LEASE_SECONDS,
    MAX_PAGE,
    MAX_PROGRESS_BYTES,
    MAX_WAIT_SECONDS,
    Answer,
    Capabilities,
    IdempotencyKey,
    JsonObject,
    LongText,
    Name,
    Part,
    PersonRequest,
    Query,
    Reason,
    RequestId,
    ShortText,
    Time,
    Version,
    WorkerRequest,
    at_most_bytes,
)
from holdfast_core.schemas.system import System
from holdfast_core.states import JobPhase, JobStatus

__all__ = [
    "MAX_BATCH",
    "BulkRetryAnswer",
    "BulkRetryRequest",
    "CancelAckRequest",
    "CancelRequest",
    "ClaimAnswer",
    "ClaimRequest",
    "CompleteRequest",
    "EnqueueBatchRequest",
    "EnqueueRequest",
    "FailRequest",
    "HeartbeatAnswer",
    "HeartbeatRequest",
    "Job",
    "JobBatch",
    "JobPage",
    "JobQuery",
    "LeaseToken",
    "ReleaseRequest",
    "RequeueRequest",
    "RetryRequest",
]


#: Jobs of one batch.
MAX_BATCH: Final = 1_000

RetryableStatus = Literal["failed", "dead_letter", "cancelled"]
LeaseSeconds = Annotated[
    int, Field(ge=1, le=MAX_LEASE_SECONDS, description="How long the lease is to hold, from now.")
]
LeaseToken = Annotated[str, Field(min_length=1, max_length=128)]


class Job(Answer):
    """A job as clients see it. `leaseToken` is set only in the answer to its claim."""

    id: UUID
    type: str
    status: JobStatus
    priority: int
    payload: dict[str, Any] | None = Field(description="Null where the caller asked for a compact answer.")
    required_capabilities: list[str]
    affinity_key: str | None = None
    claimed_by: str | None = None
    lease_expires_at: datetime | None = None
    lease_token: str | None = None
    next_attempt_at: datetime | None = Field(default=None, description="Not handed out before this time.")
    attempt: int = Field(description="From 1.")
    max_attempts: int
    phase: JobPhase | None = None
    checkpoint: str | None = None
    progress: dict[str, Any] | None = None
    result_summary: str | None = None
    error_message: str | None = None
    cancel_requested_at: datetime | None = None
    cancel_reason: str | None = None
    created_by_user_id: UUID | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


class HeartbeatAnswer(Job):
    """The job, and the pause beside its own fields; consumers that ignore `system` keep working."""

    system: System


class JobPage(Answer):
    """A page of jobs, newest first."""

    items: list[Job]
    next_cursor: str | None = None


class JobBatch(Answer):
    """The jobs of a batch, in its order."""

    items: list[Job]


class BulkRetryAnswer(Answer):
    """How many jobs were queued again; `more` says that there are still some, so ask once more."""

    retried: int
    more: bool


class ClaimAnswer(Answer):
    """`job` given always comes with `workersPaused: false`; null means paused, or nothing to do."""

    job: Job | None
    system: System


class EnqueueRequest(PersonRequest):
    """A new job."""

    type: Name
    payload: JsonObject = Field(default_factory=dict)
    priority: int = Field(default=0, ge=-1_000, le=1_000, description="Highest first.")
    max_attempts: int = Field(default=3, ge=1, le=100)
    required_capabilities: Capabilities = Field(default_factory=list)
    run_at: Time | None = Field(default=None, description="Not before this time; its place stays.")
    affinity_key: Name | None = Field(default=None, description="Stored and shown; not used for claiming.")
    idempotency_key: IdempotencyKey | None = Field(
        default=None, description="A repeat with the same key answers the first job, while it exists."
    )


class EnqueueBatchRequest(PersonRequest):
    """Many new jobs, all or none."""

    jobs: Annotated[list[EnqueueRequest], Field(min_length=1, max_length=MAX_BATCH)]


class ClaimRequest(WorkerRequest):
    """A worker asks for one job."""

    worker_id: Name
    lease_seconds: LeaseSeconds
    allowed_types: Annotated[list[Name], Field(max_length=64)] | None = Field(
        default=None, description="Only these types; null or absent: any."
    )
    worker_capabilities: Capabilities = Field(default_factory=list)
    wait_seconds: float = Field(
        default=0,
        ge=0,
        le=MAX_WAIT_SECONDS,
        description="Wait this long for work; a pause ends the wait at once.",
    )
    observed_version: Version | None = None
    request_id: RequestId | None = Field(
        default=None,
        description=(
            "One for each claim: a repeat with the same id answers the same job under a new leaseToken,"
            " so that a lost answer costs nothing."
        ),
    )


class HeartbeatRequest(WorkerRequest):
    """The holder of a job extends its lease."""

    worker_id: Name
    lease_seconds: LeaseSeconds
    lease_token: LeaseToken | None = None
    observed_version: Version | None = None
    phase: JobPhase | None = None
    checkpoint: ShortText | None = None
    progress: Annotated[JsonObject, AfterValidator(at_most_bytes(MAX_PROGRESS_BYTES))] | None = None
    compact: bool = Field(default=False, description="Leave the payload out of the answer.")


class CompleteRequest(WorkerRequest):
    """The job succeeded."""

    worker_id: Name
    result_summary: LongText | None = None
    lease_token: LeaseToken | None = None


class FailRequest(WorkerRequest):
    """The job failed; with `retryable` it comes back after a back-off while attempts are left."""

    worker_id: Name
    error_message: LongText
    retryable: bool = False
    lease_token: LeaseToken | None = None


class ReleaseRequest(WorkerRequest):
    """The job goes back to its place; no attempt is used."""

    worker_id: Name
    lease_token: LeaseToken
    reason: LongText | None = None


class CancelAckRequest(WorkerRequest):
    """The holder has stopped a job whose cancellation was asked for."""

    worker_id: Name
    message: LongText | None = None
    lease_token: LeaseToken | None = None


class CancelRequest(PersonRequest):
    """Cancel a job: at once if queued or stale, else through its next heartbeat."""

    reason: Reason | None = None


class RequeueRequest(PersonRequest):
    """Put a stale job back to its place, with one attempt used."""

    reason: Reason


class RetryRequest(PersonRequest):
    """Run a finished job (failed, dead_letter or cancelled) again, from attempt 1."""

    reason: Reason | None = None


class BulkRetryRequest(PersonRequest):
    """Run all jobs again that ended this way."""

    status: RetryableStatus
    type: Name | None = Field(default=None, description="Only jobs of this type.")
    reason: Reason


class JobQuery(Query):
    """Which jobs to list."""

    status: JobStatus | None = None
    type: Name | None = None
    claimed_by: Name | None = None
    q: Part | None = Field(default=None, description="Part of the type, id or worker.")
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(default=None, max_length=256)
