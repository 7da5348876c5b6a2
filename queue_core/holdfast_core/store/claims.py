"""Taking a job, and putting back what nobody heartbeats any more: the two statements that pass the gate.

On PostgreSQL each is one statement in autocommit that passes the door, reads the pause and acts. On SQLite
each is a few statements in the writer's turn. Both answer with the `system` that they read themselves.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Executable,
    Float,
    Select,
    String,
    any_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from holdfast_core.db.tables import jobs, pause_gate, pause_state, status_is
from holdfast_core.db.types import JSON_LIST, Now
from holdfast_core.gate import door_is_open
from holdfast_core.schemas import Job, System
from holdfast_core.states import JobPhase, JobStatus
from holdfast_core.store.jobs import VOID, is_stale, job_from, put_back
from holdfast_core.store.pause import read_system, system_from

__all__ = ["SWEEP_BATCH", "Claim", "any_expired", "any_ready", "backoff", "claim_statement", "sweep", "take"]

#: Expired leases handled by one statement; the sweep repeats while it finds as many.
SWEEP_BATCH: Final = 100
#: Back-off doubles with each attempt, up to this.
MAX_BACKOFF_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims, for how long, and what. `types` None means any type."""

    worker_id: str
    lease_seconds: int
    token_hash: str
    types: tuple[str, ...] | None
    capabilities: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        """The bound values of the statements below."""
        values: dict[str, Any] = {
            "worker_id": self.worker_id,
            "lease_seconds": float(self.lease_seconds),
            "token_hash": self.token_hash,
            "capabilities": list(self.capabilities),
        }
        if self.types is not None:
            values["types"] = list(self.types)
        return values


_PREFIX: Final = "pause_"
_taken_values: Final[dict[str, Any]] = {
    "status": JobStatus.RUNNING.value,
    "phase": JobPhase.RUNNING.value,
    "claimed_by": bindparam("worker_id", type_=String()),
    "claim_worker": bindparam("worker_id", type_=String()),
    "claim_token_hash": bindparam("token_hash", type_=String()),
    "claim_outcome": None,
    "lease_expires_at": Now(bindparam("lease_seconds", type_=Float())),
    "next_attempt_at": None,
    "checkpoint": None,
    "progress": None,
    "started_at": Now(),
    "updated_at": Now(),
}


def _ready(*, dialect: str, by_type: bool) -> Select[tuple[UUID]]:
    """The next job that this worker may take. `id = ANY(ARRAY(…))` around it, since the join form falls into a
    sequential scan."""
    wanted = (
        select(jobs.c.id)
        .where(
            status_is(JobStatus.QUEUED),
            or_(jobs.c.next_attempt_at.is_(None), jobs.c.next_attempt_at <= Now(stable=True)),
        )
        .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
        .limit(literal_column("1"))
    )
    if dialect == "postgresql":
        capabilities = bindparam("capabilities", type_=JSONB())
        wanted = wanted.where(cast(jobs.c.required_capabilities, JSONB).contained_by(capabilities))
        if by_type:
            wanted = wanted.where(jobs.c.type == any_(bindparam("types", type_=ARRAY(String()))))
        return wanted.with_for_update(skip_locked=True)
    required = func.json_each(jobs.c.required_capabilities).table_valued("value", name="required")
    offered = func.json_each(bindparam("capabilities", type_=JSON_LIST)).table_valued("value", name="offered")
    missing = select(literal(1)).where(required.c.value.not_in(select(offered.c.value)))
    wanted = wanted.where(
        or_(func.json_array_length(jobs.c.required_capabilities) == 0, not_(missing.exists()))
    )
    if by_type:
        wanted = wanted.where(jobs.c.type.in_(bindparam("types", expanding=True)))
    return wanted


def _pause_columns(source: Any) -> list[Any]:
    return [column.label(_PREFIX + column.name) for column in source.c if column.name != "door"]


@cache
def claim_statement(*, by_type: bool) -> Executable:
    """PostgreSQL: pass the door, read the pause, take the job. One statement, so one snapshot, taken behind the
    door. `by_type`: whether it is limited to some types."""
    gate = select(pause_state).where(pause_state.c.id == literal_column("1"), door_is_open()).cte("gate")
    wanted = _ready(dialect="postgresql", by_type=by_type).where(
        not_(select(gate.c.paused).scalar_subquery())
    )
    taken = (
        update(jobs)
        .where(jobs.c.id == any_(func.array(wanted.scalar_subquery())))
        .values(
            **_taken_values,
            claim_number=cast(cast(func.pg_current_xact_id(), String), BigInteger),
        )
        .returning(*jobs.c)
        .cte("taken")
    )
    return select(*_pause_columns(gate), *taken.c).select_from(gate.outerjoin(taken, true()))


# SQLite: count this claim, so that a pause can say what had been claimed when it was made.
_COUNT_CLAIM = update(pause_gate).values(claims=pause_gate.c.claims + 1).returning(pause_gate.c.claims)

# SQLite: take the job that was found.
_TAKE_SQLITE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(**_taken_values, claim_number=bindparam("claim_number", type_=BigInteger()))
    .returning(*jobs.c)
)


@cache
def _ready_sqlite(by_type: bool) -> Select[tuple[UUID]]:
    return _ready(dialect="sqlite", by_type=by_type)


def take(connection: Connection, claim: Claim, *, token: str) -> tuple[Job | None, System]:
    """Take the next job for this worker, unless the system is paused. The answer's `system` is the one read here."""
    if connection.dialect.name == "postgresql":
        statement = claim_statement(by_type=claim.types is not None)
        row = connection.execute(statement, claim.arguments()).one()
        system = system_from(row, _PREFIX)
        return (None if row.id is None else job_from(row, lease_token=token)), system
    system = read_system(connection)
    if system.workers_paused:
        return None, system
    job_id = connection.execute(_ready_sqlite(claim.types is not None), _needed(claim)).scalar_one_or_none()
    if job_id is None:
        return None, system
    number = connection.execute(_COUNT_CLAIM).scalar_one()
    row = connection.execute(
        _TAKE_SQLITE, {**claim.arguments(), "job_id": job_id, "claim_number": number}
    ).one()
    return job_from(row, lease_token=token), system


def _needed(claim: Claim) -> dict[str, Any]:
    values = claim.arguments()
    return {name: values[name] for name in ("capabilities", "types") if name in values}


def any_ready(connection: Connection, claim: Claim) -> bool:
    """SQLite: whether a claim would find a job, asked without the writers' lock."""
    return connection.execute(_ready_sqlite(claim.types is not None), _needed(claim)).first() is not None


def _backoff(dialect: str) -> Any:
    # ±20% around delay · 2^(attempt-1), so that jobs which failed together do not come back together.
    base = bindparam("delay_seconds", type_=Float())
    doubled = base * (func.power(2.0, jobs.c.attempt - 1) if dialect == "postgresql" else _two_to_sqlite())
    chance: Any = func.random()
    if dialect == "sqlite":
        chance = literal_column("(abs(random() % 1000) / 1000.0)", Float())
    least = func.least if dialect == "postgresql" else func.min
    return least(doubled, MAX_BACKOFF_SECONDS) * (0.8 + 0.4 * chance)


def _two_to_sqlite() -> Any:
    # SQLite has no power() unless built with it; attempts above 31 are far beyond the cap anyway.
    return literal_column("(1 << min(agent_jobs.attempt - 1, 30))", BigInteger())


@cache
def backoff(dialect: str) -> Any:
    """Seconds until the next attempt: `delay_seconds`, doubled with each attempt, with jitter, capped."""
    return _backoff(dialect)


@cache
def _sweep_postgresql() -> Executable:
    # Pass the door, read the pause, and put back expired jobs, unless a resume was too recent.
    gate = select(pause_state).where(pause_state.c.id == literal_column("1"), door_is_open()).cte("gate")
    open_long_enough = select(_may_sweep(gate)).scalar_subquery()
    expired = (
        select(jobs.c.id)
        .where(is_stale, open_long_enough)
        .order_by(jobs.c.lease_expires_at)
        .limit(SWEEP_BATCH)
        .with_for_update(skip_locked=True)
    )
    swept = (
        update(jobs)
        .where(jobs.c.id == any_(func.array(expired.scalar_subquery())))
        .values(_swept_values("postgresql"))
        .returning(*jobs.c)
        .cte("swept")
    )
    return select(*_pause_columns(gate), *swept.c).select_from(gate.outerjoin(swept, true()))


@cache
def _sweep_sqlite() -> Any:
    allowed = select(_may_sweep(pause_state)).scalar_subquery()
    expired = select(jobs.c.id).where(is_stale, allowed).order_by(jobs.c.lease_expires_at).limit(SWEEP_BATCH)
    return update(jobs).where(jobs.c.id.in_(expired)).values(_swept_values("sqlite")).returning(*jobs.c)


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
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_sweep_postgresql(), arguments).all()
        return [job_from(row) for row in rows if row.id is not None]
    return [job_from(row) for row in connection.execute(_sweep_sqlite(), arguments)]
