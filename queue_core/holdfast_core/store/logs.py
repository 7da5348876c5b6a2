"""The logs of jobs. Append-only; the sequence of each has no gaps, because its writers take turns on the job's row."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Integer, Row, String, bindparam, func, insert, literal, select

from holdfast_core.db.tables import job_events, jobs
from holdfast_core.db.types import Now, columns
from holdfast_core.schemas import JobEvent, LogLevel

__all__ = ["MAX_EVENTS", "Line", "append", "hold", "length", "page"]

#: Events of one job.
MAX_EVENTS: Final = 100_000

# A job's row, held so that who else adds to its log waits. It is not changed: no index, no heartbeat minds.
_HOLD = select(jobs).where(jobs.c.id == bindparam("job_id")).with_for_update()

# How long the log is: its last sequence.
_LENGTH = select(func.coalesce(func.max(job_events.c.sequence), literal(0, Integer()))).where(
    job_events.c.job_id == bindparam("wanted")
)

_APPEND = insert(job_events).values(created_at=Now()).returning(*job_events.c)

# What the server has said once already.
_NOTICED = select(job_events.c.sequence).where(
    job_events.c.job_id == bindparam("wanted"), job_events.c.notice == bindparam("said", type_=String())
)

_PAGE = (
    select(job_events)
    .where(job_events.c.job_id == bindparam("wanted"), job_events.c.sequence > bindparam("after"))
    .order_by(job_events.c.sequence)
    .limit(bindparam("limit", type_=Integer()))
)


@dataclass(frozen=True, slots=True)
class Line:
    """One event to be added. `notice`: said once only, whoever says it first."""

    level: LogLevel
    message: str
    worker_id: str | None = None
    payload: dict[str, Any] | None = None
    notice: str | None = None


def hold(connection: Connection, job_id: UUID) -> Row[Any] | None:
    """The row of a job, held until this transaction ends; None where there is none."""
    return connection.execute(_HOLD, {"job_id": job_id}).one_or_none()


def length(connection: Connection, job_id: UUID) -> int:
    """How many events the log has."""
    count: int = connection.execute(_LENGTH, {"wanted": job_id}).scalar_one()
    return count


def append(connection: Connection, job_id: UUID, line: Line) -> JobEvent | None:
    """Add one event. Only while the job's row is held. None where the notice has been given already."""
    if line.notice is not None:
        said = connection.execute(_NOTICED, {"wanted": job_id, "said": line.notice}).first()
        if said is not None:
            return None
    values = {
        "job_id": job_id,
        "sequence": length(connection, job_id) + 1,
        "worker_id": line.worker_id,
        "level": line.level,
        "message": line.message,
        "payload": line.payload,
        "notice": line.notice,
    }
    return JobEvent.model_validate(columns(connection.execute(_APPEND, values).one()))


def page(connection: Connection, job_id: UUID, *, after: int, limit: int) -> list[JobEvent]:
    """The events behind a sequence, oldest first."""
    rows = connection.execute(_PAGE, {"wanted": job_id, "after": after, "limit": limit})
    return [JobEvent.model_validate(columns(row)) for row in rows]
