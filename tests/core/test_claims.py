"""Which job a claim gets: the order, what is eligible, and what the answer shows."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from holdfast_core.db.tables import jobs
from holdfast_core.db.types import Now
from holdfast_core.states import JobPhase, JobStatus
from support.core import MovableClock, claim, claimed, enqueue, expire, fail, heartbeat, release, requeue
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_jobs_come_by_priority_then_age_then_id(database_url: str) -> None:
    chance = random.Random(7)
    async with core(database_url) as (services, database):
        made = [await enqueue(services, priority=chance.randint(-2, 2)) for _ in range(40)]
        # Few moments for many jobs, given out of the order of the ids, so that each of the three decides.
        moments = {job.id: made[0].created_at + timedelta(seconds=chance.randint(0, 3)) for job in made}
        for job in made:
            await database.write(
                lambda c, job=job: c.execute(
                    update(jobs).where(jobs.c.id == job.id).values(created_at=moments[job.id])
                )
            )
        wanted = sorted(made, key=lambda job: (-job.priority, moments[job.id], job.id))
        assert len({(job.priority, moments[job.id]) for job in made}) < len(made), (
            "no tie for the id to decide"
        )
        assert wanted != sorted(made, key=lambda job: job.id)
        got = [await claimed(services) for _ in made]
        assert [job.id for job in got] == [job.id for job in wanted]
        assert (await claim(services)).job is None


async def test_a_job_that_came_back_keeps_its_place(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=0) as (services, _):
        first, second = await enqueue(services), await enqueue(services)
        released = await claimed(services)
        await release(services, released)
        failed = await claimed(services)
        assert (released.id, failed.id) == (first.id, first.id)
        await fail(services, failed, retryable=True)
        assert [(await claimed(services)).id for _ in range(2)] == [first.id, second.id]


async def test_only_allowed_types_are_handed_out(database_url: str) -> None:
    async with core(database_url) as (services, _):
        build, test, ship = [await enqueue(services, type=name) for name in ("build", "test", "ship:eu/1@x")]
        assert (await claim(services, allowedTypes=["deploy", "buil", "build2", "BUILD"])).job is None
        assert (await claim(services, allowedTypes=[])).job is None
        assert (await claimed(services, allowedTypes=["ship:eu/1@x", "test", "test"])).id == test.id
        assert (await claimed(services, allowedTypes=["ship:eu/1@x", "test"])).id == ship.id
        assert (await claimed(services, allowedTypes=None)).id == build.id


async def test_a_job_goes_only_to_a_worker_with_every_capability_that_it_requires(database_url: str) -> None:
    async with core(database_url) as (services, _):
        both = await enqueue(services, requiredCapabilities=["gpu", "eu", "gpu"], priority=2)
        gpu = await enqueue(services, requiredCapabilities=["gpu"], priority=1)
        plain = await enqueue(services)
        assert both.required_capabilities == ["eu", "gpu"]
        assert (await claimed(services, workerCapabilities=["cpu", "GPU", "gp", "gpu2"])).id == plain.id
        assert (await claim(services, workerCapabilities=[])).job is None
        assert (await claim(services, workerCapabilities=["eu"])).job is None
        assert (await claimed(services, workerCapabilities=["gpu", "ssd"])).id == gpu.id
        assert (await claimed(services, workerCapabilities=["ssd", "gpu", "eu"])).id == both.id


async def test_a_job_is_not_handed_out_before_its_time_and_keeps_its_place_when_it_comes(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        later = await enqueue(services, runAt=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
        past = await enqueue(services, runAt="2001-02-03T04:05:06.789012+05:30", priority=-1)
        assert past.next_attempt_at == datetime(2001, 2, 2, 22, 35, 6, 789012, UTC)
        assert (await claimed(services)).id == past.id
        assert (await claim(services)).job is None
        younger = await enqueue(services)
        await database.write(lambda c: c.execute(update(jobs).values(next_attempt_at=Now(-0.001))))
        await services.upkeep.promote()
        first = await claimed(services)
        assert (first.id, first.next_attempt_at) == (later.id, None)
        assert (await claimed(services)).id == younger.id


async def test_on_sqlite_a_job_becomes_due_at_its_very_time(sqlite_url: str) -> None:
    clock = MovableClock()
    async with core(sqlite_url, clock=clock) as (services, _):
        await enqueue(services, runAt=(clock.now() + timedelta(seconds=600)).isoformat())
        clock.ahead = 590
        assert (await claim(services)).job is None
        clock.ahead = 601
        await services.upkeep.promote()
        await claimed(services)


@pytest.mark.requirement("FR-006")
async def test_the_answer_shows_the_lease_and_the_system_and_null_where_there_is_nothing(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        nothing = await claim(services)
        assert nothing.job is None
        assert (nothing.system.workers_paused, nothing.system.version) == (False, 1)
        made = await enqueue(services, payload={"n": [1, {"x": None}]}, affinityKey="a/b", maxAttempts=7)
        answer = await claim(services, "w-1", leaseSeconds=90)
        job = answer.job
        assert job is not None
        assert (answer.system.workers_paused, answer.system.version) == (False, 1)
        assert (job.id, job.status, job.claimed_by, job.phase) == (
            made.id,
            JobStatus.RUNNING,
            "w-1",
            JobPhase.RUNNING,
        )
        assert (job.payload, job.affinity_key, job.attempt, job.max_attempts) == (
            {"n": [1, {"x": None}]},
            "a/b",
            1,
            7,
        )
        assert job.started_at is not None
        assert job.lease_expires_at is not None
        assert abs((job.lease_expires_at - job.started_at).total_seconds() - 90) < 1
        assert job.created_at == made.created_at


async def test_a_new_claim_begins_with_a_clean_phase_checkpoint_and_progress(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await heartbeat(services, job, phase="parked", checkpoint="c", progress={"p": 1})
        await expire(database, job)
        assert (await requeue(services, job)).phase is None
        again = await claimed(services)
        assert (again.phase, again.checkpoint, again.progress) == (JobPhase.RUNNING, None, None)
        assert again.lease_token != job.lease_token
