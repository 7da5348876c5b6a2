"""Plans that hold: a claim walks its index, whatever the statistics say."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ClauseElement, Connection, Executable, insert
from sqlalchemy.sql.compiler import SQLCompiler

from holdfast_core.clock import SystemClock
from holdfast_core.db import Database, Lane
from holdfast_core.db.tables import jobs
from holdfast_core.ids import uuid7
from holdfast_core.services.batches import MOST_TOGETHER
from holdfast_core.store.claim_batches import batch_arguments, batch_statement
from holdfast_core.store.claims import Claim, _ready_sqlite, claim_statement
from holdfast_core.store.metrics import _BACKLOG, _IN_FLIGHT
from holdfast_core.store.sqlite_claims import _PRIOR, next_statement, take_statement
from holdfast_core.store.sqlite_leases import held_in_turn
from support.core import lane_of
from support.stores import core

pytestmark = pytest.mark.anyio

QUEUED = 30_000


async def fill(database: Database) -> None:
    now = SystemClock().now()
    lane = await database.write(lambda c: lane_of(c, "t"))
    row = {
        "lane": lane,
        "type": "t",
        "status": "queued",
        "priority": 0,
        "payload": {},
        "required_capabilities": [],
        "attempt": 1,
        "max_attempts": 1,
        "created_at": now,
        "updated_at": now,
    }
    await database.write(lambda c: c.execute(insert(jobs), [{**row, "id": uuid7()} for _ in range(QUEUED)]))


@pytest.mark.parametrize("avoid", [0, 3, 256])
@pytest.mark.parametrize("types", [None, ("t", "u")])
async def test_a_claim_walks_its_index_though_no_statistics_were_taken(
    postgres_database_url: str, types: tuple[str, ...] | None, avoid: int
) -> None:
    async with core(postgres_database_url) as (_, database):
        await fill(database)
        claim = Claim("w", 60, "x", types, (), avoid=tuple(uuid7() for _ in range(avoid)))

        statement = claim_statement(by_type=types is not None, repeatable=True, avoiding=avoid > 0)
        walks_the_index(await database.write(explain(statement, claim.arguments()), lane=Lane.GATED))


@pytest.mark.parametrize("claims", [2, MOST_TOGETHER])
@pytest.mark.parametrize("types", [None, ("t", "u")])
async def test_a_statement_for_many_claims_walks_it_as_well(
    postgres_database_url: str, types: tuple[str, ...] | None, claims: int
) -> None:
    async with core(postgres_database_url) as (_, database):
        await fill(database)
        made = [Claim(f"w{number}", 60, "x", types, (), request_id="r") for number in range(claims)]
        statement = batch_statement(by_type=types is not None)
        plan = await database.write(
            explain(statement, batch_arguments(made, [0.0] * len(made))), lane=Lane.GATED
        )
        walks_the_index(plan)
        assert "Index Cond: (((claim_worker)::text = " in plan, plan


def explain(statement: Executable, values: dict[str, Any]) -> Callable[[Connection], str]:
    def explained(connection: Connection) -> str:
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=connection.dialect)
        assert isinstance(compiled, SQLCompiler)
        bound = {
            name: (compiled.binds[name].type.bind_processor(connection.dialect) or (lambda value: value))(
                value
            )
            for name, value in compiled.construct_params(values).items()
        }
        arguments = tuple(bound[name] for name in compiled.positiontup or ())
        return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {compiled}", arguments).all())

    return explained


def walks_the_index(plan: str) -> None:
    assert "Index Only Scan using ix_agent_jobs_ready" in plan, plan
    assert "Index Cond: (lane = agent_job_lanes.id)" in plan, plan
    assert "Index Cond: (id = candidates.id)" in plan, plan
    # Only the heads of the lanes are sorted, a few dozen rows.
    assert plan.count("Sort Key") == 1, plan
    assert "Seq Scan on agent_jobs" not in plan, plan


@pytest.mark.parametrize("by_type", [False, True])
@pytest.mark.parametrize("avoiding", [False, True])
async def test_on_sqlite_a_claim_walks_its_index_too(sqlite_url: str, by_type: bool, avoiding: bool) -> None:
    async with core(sqlite_url) as (_, database):
        plan = await database.read(plan_on_sqlite(_ready_sqlite(by_type, avoiding)))
        assert "SEARCH inner_jobs USING INDEX ix_agent_jobs_ready (lane=?)" in plan, plan
        assert "SCAN inner_jobs" not in plan, plan
        assert "SCAN agent_jobs" not in plan, plan


@pytest.mark.parametrize("by_type", [False, True])
async def test_on_sqlite_claims_that_come_together_walk_their_index(sqlite_url: str, by_type: bool) -> None:
    async with core(sqlite_url) as (_, database):
        plan = await database.read(plan_on_sqlite(next_statement(by_type=by_type)))
        assert "SEARCH inner_jobs USING INDEX ix_agent_jobs_ready (lane=?)" in plan, plan
        assert "SEARCH agent_jobs USING INTEGER PRIMARY KEY" in plan, plan
        assert "SCAN inner_jobs" not in plan, plan
        assert "SCAN agent_jobs" not in plan, plan


async def test_on_sqlite_requests_with_an_id_probe_its_index(sqlite_url: str) -> None:
    async with core(sqlite_url) as (_, database):
        plan = await database.read(plan_on_sqlite(_PRIOR))
        assert "uq_agent_jobs_request (claim_worker=? AND request_id=?)" in plan, plan
        assert "SCAN agent_jobs" not in plan, plan


@pytest.mark.parametrize(
    "statement",
    [take_statement(), held_in_turn("heartbeat"), held_in_turn("complete")],
    ids=["take", "heartbeat", "complete"],
)
async def test_on_sqlite_what_is_written_together_probes_the_primary_key(
    sqlite_url: str, statement: Executable
) -> None:
    async with core(sqlite_url) as (_, database):
        plan = await database.read(plan_on_sqlite(statement))
        assert "SCAN asked VIRTUAL TABLE" in plan, plan
        assert "INDEX sqlite_autoindex_agent_jobs_1 (id=?)" in plan, plan
        assert "SCAN agent_jobs" not in plan, plan


async def test_on_sqlite_what_runs_is_counted_from_the_index_that_holds_all_that_counts(
    sqlite_url: str,
) -> None:
    async with core(sqlite_url) as (_, database):
        plan = await database.read(plan_on_sqlite(_IN_FLIGHT))
        assert "ix_agent_jobs_leases" in plan, plan


async def test_on_sqlite_what_waits_is_counted_and_promoted_from_the_indexes_that_hold_just_that(
    sqlite_url: str,
) -> None:
    async with core(sqlite_url) as (_, database):
        plan = await database.read(plan_on_sqlite(_BACKLOG["sqlite"]))
        assert (
            "USING INDEX ix_agent_jobs_ready" in plan or "USING COVERING INDEX ix_agent_jobs_ready" in plan
        ), plan
        assert "ix_agent_jobs_scheduled" in plan, plan


def plan_on_sqlite(statement: Executable) -> Callable[[Connection], str]:
    def explained(connection: Connection) -> str:
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=connection.dialect)
        assert isinstance(compiled, SQLCompiler)
        # What is bound changes no plan here.
        arguments = tuple(1 if name.startswith("param") else "[]" for name in compiled.positiontup or ())
        return "\n".join(
            row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", arguments).all()
        )

    return explained
