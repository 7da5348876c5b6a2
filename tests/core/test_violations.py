"""The count that must be none: running jobs whose claim committed after the pause."""

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from holdfast_core.db import Database
from holdfast_core.store.metrics import violations
from support.core import claimed, complete, enqueue, pause, resume, session, sql
from support.stores import core

pytestmark = pytest.mark.anyio

#: A claim that passed no gate.
CLAIM_POSTGRESQL = """
    UPDATE agent_jobs SET status = 'running', claimed_by = 'w', claim_worker = 'w', claim_token_hash = 'x',
        claim_outcome = NULL, phase = 'running', lease_expires_at = now() + interval '1 minute',
        started_at = now(), claim_number = pg_current_xact_id()::text::bigint
    WHERE id = (SELECT id FROM agent_jobs WHERE status = 'queued' LIMIT 1)
"""
CLAIM_SQLITE = (
    "UPDATE pause_gate SET claims = claims + 1",
    """
    UPDATE agent_jobs SET status = 'running', claimed_by = 'w', claim_worker = 'w', claim_token_hash = 'x',
        claim_outcome = NULL, phase = 'running', lease_expires_at = holdfast_now(60),
        started_at = holdfast_now(0), claim_number = (SELECT claims FROM pause_gate)
    WHERE id = (SELECT id FROM agent_jobs WHERE status = 'queued' LIMIT 1)
    """,
)


async def claim_behind_its_back(database: Database) -> None:
    statements = (CLAIM_POSTGRESQL,) if database.dialect == "postgresql" else CLAIM_SQLITE
    await database.write(lambda c: [c.execute(text(statement)) for statement in statements])


async def test_a_claim_behind_the_pauses_back_is_counted_until_the_resume(database_url: str) -> None:
    async with core(database_url) as (services, database):
        for _number in range(3):
            await enqueue(services)
        await claimed(services, "before")
        assert await database.read(violations) == 0
        await pause(services)
        assert await database.read(violations) == 0
        assert await services.watch.inspect() == 0
        await claim_behind_its_back(database)
        with capture_logs() as lines:
            assert await services.watch.inspect() == 1
        assert [(line["log_level"], line["jobs"]) for line in lines if line["event"] == "pause_violated"] == [
            ("error", 1)
        ]
        await pause(services, mode="quiesce", reason="another mode does not forget it")
        assert await database.read(violations) == 1
        await resume(services)
        assert await database.read(violations) == 0
        await pause(services)
        assert await database.read(violations) == 0, "for the next pause it was claimed before"
        await claim_behind_its_back(database)
        assert await database.read(violations) == 1


async def test_a_job_that_ran_on_the_server_of_a_dump_is_no_violation_on_the_one_that_it_was_restored_to(
    postgres_database_url: str,
) -> None:
    """The transactions there are numbered anew, from far below the one that claimed the job."""
    async with core(postgres_database_url) as (services, database):
        for _number in range(2):
            await enqueue(services)
        await claimed(services)
        await sql(
            database, "UPDATE agent_jobs SET claim_number = claim_number + 1000000 WHERE status = 'running'"
        )
        await pause(services)
        assert await database.read(violations) == 0
        await claim_behind_its_back(database)
        assert await database.read(violations) == 1


async def test_what_was_claimed_before_the_pause_is_no_violation_however_it_goes_on(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        for _number in range(4):
            await enqueue(services)
        held = [await claimed(services, f"w-{number}") for number in range(3)]
        for _round in range(3):
            await pause(services)
            assert await database.read(violations) == 0
            await resume(services)
            await complete(services, held.pop())
            await enqueue(services)
        await claimed(services)
        await pause(services)
        assert await database.read(violations) == 0


async def test_a_claim_that_was_under_way_at_the_pause_and_commits_after_it_is_counted(
    postgres_database_url: str,
) -> None:
    """It had its number before the pause, and is a broken promise all the same."""
    async with core(postgres_database_url) as (services, database):
        await enqueue(services)
        async with session(postgres_database_url) as connection:
            await connection.execute("BEGIN")
            await connection.execute(CLAIM_POSTGRESQL)
            await pause(services)  # this claim did not pass the door, so the pause does not wait for it
            assert await database.read(violations) == 0
            await connection.execute("COMMIT")
        assert await database.read(violations) == 1
