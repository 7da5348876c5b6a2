"""The `system` object, the snapshot around it and the requests that change it (CONTRACT sections 2 and 3).

There is one model of `system`; every transport and the worker use it.
"""

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field, model_validator

from holdfast_core.schemas.base import (
    MAX_PAGE,
    Answer,
    PersonRequest,
    Query,
    Reason,
    Time,
    Version,
    broken_rule,
)
from holdfast_core.states import PauseAction, PauseMode

__all__ = [
    "MAX_LIMIT_SECONDS",
    "MIN_LIMIT_SECONDS",
    "Audit",
    "ControlEvent",
    "ControlEventPage",
    "ControlSnapshot",
    "EventOutcome",
    "HistoryQuery",
    "Metrics",
    "Snapshot",
    "System",
    "WaitFor",
    "WaitQuery",
    "WaitSnapshot",
    "WorkerCounts",
    "WorkerPauseRequest",
]

#: The shortest and the longest time limit of a pause.
MIN_LIMIT_SECONDS: Final = 60
MAX_LIMIT_SECONDS: Final = 7 * 86_400

EventOutcome = Literal["changed", "unchanged", "refused"]
WaitFor = Literal["drained", "parked", "running", "version"]


class System(Answer):
    """The pause as every client sees it. While running, mode, reason, requestedAt and resumeAt are null."""

    workers_paused: bool
    mode: PauseMode | None = None
    reason: str | None = None
    version: int = Field(ge=1, description="Grows by exactly one at each change of the pause.")
    requested_by_user_id: UUID | None = Field(default=None, description="Who made the latest change.")
    requested_by: str | None = None
    requested_at: datetime | None = Field(default=None, description="When this pause first began.")
    updated_at: datetime = Field(description="When the latest change was made.")
    resume_at: datetime | None = None


class Metrics(Answer):
    """Counts of jobs. `running` (lease alive, parked included) and `staleRunning` are disjoint."""

    queued: int
    scheduled: int
    running: int
    parked: int
    stale_running: int
    is_drained: bool
    is_parked: bool
    safe_to_upgrade: bool
    oldest_queued_seconds: float | None = Field(description="Age in seconds of the oldest due job.")
    measured_at: datetime = Field(description="When queued, scheduled and the age were counted.")


class WorkerCounts(Answer):
    """How many workers are connected, and how many of them have reported the current version."""

    connected: int
    acknowledged: int
    unacknowledged: list[str] = Field(description="Up to 20 ids, from 15 s after the change on.")


class ControlEvent(Answer):
    """One line of the audit log. Never changed, never deleted."""

    id: UUID
    control: str
    action: PauseAction
    outcome: EventOutcome
    code: str | None = Field(default=None, description="The error's code where the request was refused.")
    mode: PauseMode | None = None
    reason: str | None = None
    actor_user_id: UUID | None = None
    actor: str | None = None
    version: int
    force_resume: bool = False
    resume_at: datetime | None = None
    running: int | None = None
    stale_running: int | None = None
    created_at: datetime


class Audit(Answer):
    """The newest events, newest first, refused ones left out."""

    latest: list[ControlEvent]


class Snapshot(Answer):
    """What status, pause, resume and wait answer."""

    system: System
    metrics: Metrics
    workers: WorkerCounts
    audit: Audit
    warning: str | None = None


class ControlSnapshot(Snapshot):
    """What a toggle answers. `replayed`: this is the answer to an earlier request with the same key."""

    replayed: bool = False


class WaitSnapshot(Snapshot):
    """A snapshot, and whether what was waited for has come."""

    reached: bool


class ControlEventPage(Answer):
    """A page of the audit log, newest first. `nextBefore` goes into `before` for the next page."""

    items: list[ControlEvent]
    next_before: UUID | None = None


class WorkerPauseRequest(PersonRequest):
    """Pause or resume. `mode` belongs to a pause (and is ignored on a resume), `forceResume` to a resume."""

    action: PauseAction
    mode: PauseMode | None = None
    reason: Reason
    force_resume: bool | None = Field(
        default=None, description="Resume though jobs still run; the risk is audited."
    )
    expected_version: Version | None = Field(
        default=None, description="Refused unless this is the current version."
    )

    resume_after_seconds: Annotated[int, Field(ge=MIN_LIMIT_SECONDS, le=MAX_LIMIT_SECONDS)] | None = Field(
        default=None, description="The pause ends by itself after this: a minute to a week."
    )
    resume_at: Time | None = Field(
        default=None, description="The pause ends by itself at this time, a minute to a week from now."
    )

    @model_validator(mode="after")
    def _belong_together(self) -> "WorkerPauseRequest":
        if self.action is PauseAction.PAUSE and self.mode is None:
            raise broken_rule("mode", "is required on a pause: drain or quiesce")
        if self.action is PauseAction.PAUSE and self.force_resume is not None:
            raise broken_rule("forceResume", "belongs to a resume, not to a pause")
        for field, given in (
            ("resumeAfterSeconds", self.resume_after_seconds),
            ("resumeAt", self.resume_at),
        ):
            if given is not None and self.action is PauseAction.RESUME:
                raise broken_rule(field, "belongs to a pause, not to a resume")
        if self.resume_after_seconds is not None and self.resume_at is not None:
            raise broken_rule("resumeAt", "is given beside resumeAfterSeconds: say one of them")
        return self


class WaitQuery(Query):
    """What to wait for, and how long."""

    for_: Annotated[WaitFor, Field(alias="for")]
    since_version: Version | None = Field(
        default=None, description="For `version`: reached once it is above this."
    )
    timeout_seconds: float = Field(default=25, ge=0, le=60, allow_inf_nan=False)


class HistoryQuery(Query):
    """Which part of the audit log."""

    limit: int = Field(default=50, ge=1, le=MAX_PAGE)
    before: UUID | None = Field(default=None, description="Only events older than the one with this id.")
    outcome: EventOutcome | None = None
    action: PauseAction | None = None
