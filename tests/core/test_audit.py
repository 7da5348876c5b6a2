"""The log cannot be updated, deleted, truncated or replaced; the row of the pause keeps its invariants."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database
from holdfast_core.schemas import EnqueueRequest, WorkerPauseRequest, parse_request
from support.stores import core

pytestmark = pytest.mark.anyio

PAUSE = parse_request(WorkerPauseRequest, {"action": "pause", "mode": "drain", "reason": "a test"})[0]


def statement(sql: str) -> Callable[[Connection], Any]:
    return lambda connection: connection.execute(text(sql))


async def refused(database: Database, sql: str, words: str) -> None:
    with pytest.raises(DBAPIError, match=words):
        await database.write(statement(sql))


def log(connection: Connection) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in connection.execute(text("SELECT * FROM system_control_events ORDER BY created_at"))
    ]


@pytest.mark.requirement("SC-004")
async def test_the_audit_log_cannot_be_changed_by_any_statement(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await services.pause.control(LOCAL_OPERATOR, PAUSE)
        await services.pause.control(LOCAL_OPERATOR, PAUSE)
        before = await database.read(log)
        assert len(before) == 2
        for sql in (
            "UPDATE system_control_events SET reason = 'something else'",
            "UPDATE system_control_events SET outcome = 'refused', code = 'x' WHERE outcome = 'changed'",
            "DELETE FROM system_control_events",
            "DELETE FROM system_control_events WHERE outcome = 'unchanged'",
        ):
            await refused(database, sql, "append-only")
        copy = (
            "SELECT id, control, action, outcome, code, mode, 'forged', actor_user_id, actor, version,"
            " force_resume, resume_at, running, stale_running, created_at FROM system_control_events"
            " WHERE outcome = 'changed'"
        )
        if database.dialect == "postgresql":
            await refused(database, "TRUNCATE system_control_events", "append-only")
            await refused(database, "TRUNCATE system_control_events CASCADE", "append-only")
            await refused(
                database,
                f"INSERT INTO system_control_events {copy} ON CONFLICT (id) DO UPDATE SET reason = 'forged'",
                "append-only",
            )
        else:
            await refused(database, f"INSERT OR REPLACE INTO system_control_events {copy}", "append-only")
            other_id = copy.replace("SELECT id", "SELECT 'another-id'")
            await refused(database, f"INSERT OR REPLACE INTO system_control_events {other_id}", "append-only")
        assert await database.read(log) == before


async def test_a_user_who_acted_cannot_be_deleted(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await services.pause.control(LOCAL_OPERATOR, PAUSE)
        await refused(database, "DELETE FROM users", "(?i)foreign key")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE system_worker_pause_state SET reason = 'x'", "exactly one"),
        ("UPDATE system_worker_pause_state SET version = version + 2", "exactly one"),
        ("UPDATE system_worker_pause_state SET version = version - 1", "exactly one"),
        (
            "UPDATE system_worker_pause_state SET version = version + 1, paused = true",
            "mode_exactly_when_paused",
        ),
        (
            "UPDATE system_worker_pause_state SET version = version + 1, mode = 'drain'",
            "mode_exactly_when_paused",
        ),
        (
            "UPDATE system_worker_pause_state SET version = version + 1, paused = true, mode = 'nap',"
            " reason = 'x', requested_at = updated_at",
            "_mode",
        ),
        ("DELETE FROM system_worker_pause_state", "stays"),
        (
            "INSERT INTO system_worker_pause_state (id, paused, version, updated_at)"
            " SELECT 2, false, 1, updated_at FROM system_worker_pause_state",
            "single_row|stays",
        ),
    ],
)
async def test_the_row_of_the_pause_keeps_its_invariants(database_url: str, sql: str, words: str) -> None:
    async with core(database_url) as (_, database):
        await refused(database, sql, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("status = 'running'", "running"),
        ("status = 'succeeded'", "finished_exactly_when_terminal|succeeded_keeps_claimer"),
        ("status = 'asleep'", "status"),
        ("claimed_by = 'w'", "queued_has_no_claimer"),
        ("phase = 'parked'", "phase_only_when_running"),
        ("attempt = 0", "attempt"),
        ("attempt = 4", "attempt"),
        ("priority = 1001", "priority"),
        ("lease_expires_at = created_at", "lease_exactly_when_running"),
        ("finished_at = created_at", "finished_exactly_when_terminal"),
    ],
)
async def test_a_job_cannot_be_put_into_a_state_that_does_not_exist(
    database_url: str, change: str, words: str
) -> None:
    async with core(database_url) as (services, database):
        await services.jobs.enqueue(LOCAL_OPERATOR, parse_request(EnqueueRequest, {"type": "t"})[0])
        await refused(database, f"UPDATE agent_jobs SET {change}", words)


async def test_the_gate_table_stays_empty_on_postgresql(postgres_database_url: str) -> None:
    """A row in it would make every claim wait for its lock, or find the door shut for ever."""
    async with core(postgres_database_url) as (_, database):
        await refused(database, "INSERT INTO pause_gate (claims) VALUES (1)", "stays_empty")


async def test_the_auditors_question_is_answered_as_it_stands(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await services.pause.control(LOCAL_OPERATOR, PAUSE)
        rows = await database.read(
            lambda c: (
                c.execute(text("SELECT * FROM system_control_events ORDER BY created_at DESC LIMIT 5;"))
                .mappings()
                .all()
            )
        )
        assert [(row["action"], row["reason"], row["actor"]) for row in rows] == [
            ("pause", "a test", "local operator")
        ]
