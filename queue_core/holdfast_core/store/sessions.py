"""Push sessions in the database: which one is a worker's latest, and what is asked of its jobs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import jobs, status_is, workers
from holdfast_core.db.types import Now
from holdfast_core.states import JobStatus

__all__ = ["Cancelled", "cancelled_of", "latest_sessions", "write_session"]

#: Workers of one statement, far below what either database takes.
BATCH: Final = 500

# The sessions that these workers opened last.
_LATEST = select(workers.c.id, workers.c.session_id).where(workers.c.id.in_(bindparam("ids", expanding=True)))

# The running jobs of these workers that somebody wants to be stopped, and under which claim they run.
_CANCELLED = select(
    jobs.c.id.label("job_id"),
    jobs.c.claimed_by.label("worker_id"),
    jobs.c.claim_token_hash.label("token_hash"),
    jobs.c.cancel_reason.label("reason"),
).where(
    status_is(JobStatus.RUNNING),
    jobs.c.claimed_by.in_(bindparam("ids", expanding=True)),
    jobs.c.cancel_requested_at.is_not(None),
)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A running job that somebody wants to be stopped, and the claim under which it runs."""

    job_id: UUID
    worker_id: str
    token_hash: str
    reason: str | None


def _upsert(dialect: str) -> Any:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(workers).values(first_seen_at=Now(), last_seen_at=Now())
    return statement.on_conflict_do_update(
        index_elements=[workers.c.id], set_={"session_id": statement.excluded.session_id}
    )


# The worker's latest session. What else is known of a new one is written with its presence.
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


def latest_sessions(connection: Connection, worker_ids: Sequence[str]) -> Mapping[str, UUID | None]:
    """Which session each of these workers opened last; None where there was none."""
    found: dict[str, UUID | None] = {}
    for ids in _batches(worker_ids):
        found |= {row.id: row.session_id for row in connection.execute(_LATEST, {"ids": ids})}
    return found


def cancelled_of(connection: Connection, worker_ids: Sequence[str]) -> list[Cancelled]:
    """The running jobs of these workers that are to be stopped."""
    return [
        Cancelled(row.job_id, row.worker_id, row.token_hash, row.reason)
        for ids in _batches(worker_ids)
        for row in connection.execute(_CANCELLED, {"ids": ids})
    ]


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), BATCH):
        yield list(ids[start : start + BATCH])
