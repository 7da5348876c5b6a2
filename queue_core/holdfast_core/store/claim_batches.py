"""Taking jobs for several claims at once (PostgreSQL): one statement that passes the door, reads the pause, and
hands the next jobs out in the order in which the claims came.

It is the statement of one claim (`holdfast_core.store.claims`) with arrays in place of values, so all that is said
there, and in `holdfast_core.gate`, holds here: one statement in autocommit, one snapshot, taken behind the door.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    String,
    Uuid,
    any_,
    bindparam,
    cast,
    column,
    func,
    not_,
    null,
    select,
    union_all,
    update,
)

from holdfast_core.db.prepared import Stored, run
from holdfast_core.db.tables import jobs
from holdfast_core.store.claims import (
    CROWD,
    PREFIX,
    Claim,
    Taken,
    at_the_gate,
    claim_number,
    first_free,
    next_jobs,
    pause_columns,
    taken_values,
)
from holdfast_core.store.given import listed
from holdfast_core.store.jobs import SHOWN
from holdfast_core.store.pause import system_from

__all__ = ["batch_arguments", "batch_statement", "take_together"]

#: Jobs that a statement looks at for each of its claims, beside those of a claim alone: as many processes may be
#: taking the first ones, with statements as large as this.
LOOKS_EACH: Final = 4
#: What is told of a job that was taken: the job, and whose it is.
_TAKEN: Final = (*SHOWN, jobs.c.claim_token_hash)


@cache
def batch_statement(*, by_type: bool) -> Executable:
    """Take a job for each claim while there are jobs, the first for the first. `by_type`: whether they are limited
    to some types.

    A claim whose requestId has a job already, or had one, gets none here: `numbers` are those of the others.
    """
    gate = at_the_gate()
    running = not_(select(gate.c.paused).scalar_subquery())
    asked = (
        func.unnest(
            bindparam("worker_id", type_=ARRAY(String())), bindparam("asked_as", type_=ARRAY(String()))
        )
        .table_valued(column("worker_id", String()), column("asked_as", String()), with_ordinality="number")
        .render_derived(name="asked")
    )
    # A sub-select in the place of a value, which the planner leaves as it is: one probe of the index for each.
    prior = (
        select(jobs.c.id)
        .where(jobs.c.claim_worker == asked.c.worker_id, jobs.c.request_id == asked.c.asked_as)
        .scalar_subquery()
    )
    fresh = select(cast(asked.c.number, Integer)).where(prior.is_(None))  # in order: nothing reorders a scan
    eligible = select(func.array(fresh.scalar_subquery(), type_=ARRAY(Integer())).label("numbers")).cte(
        "eligible"
    )
    numbers = select(eligible.c.numbers).scalar_subquery()
    candidates = next_jobs(by_type=by_type, avoiding=False, most=bindparam("looks", type_=Integer()))
    wanted = first_free(candidates).where(running).limit(func.cardinality(numbers))
    chosen = select(func.array(wanted.scalar_subquery(), type_=ARRAY(Uuid())).label("ids")).cte("chosen")
    ids = select(chosen.c.ids).scalar_subquery()

    # Of the claim that stands where this job stands among the chosen ones.
    given = listed(numbers[func.array_position(ids, jobs.c.id)])
    taken = (
        update(jobs)
        .where(jobs.c.id == any_(cast(ids, ARRAY(Uuid()))))
        .values(**taken_values(given), claim_number=claim_number)
        .returning(*_TAKEN)
        .cte("taken")
    )
    seen = select(func.count()).select_from(candidates).scalar_subquery()
    # The pause in one row and the jobs in the others: what is the same for all would be sent and read for each.
    pause = [*pause_columns(gate), seen.label("seen"), numbers.label("numbers")]
    return union_all(
        select(*pause, *(_nothing(column) for column in _TAKEN)).select_from(gate),
        select(*(_nothing(column) for column in pause), *taken.c),
    )


def _nothing(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(null(), column.type).label(column.key)


def _looks(claims: Sequence[Claim]) -> int:
    return CROWD + LOOKS_EACH * len(claims)


def batch_arguments(claims: Sequence[Claim], ages: Sequence[float]) -> dict[str, Any]:
    """The bound values for these claims, which ask for the same types and capabilities. `ages`: how many seconds ago
    each call came."""
    return {
        **claims[0].arguments(),
        "worker_id": [claim.worker_id for claim in claims],
        "asked_as": [claim.request_id for claim in claims],
        "lease_seconds": [float(claim.lease_seconds) for claim in claims],
        "token_hash": [claim.token_hash for claim in claims],
        "age_seconds": ages,
        "looks": _looks(claims),
    }


def take_together(
    connection: Connection, claims: Sequence[Claim], *, ages: Sequence[float], tokens: Sequence[str]
) -> list[Taken | None]:
    """What each claim came to, as `take` has it. None for one that has to be made alone: its requestId may have a
    job already. `tokens`: what the claims' hashes are of. No two may have a worker and requestId in common."""
    statement = batch_statement(by_type=claims[0].types is not None)
    got: dict[str, Stored] = {}
    head: Stored = {}
    for row in run(connection, statement, batch_arguments(claims, ages)):
        hashed = row["claim_token_hash"]
        if hashed is None:
            head = row
        else:
            got[hashed] = row
    system = system_from(head, PREFIX)
    crowded = head["seen"] >= _looks(claims) and not system.workers_paused
    eligible = set(head["numbers"])
    return [
        Taken(taken := got.get(claim.token_hash), system, token, crowded=crowded and taken is None)
        if number in eligible
        else None
        for number, (claim, token) in enumerate(zip(claims, tokens, strict=True), 1)
    ]
