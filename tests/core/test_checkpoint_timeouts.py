"""Jobs that reach no checkpoint under quiesce: operators are warned, once, and nothing else happens (EDGE-04)."""

from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database
from holdfast_core.schemas import Job, JobEvent, JobEventQuery
from holdfast_core.services import Services
from holdfast_core.services.checkpoints import _warn
from holdfast_core.store import checkpoints as store
from support.core import (
    claimed,
    complete,
    enqueue,
    expire,
    get,
    heartbeat,
    pause,
    release,
    resume,
    row,
    until,
)
from support.stores import core

pytestmark = pytest.mark.anyio

TIMEOUT = 1.0


async def warnings(services: Services, job: Job) -> list[JobEvent]:
    page = await services.logs.page(LOCAL_OPERATOR, str(job.id), JobEventQuery())
    return [event for event in page.items if event.level == "warn"]


async def let_pass(database: Database, seconds: float) -> None:
    """Wait until the quiesce has lasted for so long, by the database's own clock."""

    def age(connection: Connection) -> float:
        if connection.dialect.name == "postgresql":
            asked = "SELECT extract(epoch FROM clock_timestamp() - updated_at) FROM system_worker_pause_state"
        else:
            asked = (
                "SELECT (julianday(holdfast_now(0)) - julianday(updated_at)) * 86400"
                " FROM system_worker_pause_state"
            )
        return float(connection.execute(text(asked)).scalar_one())

    async def old_enough() -> bool:
        return await database.read(age) >= seconds + 0.05

    await until(old_enough)


async def running(services: Services, **body: Any) -> Job:
    await enqueue(services, **body)
    return await claimed(services)


@pytest.mark.requirement("EDGE-04")
@pytest.mark.requirement("NFR-003")
async def test_a_job_that_reaches_no_checkpoint_in_time_is_warned_of_once_and_goes_on_untouched(
    database_url: str,
) -> None:
    settings = {"checkpoint_timeout_seconds": TIMEOUT}
    async with (
        core(database_url, **settings) as (services, database),
        core(database_url, **settings) as (others, _),
    ):
        job = await running(services)
        before = await row(database, job)
        await pause(services, "quiesce")
        assert await services.checkpoints.inspect() == 0  # not yet
        await let_pass(database, TIMEOUT)
        warned = await services.checkpoints.inspect() + await others.checkpoints.inspect()
        warned += await services.checkpoints.inspect() + await others.checkpoints.inspect()
        (event,) = await warnings(services, job)
        assert "Worker w has reached no checkpoint within 1 s of quiesce (version 2)" in event.message
        assert event.worker_id is None
        # The processes look for themselves, too: by whichever it was said, it was counted there.
        counts = [one.counters.own().count("checkpoint_timeouts") for one in (services, others)]
        assert sum(counts) == 1
        assert warned <= 1
        assert await row(database, job) == before
        await complete(services, job)


async def test_each_process_looks_by_itself(database_url: str) -> None:
    async with core(database_url, checkpoint_timeout_seconds=TIMEOUT) as (services, _):
        job = await running(services)
        await pause(services, "quiesce")

        async def is_warned() -> bool:
            return bool(await warnings(services, job))

        await until(is_warned)


async def test_a_change_of_the_pause_and_a_new_claim_are_warned_of_anew(database_url: str) -> None:
    async with core(database_url, checkpoint_timeout_seconds=TIMEOUT) as (services, database):
        job = await running(services)
        await heartbeat(services, job, checkpoint="after tests")
        await pause(services, "quiesce", reason="one")
        await let_pass(database, TIMEOUT)
        await services.checkpoints.inspect()
        await pause(services, "quiesce", reason="two")
        await services.checkpoints.inspect()
        assert len(await warnings(services, job)) == 1
        await let_pass(database, TIMEOUT)
        await services.checkpoints.inspect()
        first, second = await warnings(services, job)
        assert "(version 2)" in first.message
        assert "no checkpoint after 'after tests'" in first.message
        assert "(version 3)" in second.message
        await resume(services)
        await release(services, job)
        again = await claimed(services)
        await pause(services, "quiesce")
        await let_pass(database, TIMEOUT)
        await services.checkpoints.inspect()
        assert again.id == job.id
        assert len(await warnings(services, job)) == 3


async def test_parked_and_stale_jobs_a_drain_and_a_running_system_are_not_warned_of(
    database_url: str,
) -> None:
    async with core(database_url, checkpoint_timeout_seconds=TIMEOUT) as (services, database):
        parked, stale, at_work = [await running(services) for _ in range(3)]
        await pause(services, "drain")
        await let_pass(database, TIMEOUT)
        assert await services.checkpoints.inspect() == 0
        await pause(services, "quiesce")
        await heartbeat(services, parked, phase="parked")
        await expire(database, stale)
        await let_pass(database, TIMEOUT)
        await services.checkpoints.inspect()
        assert len(await warnings(services, at_work)) == 1
        for one in (parked, stale):
            said = [event.message for event in await warnings(services, one)]
            assert not any("checkpoint" in message for message in said), said
        await resume(services)
        assert await services.checkpoints.inspect() == 0
        assert (await get(services, at_work)).phase == "running"


async def test_a_job_that_parks_between_the_look_and_the_warning_is_not_warned_of(database_url: str) -> None:
    async with core(database_url, checkpoint_timeout_seconds=600) as (services, database):
        parks, ends = [await running(services) for _ in range(2)]
        await pause(services, "quiesce")
        await let_pass(database, 0.1)
        seen = await database.read(lambda c: store.overdue_jobs(c, 0.1))
        assert [job.id for job in seen] == [parks.id, ends.id]
        await heartbeat(services, parks, phase="parked")
        await complete(services, ends)
        for job in seen:
            assert not await database.write(partial(_warn, job=job, seconds=0.1))
        assert await warnings(services, parks) == []


async def test_more_overdue_jobs_than_one_look_finds_are_found_by_the_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_OVERDUE", store._OVERDUE.limit(2))
    async with core(database_url, checkpoint_timeout_seconds=TIMEOUT) as (services, database):
        jobs = [await running(services) for _ in range(5)]
        await pause(services, "quiesce")
        await let_pass(database, TIMEOUT)
        for _look in range(3):
            await services.checkpoints.inspect()
        assert [len(await warnings(services, job)) for job in jobs] == [1] * 5
