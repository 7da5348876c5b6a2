"""What keeps the system from drained: its running and stale jobs, one by one."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, func, select

from holdfast_core.db.tables import jobs, status_is
from holdfast_core.db.types import Now
from holdfast_core.states import JobStatus

__all__ = ["BLOCKERS_SHOWN", "running_jobs"]

#: Jobs that are named; the rest is counted.
BLOCKERS_SHOWN: Final = 500

# All that runs: what is stale first, then what runs longest.
_RUNNING = (
    select(
        jobs.c.id,
        jobs.c.type,
        jobs.c.claimed_by,
        jobs.c.attempt,
        jobs.c.phase,
        jobs.c.started_at,
        jobs.c.lease_expires_at,
        jobs.c.checkpoint,
        jobs.c.cancel_requested_at,
        func.coalesce(jobs.c.heartbeat_at, jobs.c.started_at).label("heartbeat_at"),
        func.coalesce(jobs.c.progressed_at, jobs.c.started_at).label("progressed_at"),
        Now(stable=True).label("now"),
    )
    .where(status_is(JobStatus.RUNNING))
    .order_by(jobs.c.lease_expires_at > Now(stable=True), jobs.c.started_at, jobs.c.id)
    .limit(BLOCKERS_SHOWN)
)


def running_jobs(connection: Connection) -> Sequence[Any]:
    """Running and stale jobs, each with the database's time (`now`)."""
    return connection.execute(_RUNNING).all()
