"""Counts of jobs, and the count that must be none."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    and_,
    cast,
    column,
    func,
    literal,
    select,
    text,
)

from holdfast_core.db.prepared import run
from holdfast_core.db.tables import is_ready, jobs, pause_state, status_is
from holdfast_core.db.types import UTC_TIME, Now, columns
from holdfast_core.schemas import System, WorkerCounts
from holdfast_core.states import JobPhase, JobStatus
from holdfast_core.store.pause import system_from
from holdfast_core.store.workers import FLEET_COUNTS, unacknowledged

__all__ = [
    "COUNTS",
    "Backlog",
    "InFlight",
    "Stale",
    "backlog",
    "database_time",
    "in_flight",
    "in_flight_from",
    "look",
    "stale_jobs",
    "system_and_in_flight",
    "violations",
]

#: From when on after a change the workers that have not seen it are named.
UNACKNOWLEDGED_AFTER_SECONDS: Final = 15.0
#: How many stale jobs are named at a time.
STALE_NAMED: Final = 100


@dataclass(frozen=True, slots=True)
class InFlight:
    """Running jobs: `running` (lease alive, parked ones included) and `stale` do not overlap."""

    running: int
    parked: int
    stale: int

    @property
    def drained(self) -> bool:
        """Whether nothing runs and nothing is stale."""
        return self.running == 0 and self.stale == 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Queued jobs: `queued` are due, `scheduled` come later."""

    queued: int
    scheduled: int
    oldest_seconds: float | None
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class Stale:
    """A running job whose lease has expired."""

    id: UUID
    claimed_by: str
    claim_number: int
    lease_expires_at: datetime


_alive = jobs.c.lease_expires_at > Now(stable=True)
_running = status_is(JobStatus.RUNNING)

#: What runs now; walks the partial index of running jobs.
COUNTS: Final = (
    select(
        func.count().filter(_alive).label("running"),
        func.count().filter(and_(_alive, jobs.c.phase == JobPhase.PARKED)).label("parked"),
        func.count().filter(~_alive).label("stale"),
    )
    .where(_running)
    .subquery("counts")
)

# That alone.
_IN_FLIGHT = select(COUNTS)

# The pause and what runs now, from one snapshot because it is one statement.
_SYSTEM_AND_IN_FLIGHT = select(pause_state, COUNTS).select_from(pause_state.join(COUNTS, literal(True)))

# The same with the workers, and what the database's clock says, for a snapshot.
_LOOK = select(pause_state, COUNTS, FLEET_COUNTS, Now().label("now")).select_from(
    pause_state.join(COUNTS, literal(True)).join(FLEET_COUNTS, literal(True))
)

# What waits, and since when: the ready ones, and the scheduled ones that are due or not. Each from the index
# that holds just these.
_ready = and_(status_is(JobStatus.QUEUED), is_ready())
_scheduled = and_(status_is(JobStatus.QUEUED), is_ready(yet=False))
_due = jobs.c.next_attempt_at <= Now(stable=True)
_SCHEDULED = (
    select(
        func.count().filter(_due).label("due"),
        func.count().filter(~_due).label("later"),
        func.min(jobs.c.created_at).filter(_due).label("oldest"),
    )
    .where(_scheduled)
    .subquery()
)

# SQLite: the oldest ready job is the first of one priority of one lane, so those are looked at. To take the least of
# all would make SQLite read every entry of the index that it counts, which takes three times as long as to count them.
_OLDEST_SQLITE = text(
    """
    WITH RECURSIVE spots(lane, priority) AS (
        SELECT l.id, (
            SELECT j.priority FROM agent_jobs j
            WHERE j.status = 'queued' AND j.ready AND j.lane = l.id
            ORDER BY j.priority DESC LIMIT 1
        ) FROM agent_job_lanes l
        UNION ALL
        SELECT s.lane, (
            SELECT j.priority FROM agent_jobs j
            WHERE j.status = 'queued' AND j.ready AND j.lane = s.lane AND j.priority < s.priority
            ORDER BY j.priority DESC LIMIT 1
        ) FROM spots s WHERE s.priority IS NOT NULL
    )
    SELECT min((
        SELECT j.created_at FROM agent_jobs j
        WHERE j.status = 'queued' AND j.ready AND j.lane = s.lane AND j.priority = s.priority
        ORDER BY j.created_at LIMIT 1
    )) AS oldest FROM spots s WHERE s.priority IS NOT NULL
    """
)


def _backlog(oldest: ColumnElement[datetime]) -> Executable:
    ready = select(func.count().label("queued"), oldest.label("oldest")).where(_ready).subquery()
    return select(
        (ready.c.queued + _SCHEDULED.c.due).label("queued"),
        _SCHEDULED.c.later.label("scheduled"),
        ready.c.oldest.label("oldest_ready"),
        _SCHEDULED.c.oldest.label("oldest_due"),
        Now().label("now"),
    ).select_from(ready.join(_SCHEDULED, literal(True)))


_BACKLOG = {
    "postgresql": _backlog(func.min(jobs.c.created_at)),
    "sqlite": _backlog(_OLDEST_SQLITE.columns(column("oldest", UTC_TIME)).scalar_subquery()),
}

# Stale jobs, longest first.
_STALE = (
    select(jobs.c.id, jobs.c.claimed_by, jobs.c.claim_number, jobs.c.lease_expires_at)
    .where(_running, jobs.c.lease_expires_at <= Now(stable=True))
    .order_by(jobs.c.lease_expires_at)
    .limit(STALE_NAMED)
)

# Running jobs whose claim committed after the door of the current pause had closed. A claim from ahead of all
# transactions is none: it was made on the server that this database was dumped from.
_VIOLATIONS_POSTGRESQL = text(
    """
    SELECT count(*) FROM agent_jobs j, system_worker_pause_state s
    WHERE s.paused AND j.status = 'running'
      AND NOT pg_visible_in_snapshot(j.claim_number::text::xid8, s.door::pg_snapshot)
      AND j.claim_number::text::xid8 < pg_snapshot_xmax(pg_current_snapshot())
    """
)
_VIOLATIONS_SQLITE = (
    select(func.count())
    .select_from(jobs.join(pause_state, literal(True)))
    .where(pause_state.c.paused, _running, jobs.c.claim_number > cast(pause_state.c.door, BigInteger))
)


_NOW = select(Now())


def in_flight_from(row: Any) -> InFlight:
    """The counts of a row that holds those of `COUNTS`."""
    return InFlight(running=row.running, parked=row.parked, stale=row.stale)


def in_flight(connection: Connection) -> InFlight:
    """Exact counts of what runs now."""
    return in_flight_from(connection.execute(_IN_FLIGHT).one())


def system_and_in_flight(connection: Connection) -> tuple[System, InFlight]:
    """The pause and the exact counts of what runs, from one snapshot."""
    row = connection.execute(_SYSTEM_AND_IN_FLIGHT).one()
    return system_from(row), in_flight_from(row)


def look(connection: Connection) -> tuple[System, InFlight, WorkerCounts]:
    """The pause, the exact counts of what runs, and the workers. Those that have not seen the latest change are named
    once they have had some time."""
    (row,) = run(connection, _LOOK)
    system = system_from(row)
    named: list[str] = []
    if row["acknowledged"] < row["connected"]:
        since = (row["now"] - system.updated_at).total_seconds()
        named = unacknowledged(connection, system.version) if since >= UNACKNOWLEDGED_AFTER_SECONDS else []
    in_flight = InFlight(row["running"], row["parked"], row["stale"])
    return (
        system,
        in_flight,
        WorkerCounts(connected=row["connected"], acknowledged=row["acknowledged"], unacknowledged=named),
    )


def backlog(connection: Connection) -> Backlog:
    """Exact counts of what waits. Walks every queued job: not for every call."""
    row = connection.execute(_BACKLOG[connection.dialect.name]).one()
    oldest = min((at for at in (row.oldest_ready, row.oldest_due) if at is not None), default=None)
    age = None if oldest is None else max(0.0, (row.now - oldest).total_seconds())
    return Backlog(queued=row.queued, scheduled=row.scheduled, oldest_seconds=age, measured_at=row.now)


def database_time(connection: Connection) -> datetime:
    """The database's clock."""
    now: datetime = connection.execute(_NOW).scalar_one()
    return now


def stale_jobs(connection: Connection) -> list[Stale]:
    """Running jobs whose lease has expired, up to a hundred."""
    return [Stale(**columns(row)) for row in connection.execute(_STALE)]


def violations(connection: Connection) -> int:
    """Running jobs that were claimed after the current pause was made. Anything but 0 is a broken promise."""
    statement = _VIOLATIONS_SQLITE if connection.dialect.name == "sqlite" else _VIOLATIONS_POSTGRESQL
    count: int = connection.execute(statement).scalar_one()
    return count
