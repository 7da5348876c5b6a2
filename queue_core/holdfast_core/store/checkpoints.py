"""Jobs that reach no checkpoint under quiesce."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Float, String, bindparam, cast, exists, func, literal, select

from holdfast_core.db.tables import job_events, jobs, pause_state, status_is
from holdfast_core.db.types import Now, columns
from holdfast_core.states import JobPhase, JobStatus, PauseMode

__all__ = ["Overdue", "notice_of", "overdue_jobs", "parked_seconds"]

#: How many of them one look finds; the next finds more, as those that were warned of drop out.
OVERDUE_NAMED: Final = 100
_NOTICE: Final = "checkpoint_timeout"


@dataclass(frozen=True, slots=True)
class Overdue:
    """A running job that has not parked for as long as the quiesce of `pause_version` should take at most."""

    id: UUID
    claimed_by: str
    claim_number: int
    pause_version: int
    checkpoint: str | None


def notice_of(job: Overdue) -> str:
    """By what the warning of this job is known: one for each claim and version of the pause."""
    return f"{_NOTICE} {job.claim_number} {job.pause_version}"


_warned = exists(
    select(job_events.c.sequence).where(
        job_events.c.job_id == jobs.c.id,
        job_events.c.notice
        == literal(f"{_NOTICE} ", String())
        + cast(jobs.c.claim_number, String)
        + literal(" ", String())
        + cast(pause_state.c.version, String),
    )
)

# Running jobs with a living lease that have not parked, though this quiesce has lasted for so long, and of which
# nobody was warned yet. The longest at work first.
_OVERDUE = (
    select(
        jobs.c.id,
        jobs.c.claimed_by,
        jobs.c.claim_number,
        pause_state.c.version.label("pause_version"),
        jobs.c.checkpoint,
    )
    .select_from(pause_state.join(jobs, literal(True)))
    .where(
        pause_state.c.paused,
        pause_state.c.mode == literal(PauseMode.QUIESCE.value, String()),
        pause_state.c.updated_at <= Now(-bindparam("timeout_seconds", type_=Float()), stable=True),
        status_is(JobStatus.RUNNING),
        jobs.c.lease_expires_at > Now(stable=True),
        jobs.c.phase != JobPhase.PARKED.value,
        ~_warned,
    )
    .order_by(jobs.c.started_at)
    .limit(OVERDUE_NAMED)
)


def overdue_jobs(connection: Connection, timeout_seconds: float) -> list[Overdue]:
    """Jobs to be warned of, up to a hundred. Only while quiesced for `timeout_seconds` are there any."""
    return [
        Overdue(**columns(row)) for row in connection.execute(_OVERDUE, {"timeout_seconds": timeout_seconds})
    ]


# Since when the job has been parked that has been so for longest: to park is the last that it has reported.
_PARKED_SINCE = select(func.min(jobs.c.progressed_at).label("since"), Now().label("now")).where(
    status_is(JobStatus.RUNNING), jobs.c.phase == JobPhase.PARKED.value
)


def parked_seconds(connection: Connection) -> float:
    """How long the job has waited that has waited at its checkpoint for longest; 0 where none is parked."""
    row = connection.execute(_PARKED_SINCE).one()
    return 0.0 if row.since is None else max(0.0, (row.now - row.since).total_seconds())
