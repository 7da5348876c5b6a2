"""Lanes and scheduled jobs: the order is that of the whole queue, and nothing future is handed out or moved unasked."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from sqlalchemy import Connection, func, insert, select, update

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Lane
from holdfast_core.db.tables import artifacts, job_events, jobs
from holdfast_core.db.types import Now
from holdfast_core.ids import uuid7
from holdfast_core.schemas import Job, JobQuery
from holdfast_core.services import Services
from holdfast_core.store import upkeep
from holdfast_core.store.metrics import backlog
from support.core import claim, claimed, column, complete, enqueue, pause, resume, row, sql, until
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_claims_take_the_jobs_of_many_lanes_in_the_order_of_the_queue(database_url: str) -> None:
    chance = random.Random(7)
    async with core(database_url) as (services, _):
        made: list[Job] = []
        for _number in range(120):
            capabilities = chance.sample(["gpu", "git", "web"], chance.randrange(3))
            made.append(
                await enqueue(
                    services,
                    type=f"t-{chance.randrange(8)}",
                    priority=chance.choice([-5, 0, 0, 7]),
                    requiredCapabilities=capabilities,
                )
            )
        able = {"gpu", "git"}
        wanted = [job for job in made if set(job.required_capabilities) <= able]
        expected = sorted(wanted, key=lambda job: (-job.priority, job.created_at, job.id))
        got = [await claimed(services, workerCapabilities=sorted(able)) for _ in range(len(expected))]
        assert [job.id for job in got] == [job.id for job in expected]
        assert (await claim(services, workerCapabilities=sorted(able))).job is None
        only = [job for job in made if "web" in job.required_capabilities and job.type in {"t-1", "t-2"}]
        got = [
            await claimed(services, workerCapabilities=["gpu", "git", "web"], allowedTypes=["t-2", "t-1"])
            for _ in range(len(only))
        ]
        assert [job.id for job in got] == [
            job.id for job in sorted(only, key=lambda job: (-job.priority, job.created_at, job.id))
        ]


async def test_claims_of_many_processes_never_pass_over_a_job_of_higher_priority_that_is_free(
    postgres_database_url: str,
) -> None:
    """Each claimer's jobs come in falling priority, whatever the others take at the same moment."""
    async with core(postgres_database_url) as (one, _), core(postgres_database_url) as (two, _):
        for number in range(160):
            await enqueue(one, type=f"t-{number % 5}", priority=number % 40)
        got: list[list[int]] = []

        async def take(services: Services, worker: str) -> None:
            mine: list[int] = []
            while (job := (await claim(services, worker)).job) is not None:
                mine.append(job.priority)
                await complete(services, job)
            got.append(mine)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(take, (one, two)[number % 2], f"w-{number}")
        assert sorted(itertools.chain(*got)) == sorted(number % 40 for number in range(160))
        assert all(mine == sorted(mine, reverse=True) for mine in got)
        assert sum(len(mine) > 5 for mine in got) > 3, "several took a share"


async def test_a_scheduled_job_waits_apart_and_is_handed_out_when_its_time_comes(database_url: str) -> None:
    async with core(database_url) as (services, database):
        soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
        first = await enqueue(services, runAt=soon)
        later = await enqueue(services, runAt=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
        second = await enqueue(services)
        assert not await column(database, first, "ready")
        counts = (await services.pause.status(LOCAL_OPERATOR)).metrics
        assert (counts.queued, counts.scheduled) == (1, 2)

        async def ready() -> bool:
            return bool(await column(database, first, "ready"))

        await until(ready, 5)
        assert (await claimed(services)).id == first.id, "its place is that of its making"
        assert (await claimed(services)).id == second.id
        assert (await claim(services)).job is None
        assert not await column(database, later, "ready")


async def test_while_paused_nothing_is_promoted_though_its_time_has_come(database_url: str) -> None:
    async with core(database_url) as (services, database):
        job = await enqueue(services, runAt=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
        await pause(services)
        await sql(database, "UPDATE agent_jobs SET next_attempt_at = created_at")
        before = await row(database, job)
        assert await services.upkeep.promote() == 0
        # Not by a process either that has not heard of the pause.
        assert await database.write(upkeep.promote, lane=Lane.GATED) == 0
        assert await row(database, job) == before

        async def counted() -> bool:  # as due and waiting, pause or no pause
            counts = (await services.pause.status(LOCAL_OPERATOR)).metrics
            return (counts.queued, counts.scheduled) == (1, 0)

        await until(counted)
        await resume(services)
        await until(lambda: got_a_job(services), 5)


async def got_a_job(services: Services) -> bool:
    return (await claim(services)).job is not None


async def test_old_jobs_are_removed_with_their_logs_and_never_while_paused(database_url: str) -> None:
    async with core(database_url, retention_days=7) as (services, database):
        jobs = []
        for _number in range(5):
            await enqueue(services)
            jobs.append(await claimed(services))
        for job in jobs[:4]:
            await complete(services, job)
        waiting = await enqueue(services)
        old = "', '".join(str(job.id) for job in jobs[:3])
        ids = f"('{old}')"
        await sql(
            database,
            "INSERT INTO agent_job_events (job_id, sequence, level, message, created_at)"
            f" SELECT id, 1, 'info', 'x', created_at FROM agent_jobs WHERE id IN {ids}",
        )
        past = "'2001-01-01T00:00:00.000000Z'"
        await sql(database, f"UPDATE agent_jobs SET finished_at = {past} WHERE id IN {ids}")
        await pause(services)
        assert await services.upkeep.remove() == 0
        assert (
            await database.write(
                lambda c: upkeep.remove_old(c, age_seconds=60, chosen=upkeep.old(c, age_seconds=60)),
                lane=Lane.GATED,
            )
            == []
        )
        await resume(services)
        assert await services.upkeep.remove() == 3
        listed = {job.id for job in (await services.jobs.list(LOCAL_OPERATOR, JobQuery())).items}
        assert listed == {jobs[3].id, jobs[4].id, waiting.id}
        assert await services.upkeep.remove() == 0


async def test_an_old_job_with_a_long_log_and_many_artifacts_is_removed_bit_by_bit(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "REMOVE_BATCH", 2)
    async with core(database_url, retention_days=7) as (services, database):
        await enqueue(services)
        job = await claimed(services)

        def fill(connection: Connection) -> None:
            at = datetime.now(UTC)
            line = {"job_id": job.id, "level": "info", "message": "x", "created_at": at}
            connection.execute(insert(job_events), [{**line, "sequence": n} for n in range(1, 5_001)])
            file = {"job_id": job.id, "content_type": "a/b", "size": 1, "worker_id": "w", "created_at": at}
            connection.execute(
                insert(artifacts),
                [
                    {**file, "id": uuid7(), "name": str(n), "digest": "sha256:", "content": b"x"}
                    for n in range(35)
                ],
            )

        await database.write(fill)
        await complete(services, job)
        await sql(database, "UPDATE agent_jobs SET finished_at = '2001-01-01T00:00:00.000000Z'")
        assert await database.read(lambda c: upkeep.heavy(c, [job.id])) == [job.id]
        await pause(services)
        light = await database.write(lambda c: upkeep.lighten(c, job.id, age_seconds=60), lane=Lane.GATED)
        assert not light, "not while paused"
        await resume(services)
        assert await services.upkeep.remove() == 1
        for table in (job_events, artifacts):
            left = select(func.count()).select_from(table)
            assert await database.read(lambda c, left=left: c.execute(left).scalar_one()) == 0


async def test_without_a_setting_everything_is_kept(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        await complete(services, await claimed(services))
        await sql(database, "UPDATE agent_jobs SET finished_at = '2001-01-01T00:00:00.000000Z'")
        assert await services.upkeep.remove() == 0


async def test_the_age_of_the_oldest_job_that_waits_is_told_whatever_its_lane_and_priority(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        made = [
            await enqueue(services, type=f"t{number % 2}", priority=priority)
            for number, priority in enumerate((0, 5, -5, 5, 0, -5))
        ]
        # Each of these is older than the one before it.
        for hours, job in enumerate((made[2], made[1], made[4], made[5]), 1):
            aged = update(jobs).where(jobs.c.id == job.id).values(created_at=Now(-3600.0 * hours))
            await database.write(lambda c, aged=aged: c.execute(aged))
            found = await database.read(backlog)
            assert found.queued == len(made)
            assert found.oldest_seconds is not None
            assert found.oldest_seconds // 3600 == hours
