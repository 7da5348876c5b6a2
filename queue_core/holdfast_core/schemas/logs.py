"""The log of a job: what its workers, and the server, have to say about it (CONTRACT section 4)."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from holdfast_core.schemas.base import (
    MAX_EVENT_PAYLOAD_BYTES,
    MAX_PAGE,
    MAX_TEXT,
    Answer,
    JsonObject,
    LongText,
    Name,
    Query,
    WorkerRequest,
    at_most_bytes,
)
from holdfast_core.schemas.jobs import LeaseToken

__all__ = ["JobEvent", "JobEventPage", "JobEventQuery", "JobFollowQuery", "LogLevel", "LogRequest"]

LogLevel = Literal["info", "warn", "error"]


class LogRequest(WorkerRequest):
    """A worker adds one event to the log of its job."""

    worker_id: Name
    level: LogLevel = "info"
    message: Annotated[LongText, Field(min_length=1, description=f"1 to {MAX_TEXT:,} characters.")]
    payload: Annotated[JsonObject, AfterValidator(at_most_bytes(MAX_EVENT_PAYLOAD_BYTES))] | None = None
    lease_token: LeaseToken | None = None


class JobEvent(Answer):
    """One event of a job's log. Never changed; gone only with its job."""

    job_id: UUID
    sequence: int = Field(description="From 1, without gaps, in the order of the log.")
    worker_id: str | None = Field(default=None, description="Null where the server itself speaks.")
    level: LogLevel
    message: str
    payload: dict[str, Any] | None = None
    created_at: datetime


class JobEventPage(Answer):
    """A page of a job's log, oldest first. `nextAfter` goes into `after`, now or when there is more."""

    items: list[JobEvent]
    next_after: int


class JobFollowQuery(Query):
    """Where to begin."""

    after: int = Field(default=0, ge=0, le=2**31 - 1, description="Only events with a higher sequence.")


class JobEventQuery(JobFollowQuery):
    """Which part of the log."""

    limit: int = Field(default=100, ge=1, le=MAX_PAGE)
