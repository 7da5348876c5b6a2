"""Push sessions in the database: which one is a worker's latest, and what is asked of its jobs."""

from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import control_events, jobs, status_is, workers
from holdfast_core.db.types import Now
from holdfast_core.schemas import ControlEvent
from holdfast_core.states import JobStatus
from holdfast_core.store.pause import event_from

__all__ = ["cancelled_among", "changes_between", "latest_sessions", "write_session"]

# The sessions that these workers opened last.
_LATEST = select(workers.c.id, workers.c.session_id).where(workers.c.id.in_(bindparam("ids", expanding=True)))

# Of these jobs the running ones that somebody wants to be cancelled, and under which claim they run.
_CANCELLED = select(jobs.c.id, jobs.c.claim_token_hash, jobs.c.cancel_reason).where(
    jobs.c.id.in_(bindparam("ids", expanding=True)),
    status_is(JobStatus.RUNNING),
    jobs.c.cancel_requested_at.is_not(None),
)

# What made the versions between two, in their order.
_CHANGES = (
    select(control_events)
    .where(
        control_events.c.outcome == "changed",
        control_events.c.version > bindparam("low"),
        control_events.c.version < bindparam("high"),
    )
    .order_by(control_events.c.version)
)


def _upsert(dialect: str) -> Any:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(workers).values(first_seen_at=Now(), last_seen_at=Now())
    return statement.on_conflict_do_update(
        index_elements=[workers.c.id], set_={"session_id": statement.excluded.session_id}
    )


_WRITE: Final = {dialect: _upsert(dialect) for dialect in ("postgresql", "sqlite")}


def write_session(connection: Connection, worker_id: str, session_id: UUID) -> None:
    """This is the worker's session from now on."""
    connection.execute(
        _WRITE[connection.dialect.name],
        {
            "id": worker_id,
            "session_id": session_id,
            "capabilities": [],
            "transport": "ws",
            "auto_enabled": True,
            "interval_seconds": 0.0,
        },
    )


def latest_sessions(connection: Connection, worker_ids: Collection[str]) -> Mapping[str, UUID | None]:
    """Which session each of these workers opened last."""
    return {row.id: row.session_id for row in connection.execute(_LATEST, {"ids": list(worker_ids)})}


def cancelled_among(
    connection: Connection, job_ids: Collection[UUID]
) -> Mapping[UUID, tuple[str, str | None]]:
    """The jobs among these that are to be stopped: the hash of their claim's token, and why."""
    rows = connection.execute(_CANCELLED, {"ids": list(job_ids)})
    return {row.id: (row.claim_token_hash, row.cancel_reason) for row in rows}


def changes_between(connection: Connection, low: int, high: int) -> list[ControlEvent]:
    """The events that made the versions above `low` and below `high`."""
    return [event_from(row) for row in connection.execute(_CHANGES, {"low": low, "high": high})]
