"""Plans that hold: a claim walks its index, whatever the statistics say."""

import pytest
from sqlalchemy import Connection, insert

from holdfast_core.clock import SystemClock
from holdfast_core.db import Database, Lane
from holdfast_core.db.tables import jobs
from holdfast_core.ids import uuid7
from holdfast_core.store.claims import Claim, claim_statement
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

        def explained(connection: Connection) -> str:
            statement = claim_statement(by_type=types is not None, repeatable=True, avoiding=avoid > 0)
            compiled = statement.compile(dialect=connection.dialect)
            values = compiled.construct_params(claim.arguments())
            bound = {
                name: (compiled.binds[name].type.bind_processor(connection.dialect) or (lambda value: value))(
                    value
                )
                for name, value in values.items()
            }
            arguments = tuple(bound[name] for name in compiled.positiontup or ())
            return "\n".join(
                row[0] for row in connection.exec_driver_sql(f"EXPLAIN {compiled}", arguments).all()
            )

        plan = await database.write(explained, lane=Lane.GATED)
        assert "Index Only Scan using ix_agent_jobs_ready" in plan, plan
        assert "Index Cond: (lane = agent_job_lanes.id)" in plan, plan
        assert "Index Cond: (id = candidates.id)" in plan, plan
        # Only the heads of the lanes are sorted, a few dozen rows.
        assert plan.count("Sort Key") == 1, plan
        assert "Seq Scan on agent_jobs" not in plan, plan
