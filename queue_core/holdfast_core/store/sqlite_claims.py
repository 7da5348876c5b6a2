"""Taking jobs for several claims in one turn of SQLite's writer, in the order in which the claims came.

What is said of one claim (`holdfast_core.store.claims`) holds here: the pause is read and the jobs are taken in the
same turn, so nothing can come between. All is done once for all of them: the pause, the search of the lanes, the
counter, which goes up by as many as there are jobs, and the taking.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    String,
    Update,
    bindparam,
    func,
    literal_column,
    select,
    true,
    type_coerce,
    update,
)

from holdfast_core.db.prepared import Rows, fetch, first, later, run
from holdfast_core.db.tables import is_ready, jobs, lanes, pause_gate, pause_state
from holdfast_core.db.types import UTC_TIME
from holdfast_core.schemas import System
from holdfast_core.states import JobStatus
from holdfast_core.store.claims import Claim, Taken, taken_values
from holdfast_core.store.given import asked, asking
from holdfast_core.store.jobs import SHOWN
from holdfast_core.store.lanes import matching
from holdfast_core.store.pause import system_from

__all__ = ["Won", "next_statement", "take_in_turn", "take_statement"]

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


@cache
def take_statement() -> Update:
    """Take jobs that were found, each for the claim that is joined with it."""
    values = taken_values(asked)
    for name in ("lease_expires_at", "asked_at"):
        values[name] = asked(name, UTC_TIME)
    return (
        update(jobs)
        .where(_id == asked("found", String()))
        .values(**values, claim_number=asked("number", BigInteger()))
        .returning(*SHOWN)
    )


# Which of these claims have a job already, or had one: one probe of the index of requestIds for each.
_named: Final = func.json_each(bindparam("claims", type_=String())).table_valued("key", "value", name="named")
_PRIOR: Final = (
    select(type_coerce(_named.c.key, Integer()).label("number"))
    .select_from(_named)
    .where(
        select(literal_column("1", Integer()))
        .where(
            jobs.c.claim_worker == func.json_extract(_named.c.value, "$[0]"),
            jobs.c.request_id == func.json_extract(_named.c.value, "$[1]"),
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
    """What a turn came to. `numbers`: by the id of each job, which claim it is for; `prior`: the claims that have to be
    made alone."""

    system: System
    numbers: Mapping[str, int]
    rows: Rows
    prior: frozenset[int]

    def taken(self, tokens: Sequence[str]) -> list[Taken | None]:
        """What each claim came to. `tokens`: what the claims' hashes are of."""
        rows = {self.numbers[str(row["id"])]: row for row in self.rows.stored()}
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
    if system.workers_paused:
        return Won(system, {}, Rows(), frozenset())
    prior = _prior(connection, claims)
    numbers = [number for number in range(len(claims)) if number not in prior]
    values = {**claims[0].arguments(), "most": len(numbers)}
    found = run(connection, next_statement(by_type=claims[0].types is not None), values) if numbers else []
    if not found:
        return Won(system, {}, Rows(), prior)
    (counted,) = run(connection, _COUNT, {"more": len(found)})
    won = {job["id"]: number for job, number in zip(found, numbers, strict=False)}
    own = [
        {
            "found": job,
            "number": counted["claims"] - len(found) + place,
            "worker_id": claims[number].worker_id,
            "token_hash": claims[number].token_hash,
            "asked_as": claims[number].request_id,
            "lease_expires_at": later(connection, claims[number].lease_seconds),
            "asked_at": later(connection, -ages[number]),
        }
        for place, (job, number) in enumerate(won.items(), 1)
    ]
    return Won(system, won, fetch(connection, take_statement(), asking(own)), prior)


def _prior(connection: Connection, claims: Sequence[Claim]) -> frozenset[int]:
    if all(claim.request_id is None for claim in claims):
        return frozenset()
    named = json.dumps([[claim.worker_id, claim.request_id] for claim in claims])
    return frozenset(row["number"] for row in run(connection, _PRIOR, {"claims": named}))
