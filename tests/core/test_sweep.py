"""The sweep: what nobody heartbeats any more comes back, once, and never too soon after a maintenance."""

import sqlite3
from datetime import timedelta

import anyio
import pytest
from sqlalchemy import Connection, insert, select
from structlog.testing import capture_logs

from holdfast_core.db import Database
from holdfast_core.db.tables import jobs
from holdfast_core.db.types import Now
from holdfast_core.errors import StoreUnavailable
from holdfast_core.ids import uuid7
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.states import JobStatus
from holdfast_core.store.upkeep import SWEEP_BATCH
from support.core import (
    MovableClock,
    cancel,
    claim,
    claimed,
    enqueue,
    expire,
    get,
    heartbeat,
    lane_of,
    pause,
    resume,
    session,
    until,
)
from support.proxy import proxy
from support.stores import core

pytestmark = pytest.mark.anyio

GRACE = 60
#: A sweeper that comes round later than five seconds takes itself for one that was held up.
ROUND = 4.5


async def rounds(services: Services, clock: MovableClock, seconds: float) -> None:
    """Let so much time go by for this process, with rounds of the sweep as it goes."""
    end = clock.ahead + seconds
    while clock.ahead < end:
        clock.ahead = min(clock.ahead + ROUND, end)
        await services.sweeper.sweep()


async def swept(services: Services, job: Job) -> bool:
    await services.sweeper.sweep()
    return (await get(services, job)).status is not JobStatus.RUNNING


async def test_a_job_that_nobody_heartbeats_comes_back_to_the_next_who_waits(database_url: str) -> None:
    """From the lease to the next claim, by the process's own rounds."""
    async with core(database_url, lease_grace_seconds=0, lease_retry_delay_seconds=0) as (services, _):
        made = await enqueue(services)
        dead = await claimed(services, "dead", leaseSeconds=1)
        got = await claimed(services, "alive", waitSeconds=20)
        assert (got.id, got.attempt, got.claimed_by) == (made.id, 2, "alive")
        assert got.started_at is not None
        assert dead.lease_expires_at is not None
        assert got.started_at >= dead.lease_expires_at


async def test_an_expired_lease_comes_back_with_one_attempt_used_after_the_delay_and_a_live_one_stays(
    database_url: str,
) -> None:
    async with core(database_url, lease_grace_seconds=0, lease_retry_delay_seconds=100) as (
        services,
        database,
    ):
        made, live = await enqueue(services), await enqueue(services)
        job = await claimed(services)
        await claimed(services, "live")
        before = await get(services, live)
        await expire(database, job)
        assert await until(lambda: swept(services, job))
        back = await get(services, job)
        assert (back.status, back.attempt, back.claimed_by, back.lease_expires_at, back.phase) == (
            JobStatus.QUEUED,
            2,
            None,
            None,
            None,
        )
        assert back.created_at == made.created_at
        assert back.error_message is not None
        assert "lease" in back.error_message
        assert back.next_attempt_at is not None
        assert 79 <= (back.next_attempt_at - back.updated_at).total_seconds() <= 121
        assert (await claim(services)).job is None
        assert await get(services, live) == before


async def test_an_expired_lease_without_attempts_left_ends_in_dead_letter_and_a_cancelled_one_in_cancelled(
    database_url: str,
) -> None:
    async with core(database_url, lease_grace_seconds=0) as (services, database):
        await enqueue(services, maxAttempts=1)
        exhausted = await claimed(services, "w-1")
        await enqueue(services, maxAttempts=1)
        asked = await claimed(services, "w-2")
        await cancel(services, asked, reason="enough")
        await expire(database, exhausted, asked)
        assert await until(lambda: swept(services, exhausted))
        assert await until(lambda: swept(services, asked))
        for job, status in ((exhausted, JobStatus.DEAD_LETTER), (asked, JobStatus.CANCELLED)):
            ended = await get(services, job)
            assert (ended.status, ended.attempt, ended.claimed_by) == (status, 1, job.claimed_by)
            assert ended.finished_at is not None
            assert ended.next_attempt_at is None
        assert (await get(services, asked)).cancel_reason == "enough"


async def test_nothing_is_swept_within_the_grace_after_a_resume(database_url: str) -> None:
    grace = 1.2
    async with core(database_url, lease_grace_seconds=grace) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        await pause(services)
        resumed = (await resume(services)).system.updated_at
        assert await until(lambda: swept(services, job))
        assert (await get(services, job)).updated_at >= resumed + timedelta(seconds=grace)


async def test_nothing_is_swept_within_the_grace_after_a_start(database_url: str) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock, lease_grace_seconds=GRACE) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        await services.sweeper.sweep()
        await rounds(services, clock, GRACE - 2)
        assert (await get(services, job)).status is JobStatus.RUNNING
        await rounds(services, clock, 3)
        assert (await get(services, job)).status is JobStatus.QUEUED


async def test_nothing_is_swept_within_the_grace_after_the_process_was_held_up(database_url: str) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock, lease_grace_seconds=GRACE) as (services, database):
        await rounds(services, clock, GRACE + ROUND)
        await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        clock.ahead += 10  # stopped for so long, as its workers' heartbeats will have been
        assert await services.sweeper.sweep() == 0
        await rounds(services, clock, GRACE - 2)
        assert (await get(services, job)).status is JobStatus.RUNNING
        assert (await heartbeat(services, job, leaseSeconds=3600)).status is JobStatus.RUNNING
        await rounds(services, clock, GRACE)
        assert (await get(services, job)).attempt == 1


async def test_nothing_is_swept_within_the_grace_after_the_database_was_away(
    postgres_database_url: str,
) -> None:
    clock = MovableClock()
    async with (
        proxy(postgres_database_url) as way,
        core(way.url, clock=clock, lease_grace_seconds=GRACE) as (services, database),
    ):
        await rounds(services, clock, GRACE + ROUND)
        await enqueue(services)
        job = await claimed(services)
        with capture_logs() as lines:
            await way.cut()

            async def noticed() -> bool:
                return any(line["event"] == "sweep_failed" for line in lines)

            await until(noticed)
            await way.restore()
        await until(lambda: reachable(services, database))
        await expire(database, job)
        await rounds(services, clock, GRACE - 2)
        assert (await get(services, job)).status is JobStatus.RUNNING
        await rounds(services, clock, 2 + ROUND)
        assert (await get(services, job)).status is JobStatus.QUEUED


async def reachable(services: Services, database: Database) -> bool:
    """Whether no dead session is left, neither the plain ones nor those of claims and sweeps."""
    try:
        await database.write(lambda c: c.execute(select(1)))
        await claim(services, allowedTypes=["none"])
    except StoreUnavailable:
        return False
    return True


async def test_nothing_is_swept_within_the_grace_after_heartbeats_could_not_be_written(
    sqlite_url: str,
) -> None:
    """A backup, a VACUUM or a full disk keeps writers out, not readers; the sweep's own look does not notice.

    The workers that were told 503 by this very process are to heartbeat first (CONTRACT section 4, Leases)."""
    clock = MovableClock()
    async with core(sqlite_url, clock=clock, lease_grace_seconds=GRACE) as (services, _):
        await rounds(services, clock, GRACE + ROUND)
        await enqueue(services)
        job = await claimed(services, leaseSeconds=10)
        foreign = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await heartbeat(services, job, leaseSeconds=10)
        foreign.close()
        await rounds(services, clock, 12)  # the lease has run out, the grace has not
        assert (await get(services, job)).status is JobStatus.RUNNING


def plant_stale(connection: Connection, count: int) -> None:
    """Running jobs whose leases ran out a minute ago."""
    values = {
        "lane": lane_of(connection, "planted"),
        "type": "planted",
        "status": "running",
        "priority": 0,
        "payload": {},
        "required_capabilities": [],
        "claimed_by": "w",
        "claim_worker": "w",
        "claim_token_hash": "0" * 64,
        "claim_number": 1,
        "phase": "running",
        "attempt": 1,
        "max_attempts": 3,
    }
    times = {name: Now(-60) for name in ("lease_expires_at", "started_at", "created_at", "updated_at")}
    connection.execute(insert(jobs).values(times), [{**values, "id": uuid7()} for _ in range(count)])


async def test_several_sweepers_put_each_job_back_once(database_url: str) -> None:
    count = 2 * SWEEP_BATCH + 50
    settings = {"lease_grace_seconds": 0, "lease_retry_delay_seconds": 3600}
    async with (
        core(database_url, **settings) as (first, database),
        core(database_url, **settings) as (second, _),
        core(database_url, **settings) as (third, _),
    ):
        await database.write(lambda c: plant_stale(c, count))
        counted: list[int] = []

        async def sweep(services: Services) -> None:
            counted.append(await services.sweeper.sweep())

        async with anyio.create_task_group() as tasks:
            for services in (first, second, third) * 2:
                tasks.start_soon(sweep, services)
        found = await database.read(lambda c: c.execute(select(jobs.c.status, jobs.c.attempt)).all())
        assert len(found) == count
        assert {(row.status, row.attempt) for row in found} == {("queued", 2)}
        assert 0 < sum(counted) <= count


async def test_sweepers_pass_over_each_others_rows_and_over_those_that_somebody_holds(
    postgres_database_url: str,
) -> None:
    settings = {"lease_grace_seconds": 0, "lease_retry_delay_seconds": 3600}
    async with (
        core(postgres_database_url, **settings) as (first, database),
        core(postgres_database_url, **settings) as (second, _),
        session(postgres_database_url) as watching,
    ):
        await database.write(lambda c: plant_stale(c, 20))
        done: list[int] = []

        async def sweep(services: Services) -> None:
            done.append(await services.sweeper.sweep())

        async def done_or_waiting() -> bool:
            waiting: int = await watching.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'"
            )
            return len(done) + waiting >= 2

        async with anyio.create_task_group() as tasks, session(postgres_database_url) as holder:
            await holder.execute("BEGIN")
            held = await holder.fetchval("SELECT id FROM agent_jobs WHERE attempt = 1 LIMIT 1 FOR UPDATE")
            for services in (first, second):
                tasks.start_soon(sweep, services)
            await until(done_or_waiting)
            assert len(done) == 2, "a sweep waits for a row that somebody holds"
            await holder.execute("ROLLBACK")

        async def all_swept() -> bool:
            await first.sweeper.sweep()
            found = await database.read(lambda c: c.execute(select(jobs.c.id, jobs.c.attempt)).all())
            assert {row.attempt for row in found if row.id != held} == {2}
            return all(row.attempt == 2 for row in found)

        assert await until(all_swept)
