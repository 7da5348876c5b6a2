"""Taking a job: the statement that the gate is for.

On PostgreSQL one statement in autocommit that passes the door, reads the pause and takes the job; on SQLite a
few in the writer's turn. Either answers with the `system` that it read itself.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    Float,
    Integer,
    Select,
    String,
    Uuid,
    all_,
    and_,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    not_,
    select,
    true,
    union_all,
    update,
)

from holdfast_core.db.prepared import Stored, first, run
from holdfast_core.db.tables import is_ready, jobs, lanes, pause_gate, pause_state, status_is
from holdfast_core.db.types import JSON_LIST, Now
from holdfast_core.gate import door_is_open
from holdfast_core.schemas import Job, System
from holdfast_core.states import JobPhase, JobStatus
from holdfast_core.store.given import Given, bound
from holdfast_core.store.jobs import SHOWN, job_from
from holdfast_core.store.lanes import matching
from holdfast_core.store.pause import read_system, system_from

__all__ = [
    "CROWD",
    "PREFIX",
    "Claim",
    "Taken",
    "any_ready",
    "at_the_gate",
    "claim_number",
    "claim_statement",
    "first_free",
    "next_jobs",
    "pause_columns",
    "take",
    "taken_values",
]

#: Jobs that a claim on PostgreSQL looks at, in case others are taking the first ones.
CROWD: Final = 32


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims, for how long, and what. `types` None means any type.

    `request_id` names this one claim; `age_seconds` is how long ago the call came, which tells a repeat
    from a late twin.
    """

    worker_id: str
    lease_seconds: int
    token_hash: str
    types: tuple[str, ...] | None
    capabilities: tuple[str, ...]
    request_id: str | None = None
    age_seconds: float = 0.0
    #: Jobs that it is not to get.
    avoid: tuple[UUID, ...] = ()

    @property
    def made_by(self) -> tuple[str, str] | None:
        """What makes it the same claim as another call's, or None where it has no name."""
        return None if self.request_id is None else (self.worker_id, self.request_id)

    def arguments(self) -> dict[str, Any]:
        """The bound values of the statements below."""
        values: dict[str, Any] = {
            "worker_id": self.worker_id,
            "lease_seconds": float(self.lease_seconds),
            "token_hash": self.token_hash,
            "capabilities": list(self.capabilities),
            "asked_as": self.request_id,  # named unlike the column: it would be set by its name
            "age_seconds": self.age_seconds,
        }
        if self.types is not None:
            values["types"] = list(self.types)
        if self.avoid:
            values["avoid"] = list(self.avoid)
        return values


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim came to: the row of its job, which is made of it when it is asked for, since others wait for the
    session meanwhile. Without one:

    `known`: its requestId has a job already, and this call is not to have it. `over`: that claim has ended.
    `crowded`: other claims were taking all the jobs that it saw, so it should look again.
    """

    row: Stored | None
    system: System
    #: What the claim's hash is of.
    token: str | None = None
    known: bool = False
    over: bool = False
    crowded: bool = False

    @property
    def job(self) -> Job | None:
        """The job, with its token."""
        return None if self.row is None else job_from(self.row, lease_token=self.token)


#: What the columns of the pause are called beside a job's.
PREFIX: Final = "pause_"


def _leased_by(given: Given) -> dict[str, Any]:
    return {
        "claim_token_hash": given("token_hash", String()),
        "lease_expires_at": Now(given("lease_seconds", Float())),
        "asked_at": Now(-given("age_seconds", Float())),
        "heartbeat_at": Now(),
        "updated_at": Now(),
    }


def taken_values(given: Given) -> dict[str, Any]:
    """What to set on a job that is taken, all but the number of the claim."""
    return {
        **_leased_by(given),
        "status": JobStatus.RUNNING.value,
        "phase": JobPhase.RUNNING.value,
        "claimed_by": given("worker_id", String()),
        "claim_worker": given("worker_id", String()),
        "claim_outcome": None,
        "request_id": given("asked_as", String()),
        "next_attempt_at": None,
        "checkpoint": None,
        "progress": None,
        "progressed_at": Now(),
        "started_at": Now(),
    }


_leased: Final = _leased_by(bound)
_taken_values: Final = taken_values(bound)

#: PostgreSQL: the number of a claim.
claim_number: Final[ColumnElement[int]] = cast(cast(func.pg_current_xact_id(), String), BigInteger)
_place: Final = (jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
_waits: Final = (status_is(JobStatus.QUEUED), is_ready())

# The claim that this requestId stands for, running or over.
_prior = and_(
    jobs.c.claim_worker == bindparam("worker_id", type_=String()),
    jobs.c.request_id == bindparam("asked_as", type_=String()),
)
_runs = and_(status_is(JobStatus.RUNNING), jobs.c.claimed_by == bindparam("worker_id", type_=String()))
# A repeat came after the call that has the job. A late twin came before it, and must not void its token.
_newer = jobs.c.asked_at < Now(-bindparam("age_seconds", type_=Float()), stable=True)


def pause_columns(source: Any) -> list[Any]:
    """The columns that `system_from` reads with the prefix."""
    return [column.label(PREFIX + column.name) for column in source.c if column.name != "door"]


def at_the_gate() -> CTE:
    """PostgreSQL: pass the door and read the pause."""
    return select(pause_state).where(pause_state.c.id == literal_column("1"), door_is_open()).cte("gate")


def next_jobs(*, by_type: bool, avoiding: bool, most: ColumnElement[int]) -> CTE:
    """PostgreSQL: the next jobs of all lanes that match, in their order, whoever is taking them just now.

    The heads of the lanes are merged before any row is locked: to lock the head of each lane would make claims
    pass over the jobs that others only looked at.
    """
    # An array, so that it is one statement however many there are.
    wanted = [jobs.c.id != all_(bindparam("avoid", type_=ARRAY(Uuid())))] if avoiding else []
    head = (
        select(jobs.c.id, jobs.c.priority, jobs.c.created_at)
        .where(jobs.c.lane == lanes.c.id, *_waits, *wanted)
        .order_by(*_place)
        .limit(most)
        .lateral("head")
    )
    return (
        select(head.c.id)
        .select_from(lanes.join(head, true()))
        .where(matching("postgresql", by_type=by_type))
        .order_by(head.c.priority.desc(), head.c.created_at, head.c.id)
        .limit(most)
        .cte("candidates")
    )


def first_free(candidates: CTE) -> Select[tuple[UUID]]:
    """PostgreSQL: lock them one after the other, until as many are had as the limit says that is put on this.

    A job that others are taking is passed over, one that they took is seen to be gone. The status is written so
    that only the primary key serves: the planner would rather walk all that is ready again.
    """
    free = (
        select(jobs.c.id)
        .where(jobs.c.id == candidates.c.id, jobs.c.status.concat("") == JobStatus.QUEUED.value, jobs.c.ready)
        .with_for_update(skip_locked=True)
        .lateral("free")
    )
    return select(free.c.id).select_from(candidates.join(free, true()))


@cache
def claim_statement(*, by_type: bool, repeatable: bool, avoiding: bool = False) -> Executable:
    """PostgreSQL: pass the door, read the pause, take the job. One statement, so one snapshot, taken behind the
    door. `by_type`: whether it is limited to some types. `repeatable`: whether it has a requestId. `avoiding`:
    whether there are jobs that it is not to get."""
    gate = at_the_gate()
    running = not_(select(gate.c.paused).scalar_subquery())
    candidates = next_jobs(by_type=by_type, avoiding=avoiding, most=literal_column(str(CROWD), Integer()))
    wanted = first_free(candidates).where(running).limit(literal_column("1"))
    prior = select(jobs.c.id, _runs.label("runs")).where(_prior).cte("prior")
    if repeatable:
        wanted = wanted.where(~exists(select(prior.c.id)))
    taken = (
        update(jobs)
        .where(jobs.c.id == any_(func.array(wanted.scalar_subquery())))
        .values(**_taken_values, claim_number=claim_number)
        .returning(*jobs.c)
        .cte("taken")
    )
    seen = select(func.count()).select_from(candidates).scalar_subquery()
    if not repeatable:
        plain: list[Any] = [seen.label("seen"), literal_column("NULL").label("prior_runs")]
        return select(*pause_columns(gate), *plain, *taken.c).select_from(gate.outerjoin(taken, true()))
    again = (
        update(jobs)
        .where(jobs.c.id == any_(func.array(select(prior.c.id).scalar_subquery())), _runs, _newer, running)
        .values(_leased)
        .returning(*jobs.c)
        .cte("again")
    )
    got = union_all(select(*taken.c), select(*again.c)).subquery("got")
    extras: list[Any] = [seen.label("seen"), select(prior.c.runs).scalar_subquery().label("prior_runs")]
    return select(*pause_columns(gate), *extras, *got.c).select_from(gate.outerjoin(got, true()))


# SQLite: count this claim, so that a pause can say what had been claimed when it was made.
_COUNT_CLAIM = update(pause_gate).values(claims=pause_gate.c.claims + 1).returning(pause_gate.c.claims)

# SQLite: take the job that was found.
_TAKE_SQLITE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(**_taken_values, claim_number=bindparam("claim_number", type_=BigInteger()))
    .returning(*SHOWN)
)

# SQLite: the claim that a requestId stands for.
_PRIOR_SQLITE = select(jobs.c.id, _runs.label("runs")).where(_prior)

# SQLite: answer it again.
_AGAIN_SQLITE = (
    update(jobs).where(jobs.c.id == bindparam("job_id"), _runs, _newer).values(_leased).returning(*SHOWN)
)


@cache
def _ready_sqlite(by_type: bool, avoiding: bool = False) -> Select[tuple[UUID]]:
    # The head of each lane that matches, and the first of them. Nobody else writes, so heads are enough.
    inner = jobs.alias("inner_jobs")
    avoid = func.json_each(bindparam("avoid", type_=JSON_LIST)).table_valued("value", name="avoid")
    wanted = [inner.c.id.not_in(select(avoid.c.value))] if avoiding else []
    head = (
        select(inner.c.id)
        .where(
            inner.c.lane == lanes.c.id,
            inner.c.status == literal_column(f"'{JobStatus.QUEUED.value}'", String()),
            is_ready(inner.name),
            *wanted,
        )
        .order_by(inner.c.priority.desc(), inner.c.created_at, inner.c.id)
        .limit(literal_column("1"))
        .correlate(lanes)
        .scalar_subquery()
    )
    heads = select(head.label("id")).select_from(lanes).where(matching("sqlite", by_type=by_type)).subquery()
    return (
        select(jobs.c.id)
        .select_from(heads.join(jobs, jobs.c.id == heads.c.id))
        .order_by(*_place)
        .limit(literal_column("1"))
    )


def take(connection: Connection, claim: Claim, *, token: str) -> Taken:
    """Take the next job for this worker, unless the system is paused. The answer's `system` is the one read here."""
    if connection.dialect.name == "postgresql":
        repeatable = claim.request_id is not None
        statement = claim_statement(
            by_type=claim.types is not None, repeatable=repeatable, avoiding=bool(claim.avoid)
        )
        (row,) = run(connection, statement, claim.arguments())
        system = system_from(row, PREFIX)
        if row["id"] is not None:
            return Taken(row, system, token)
        return Taken(
            None,
            system,
            known=row["prior_runs"] is not None,
            over=row["prior_runs"] is False,
            crowded=row["seen"] >= CROWD and not system.workers_paused,
        )
    system = read_system(connection)
    if system.workers_paused:
        return Taken(None, system)
    if claim.request_id is not None:
        prior = first(connection, _PRIOR_SQLITE, claim.arguments())
        if prior is not None:
            again = first(connection, _AGAIN_SQLITE, {**claim.arguments(), "job_id": prior["id"]})
            return Taken(again, system, token, known=again is None, over=not prior["runs"])
    ready = _first_ready(connection, claim)
    if ready is None:
        return Taken(None, system)
    (number,) = run(connection, _COUNT_CLAIM)
    (taken,) = run(
        connection,
        _TAKE_SQLITE,
        {**claim.arguments(), "job_id": ready["id"], "claim_number": number["claims"]},
    )
    return Taken(taken, system, token)


def _first_ready(connection: Connection, claim: Claim) -> Stored | None:
    values = {**claim.arguments(), "avoid": [str(job_id) for job_id in claim.avoid]}
    return first(connection, _ready_sqlite(claim.types is not None, bool(claim.avoid)), values)


def any_ready(connection: Connection, claim: Claim) -> bool:
    """SQLite: whether a claim would find a job, asked without the writers' lock."""
    return _first_ready(connection, claim) is not None
