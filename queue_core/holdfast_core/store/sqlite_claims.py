"""Taking jobs for several claims in one turn of SQLite's writer, in the order in which the claims came.

What is said of one claim (`holdfast_core.store.claims`) holds here: the pause is read and the jobs are taken in the
same turn, so nothing can come between. What the claims have in common is done once: the pause, the search of the
lanes, and the counter, which goes up by as many as there are jobs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    String,
    bindparam,
    func,
    literal_column,
    select,
    true,
    type_coerce,
    update,
)

from holdfast_core.db.prepared import Rows, fetch, first, run
from holdfast_core.db.tables import is_ready, jobs, lanes, pause_gate, pause_state
from holdfast_core.schemas import System
from holdfast_core.states import JobStatus
from holdfast_core.store.claims import Claim, Taken, taken_values
from holdfast_core.store.given import bound
from holdfast_core.store.jobs import SHOWN
from holdfast_core.store.lanes import matching
from holdfast_core.store.pause import system_from

__all__ = ["Won", "next_statement", "take_in_turn"]

# The pause, and how many claims there have been.
_GATE: Final = select(pause_state, pause_gate.c.claims).select_from(pause_state.join(pause_gate, true()))

# Count these claims, so that a pause can say what had been claimed when it was made.
_COUNT: Final = (
    update(pause_gate)
    .values(claims=pause_gate.c.claims + bindparam("more", type_=BigInteger()))
    .returning(pause_gate.c.claims)
)

# Ids go in and out as they are stored.
_id: Final = type_coerce(jobs.c.id, String())

# Take a job that was found.
_TAKE: Final = (
    update(jobs)
    .where(_id == bindparam("found", type_=String()))
    .values(**taken_values(bound), claim_number=bindparam("number", type_=BigInteger()))
    .returning(*SHOWN)
)

# Which of these claims have a job already, or had one: one probe of the index of requestIds for each.
_asked: Final = func.json_each(bindparam("asked", type_=String())).table_valued("key", "value", name="asked")
_PRIOR: Final = (
    select(type_coerce(_asked.c.key, Integer()).label("number"))
    .select_from(_asked)
    .where(
        select(literal_column("1", Integer()))
        .where(
            jobs.c.claim_worker == func.json_extract(_asked.c.value, "$[0]"),
            jobs.c.request_id == func.json_extract(_asked.c.value, "$[1]"),
            jobs.c.request_id.is_not(None),
        )
        .exists()
    )
)


@cache
def next_statement(*, by_type: bool) -> Select[Any]:
    """The next jobs of all lanes that match, in their order, `most` of them. `by_type`: whether they are limited to
    some types. The first of each lane are merged; nobody else writes, so no more are looked at."""
    inner = jobs.alias("inner_jobs")
    most = bindparam("most", type_=Integer())
    place = (jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    heads = (
        select(literal_column("inner_jobs.rowid", Integer()))
        .select_from(inner)
        .where(
            inner.c.lane == lanes.c.id,
            inner.c.status == literal_column(f"'{JobStatus.QUEUED.value}'", String()),
            is_ready(inner.name),
        )
        .order_by(inner.c.priority.desc(), inner.c.created_at, inner.c.id)
        .limit(most)
        .correlate(lanes)
    )
    return (
        select(_id.label("id"))
        .select_from(lanes.join(jobs, literal_column("agent_jobs.rowid", Integer()).in_(heads)))
        .where(matching("sqlite", by_type=by_type))
        .order_by(*place)
        .limit(most)
    )


@dataclass(frozen=True, slots=True)
class Won:
    """What a turn came to. `numbers`: the claims that the rows are for, in their order; `prior`: those that have to
    be made alone."""

    system: System
    numbers: Sequence[int]
    rows: Rows
    prior: frozenset[int]

    def taken(self, tokens: Sequence[str]) -> list[Taken | None]:
        """What each claim came to. `tokens`: what the claims' hashes are of."""
        rows = dict(zip(self.numbers, self.rows.stored(), strict=False))
        return [
            None if number in self.prior else Taken(rows.get(number), self.system, token)
            for number, token in enumerate(tokens)
        ]


def take_in_turn(connection: Connection, claims: Sequence[Claim], ages: Sequence[float]) -> Won:
    """Take a job for each claim while there are jobs, the first for the first, unless the system is paused. `ages`: how
    many seconds ago each call came.

    They ask for the same types and capabilities. No two may have a worker and requestId in common.
    """
    gate = first(connection, _GATE)
    assert gate is not None
    system = system_from(gate)
    rows = Rows()
    if system.workers_paused:
        return Won(system, (), rows, frozenset())
    prior = _prior(connection, claims)
    numbers = [number for number in range(len(claims)) if number not in prior]
    values = {**claims[0].arguments(), "most": len(numbers)}
    found = run(connection, next_statement(by_type=claims[0].types is not None), values) if numbers else []
    if found:
        (counted,) = run(connection, _COUNT, {"more": len(found)})
        numbered = counted["claims"] - len(found)
        for place, (number, job) in enumerate(zip(numbers, found, strict=False), 1):
            own = {
                **claims[number].arguments(),
                "age_seconds": ages[number],
                "found": job["id"],
                "number": numbered + place,
            }
            rows.extend(fetch(connection, _TAKE, own))
    return Won(system, numbers, rows, prior)


def _prior(connection: Connection, claims: Sequence[Claim]) -> frozenset[int]:
    if all(claim.request_id is None for claim in claims):
        return frozenset()
    asked = json.dumps([[claim.worker_id, claim.request_id] for claim in claims])
    return frozenset(row["number"] for row in run(connection, _PRIOR, {"asked": asked}))
