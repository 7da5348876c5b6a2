"""Workers' presence, and the fleet as operators see it."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Boolean, Connection, Float, String, and_, bindparam, case, func, literal, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import jobs, pause_state, status_is, workers
from holdfast_core.db.types import Now
from holdfast_core.schemas import Transport, WorkerView
from holdfast_core.states import JobPhase, JobStatus, WorkerState

__all__ = ["FLEET_COUNTS", "Described", "Seen", "fleet", "fleet_states", "unacknowledged", "write_presence"]

#: A worker is connected if it was seen within this, or within three of its own intervals.
CONNECTED_SECONDS: Final = 30.0
CONNECTED_INTERVALS: Final = 3.0
#: A worker that is not connected and was not seen for this long is gone, rather than missing.
GONE_SECONDS: Final = 600.0
#: Workers that are named which have not seen the latest change.
UNACKNOWLEDGED_NAMED: Final = 20
#: Workers that the fleet view shows at most, those seen last first.
FLEET_SHOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class Described:
    """What a worker has said of itself; None where it has not. `types` None: any type."""

    types: tuple[str, ...] | None = None
    slots: int | None = None
    runtime: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a worker from its latest request. `age_seconds`: how long ago that was. `described`: None leaves
    what it has said of itself elsewhere."""

    worker_id: str
    capabilities: tuple[str, ...]
    transport: Transport
    auto_enabled: bool
    observed_version: int | None
    interval_seconds: float
    age_seconds: float
    described: Described | None = None


_seen_at = Now(-bindparam("age_seconds", type_=Float()))
_patience = case(
    (
        workers.c.interval_seconds * CONNECTED_INTERVALS > CONNECTED_SECONDS,
        workers.c.interval_seconds * CONNECTED_INTERVALS,
    ),
    else_=literal(CONNECTED_SECONDS, Float()),
)
_connected = workers.c.last_seen_at > Now(-_patience, stable=True)
_long_ago = workers.c.last_seen_at <= Now(-GONE_SECONDS, stable=True)
_acknowledged = workers.c.observed_version >= bindparam("version")

# How many workers are connected, and how many of them have reported the pause's version.
FLEET_COUNTS = (
    select(
        func.count().label("connected"),
        func.count()
        .filter(workers.c.observed_version >= select(pause_state.c.version).scalar_subquery())
        .label("acknowledged"),
    )
    .where(_connected)
    .subquery("fleet")
)

# Connected workers that have not reported the version, by id.
_UNACKNOWLEDGED = (
    select(workers.c.id)
    .where(_connected, or_(workers.c.observed_version.is_(None), ~_acknowledged))
    .order_by(workers.c.id)
    .limit(UNACKNOWLEDGED_NAMED)
)

# The fleet, with what the database's clock says of each.
_FLEET = (
    select(
        workers,
        _connected.label("connected"),
        _long_ago.label("long_ago"),
    )
    .order_by(workers.c.last_seen_at.desc())
    .limit(FLEET_SHOWN)
)

# Which jobs are with whom.
_HELD = select(jobs.c.id, jobs.c.claimed_by, jobs.c.phase).where(status_is(JobStatus.RUNNING))

# How many workers are in which state; by the rules of `_state`, so that not all of them have to be fetched.
_jobs_of = (
    select(
        jobs.c.claimed_by,
        func.count().label("held"),
        func.count().filter(jobs.c.phase == JobPhase.PARKED).label("parked"),
        func.count().filter(jobs.c.phase == JobPhase.RUNNING).label("running"),
    )
    .where(status_is(JobStatus.RUNNING))
    .group_by(jobs.c.claimed_by)
    .subquery("jobs_of")
)
_state_of = case(
    (and_(~_connected, _long_ago), literal(WorkerState.GONE.value, String())),
    (~_connected, literal(WorkerState.MISSING.value, String())),
    (_jobs_of.c.held == _jobs_of.c.parked, literal(WorkerState.PARKED.value, String())),
    (_jobs_of.c.held > _jobs_of.c.running, literal(WorkerState.PARKING.value, String())),
    (_jobs_of.c.held > 0, literal(WorkerState.RUNNING.value, String())),
    (workers.c.auto_enabled, literal(WorkerState.IDLE.value, String())),
    else_=literal(WorkerState.PAUSED.value, String()),
).label("state")
_states = (
    select(_state_of)
    .select_from(workers.outerjoin(_jobs_of, _jobs_of.c.claimed_by == workers.c.id))
    .subquery("states")
)
_FLEET_STATES = select(_states.c.state, func.count().label("workers")).group_by(_states.c.state)


def _upsert(dialect: str) -> Any:
    values = {"first_seen_at": _seen_at, "last_seen_at": _seen_at}
    insert_: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert_(workers).values(**values)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[workers.c.id],
        set_={
            "capabilities": new.capabilities,
            "transport": new.transport,
            "auto_enabled": new.auto_enabled,
            # Another process may have written something newer of the same worker.
            "observed_version": case(
                (
                    and_(
                        workers.c.observed_version.is_not(None),
                        or_(
                            new.observed_version.is_(None), workers.c.observed_version > new.observed_version
                        ),
                    ),
                    workers.c.observed_version,
                ),
                else_=new.observed_version,
            ),
            "interval_seconds": new.interval_seconds,
            # It may have said it to another process.
            **{
                name: case((bindparam("is_described", type_=Boolean()), new[name]), else_=workers.c[name])
                for name in ("types", "slots", "runtime", "version")
            },
            "last_seen_at": case(
                (workers.c.last_seen_at > new.last_seen_at, workers.c.last_seen_at), else_=new.last_seen_at
            ),
        },
    )


# What is known of some workers, written in one go.
_UPSERT: Final = {dialect: _upsert(dialect) for dialect in ("postgresql", "sqlite")}


def write_presence(connection: Connection, seen: list[Seen]) -> None:
    """Write what is known of these workers, a row each, in the order of their ids (so no two writers block
    each other)."""
    connection.execute(
        _UPSERT[connection.dialect.name],
        [
            {
                "id": worker.worker_id,
                "capabilities": list(worker.capabilities),
                "transport": worker.transport,
                "auto_enabled": worker.auto_enabled,
                "observed_version": worker.observed_version,
                "interval_seconds": worker.interval_seconds,
                "age_seconds": worker.age_seconds,
                "is_described": worker.described is not None,
                **_described(worker.described or Described()),
            }
            for worker in sorted(seen, key=lambda w: w.worker_id)
        ],
    )


def _described(described: Described) -> dict[str, Any]:
    return {
        "types": None if described.types is None else list(described.types),
        "slots": described.slots,
        "runtime": described.runtime,
        "version": described.version,
    }


def unacknowledged(connection: Connection, version: int) -> list[str]:
    """Connected workers that have not reported this version, by id; some of them, if they are many."""
    return list(connection.execute(_UNACKNOWLEDGED, {"version": version}).scalars())


def fleet(connection: Connection) -> list[WorkerView]:
    """All workers, by id, with what each of them does."""
    held: dict[str, list[tuple[UUID, str]]] = defaultdict(list)
    for row in connection.execute(_HELD):
        held[row.claimed_by].append((row.id, row.phase))
    found = [
        WorkerView(
            id=row.id,
            capabilities=row.capabilities,
            transport=row.transport,
            auto_enabled=row.auto_enabled,
            state=_state(row, [phase for _, phase in held[row.id]]),
            jobs=[job_id for job_id, _ in held[row.id]],
            last_seen_at=row.last_seen_at,
            observed_version=row.observed_version,
            types=row.types,
            slots=row.slots,
            runtime=row.runtime,
            version=row.version,
        )
        for row in connection.execute(_FLEET)
    ]
    return sorted(found, key=lambda worker: worker.id)


def fleet_states(connection: Connection) -> dict[WorkerState, int]:
    """How many workers are in each state."""
    found: dict[str, int] = {row.state: row.workers for row in connection.execute(_FLEET_STATES)}
    return {state: found.get(state.value, 0) for state in WorkerState}


def _state(row: Any, phases: list[str]) -> WorkerState:
    if not row.connected:
        return WorkerState.GONE if row.long_ago else WorkerState.MISSING
    if phases:
        if all(phase == JobPhase.PARKED for phase in phases):
            return WorkerState.PARKED
        if any(phase != JobPhase.RUNNING for phase in phases):
            return WorkerState.PARKING
        return WorkerState.RUNNING
    return WorkerState.IDLE if row.auto_enabled else WorkerState.PAUSED
