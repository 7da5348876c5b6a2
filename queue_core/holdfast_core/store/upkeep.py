"""What moves jobs unasked, and so passes the gate: the sweep of expired leases, promotion, retention.

On PostgreSQL each is one statement in autocommit that passes the door and reads the pause; on SQLite it runs in the
writer's turn. While paused none of them changes anything.
"""

from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    Connection,
    Float,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    union,
    update,
)

from holdfast_core.db.tables import artifacts, is_ready, job_events, jobs, pause_state, status_is
from holdfast_core.db.types import Now
from holdfast_core.gate import door_is_open
from holdfast_core.schemas import Job
from holdfast_core.states import JobStatus
from holdfast_core.store.backoff import backoff
from holdfast_core.store.jobs import VOID, is_stale, job_from, put_back

__all__ = [
    "PROMOTE_BATCH",
    "REMOVE_BATCH",
    "SWEEP_BATCH",
    "any_due",
    "any_expired",
    "heavy",
    "lighten",
    "old",
    "promote",
    "remove_old",
    "sweep",
]

#: Expired leases handled by one statement; the sweep repeats while it finds as many.
SWEEP_BATCH: Final = 100
#: Scheduled jobs made ready by one statement.
PROMOTE_BATCH: Final = 500
#: Finished jobs removed by one statement.
REMOVE_BATCH: Final = 200
#: Of a job's log and of its artifacts in the database, what goes with it in one statement, or in one of its own:
#: such statements hold the door open, and have two seconds.
EVENTS_AT_ONCE: Final = 2_000
ARTIFACTS_AT_ONCE: Final = 10


def _gate() -> Any:
    # PostgreSQL: pass the door, and read the pause behind it.
    return select(pause_state).where(pause_state.c.id == literal_column("1"), door_is_open()).cte("gate")


def _these(chosen: Any) -> Any:
    # PostgreSQL: `id = ANY(ARRAY(…))`, since the join form falls into a sequential scan.
    return jobs.c.id == any_(func.array(chosen.with_for_update(skip_locked=True).scalar_subquery()))


# Jobs whose lease has expired, longest first.
_EXPIRED = select(jobs.c.id).where(is_stale).order_by(jobs.c.lease_expires_at).limit(SWEEP_BATCH)


@cache
def _sweep(dialect: str) -> Any:
    # Put back expired jobs, unless paused, or a resume was too recent.
    change = update(jobs).values(_swept_values(dialect)).returning(*jobs.c)
    if dialect == "postgresql":
        return change.where(_these(_EXPIRED.where(select(_may_sweep(_gate())).scalar_subquery())))
    return change.where(jobs.c.id.in_(_EXPIRED.where(select(_may_sweep(pause_state)).scalar_subquery())))


# Whether any lease has expired, asked without the door.
_ANY_EXPIRED = select(jobs.c.id).where(is_stale).limit(1)


def any_expired(connection: Connection) -> bool:
    """Whether a sweep would find anything. Most find nothing, and need not pass the door."""
    return connection.execute(_ANY_EXPIRED).first() is not None


def _may_sweep(gate: Any) -> Any:
    # Version 1 was never paused; after a resume, updated_at is its time.
    grace = Now(-bindparam("grace_seconds", type_=Float()), stable=True)
    return not_(gate.c.paused) & or_(gate.c.version == 1, gate.c.updated_at <= grace)


def _swept_values(dialect: str) -> dict[str, Any]:
    return put_back(
        outcome=VOID,
        uses_attempt=True,
        delay=backoff(dialect),
        error="The lease expired: its worker stopped heartbeating.",
    )


def sweep(connection: Connection, *, grace_seconds: float, delay_seconds: float) -> list[Job]:
    """Put back running jobs whose lease has expired, up to a batch. None of them while paused, nor within
    `grace_seconds` after a resume."""
    arguments = {"grace_seconds": grace_seconds, "delay_seconds": delay_seconds}
    return [job_from(row) for row in connection.execute(_sweep(connection.dialect.name), arguments)]


# Whether any scheduled job is due, asked without the door.
_due = and_(status_is(JobStatus.QUEUED), is_ready(yet=False), jobs.c.next_attempt_at <= Now(stable=True))
_ANY_DUE = select(jobs.c.id).where(_due).limit(1)


def any_due(connection: Connection) -> bool:
    """Whether a promotion would find anything."""
    return connection.execute(_ANY_DUE).first() is not None


# Scheduled jobs whose time has come.
_DUE = select(jobs.c.id).where(_due).order_by(jobs.c.next_attempt_at).limit(PROMOTE_BATCH)


def _unless_paused(dialect: str) -> Any:
    gate = _gate() if dialect == "postgresql" else pause_state
    return not_(select(gate.c.paused).scalar_subquery())


@cache
def _promote(dialect: str) -> Any:
    change = update(jobs).values(ready=true())
    chosen = _DUE.where(_unless_paused(dialect))
    return change.where(_these(chosen) if dialect == "postgresql" else jobs.c.id.in_(chosen)).returning(
        jobs.c.id
    )


def promote(connection: Connection) -> int:
    """Make scheduled jobs ready whose time has come, up to a batch. None of them while paused."""
    return len(connection.execute(_promote(connection.dialect.name)).all())


# Jobs that finished long ago.
_is_old: Final = (
    jobs.c.finished_at.is_not(None),
    jobs.c.finished_at <= Now(-bindparam("age_seconds", type_=Float()), stable=True),
)
_OLD = select(jobs.c.id).where(*_is_old).order_by(jobs.c.finished_at).limit(REMOVE_BATCH)


@cache
def _remove(dialect: str) -> Any:
    these = select(jobs.c.id).where(
        jobs.c.id.in_(bindparam("chosen", expanding=True)), *_is_old, _unless_paused(dialect)
    )
    change = delete(jobs)
    return change.where(_these(these) if dialect == "postgresql" else jobs.c.id.in_(these)).returning(
        jobs.c.id
    )


def old(connection: Connection, *, age_seconds: float) -> list[UUID]:
    """Jobs that finished longer ago than this, those that finished first before the others, up to a batch."""
    return [row.id for row in connection.execute(_OLD, {"age_seconds": age_seconds})]


# Old jobs that have more than goes with them in one short statement.
_HEAVY = union(
    select(job_events.c.job_id)
    .where(job_events.c.job_id.in_(bindparam("chosen", expanding=True)))
    .group_by(job_events.c.job_id)
    .having(func.max(job_events.c.sequence) > EVENTS_AT_ONCE),
    select(artifacts.c.job_id)
    .where(artifacts.c.job_id.in_(bindparam("chosen", expanding=True)), artifacts.c.content.is_not(None))
    .group_by(artifacts.c.job_id)
    .having(func.count() > ARTIFACTS_AT_ONCE),
)


def heavy(connection: Connection, chosen: list[UUID]) -> list[UUID]:
    """Those of the chosen jobs whose logs or artifacts have to be removed bit by bit."""
    return [row.job_id for row in connection.execute(_HEAVY, {"chosen": chosen})]


@cache
def _lighten(dialect: str) -> tuple[Any, Any]:
    still_old = exists(select(jobs.c.id).where(jobs.c.id == bindparam("wanted"), *_is_old))
    unless_paused = _unless_paused(dialect)
    events = (
        select(job_events.c.sequence)
        .where(job_events.c.job_id == bindparam("wanted"))
        .order_by(job_events.c.sequence)
        .limit(EVENTS_AT_ONCE)
    )
    some = (
        select(artifacts.c.id)
        .where(artifacts.c.job_id == bindparam("wanted"), artifacts.c.content.is_not(None))
        .limit(ARTIFACTS_AT_ONCE)
    )
    return (
        delete(job_events).where(
            job_events.c.job_id == bindparam("wanted"),
            job_events.c.sequence.in_(events),
            still_old,
            unless_paused,
        ),
        delete(artifacts).where(artifacts.c.id.in_(some), still_old, unless_paused),
    )


def lighten(connection: Connection, job_id: UUID, *, age_seconds: float) -> bool:
    """Remove some of an old job's log and artifacts. Whether there was any to remove; none while paused."""
    arguments = {"wanted": job_id, "age_seconds": age_seconds}
    counts = [connection.execute(one, arguments).rowcount for one in _lighten(connection.dialect.name)]
    return any(counts)


def remove_old(connection: Connection, *, age_seconds: float, chosen: list[UUID]) -> list[UUID]:
    """Delete those of the chosen jobs that are still old, with their logs and artifacts. None of them while
    paused. Returns which."""
    arguments = {"age_seconds": age_seconds, "chosen": chosen}
    return [row.id for row in connection.execute(_remove(connection.dialect.name), arguments)]
