"""Logs of jobs: who may add, without gaps, and what the server says once."""

from typing import Any

import anyio
import pytest
from sqlalchemy import func, select

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db.tables import job_events
from holdfast_core.errors import JobNotFound, JobNotOwned, JobStateConflict, LeaseLost
from holdfast_core.schemas import Job, JobEvent, JobEventQuery, LogRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.store import logs as store
from support.core import (
    cancel,
    claimed,
    complete,
    enqueue,
    expire,
    fail,
    get,
    pause,
    release,
    requeue,
    resume,
    row,
    until,
)
from support.stores import core

pytestmark = pytest.mark.anyio


async def write(services: Services, job: Job, message: str = "a line", **body: Any) -> JobEvent:
    said = {"workerId": job.claimed_by, "leaseToken": job.lease_token, "message": message, **body}
    request, _ = parse_request(LogRequest, {name: value for name, value in said.items() if value is not None})
    return await services.logs.append(LOCAL_OPERATOR, str(job.id), request)


async def read(services: Services, job: Job, after: int = 0, limit: int = 200) -> list[JobEvent]:
    query = JobEventQuery(after=after, limit=limit)
    return (await services.logs.page(LOCAL_OPERATOR, str(job.id), query)).items


async def test_the_holder_adds_to_the_log_and_it_comes_back_as_it_was(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        before = await row(database, job)
        first = await write(services, job, "one\n\x1b[31m", payload={"n": [1, {"x": None}]}, level="warn")
        second = await write(services, job, "two", leaseToken=None)
        assert (first.sequence, second.sequence) == (1, 2)
        assert await read(services, job) == [first, second]
        assert (first.level, first.message, first.payload) == (
            "warn",
            "one\n\x1b[31m",
            {"n": [1, {"x": None}]},
        )
        assert first.created_at <= second.created_at
        assert await row(database, job) == before, "the job itself is not touched"
        assert await read(services, job, after=1, limit=1) == [second]


async def test_a_log_has_no_gaps_however_many_write_and_whoever_is_refused(database_url: str) -> None:
    async with core(database_url) as (one, _), core(database_url) as (two, _):
        await enqueue(one)
        job = await claimed(one)

        async def add(services: Services) -> None:
            for _number in range(8):
                await write(services, job)
                with pytest.raises(JobNotOwned):
                    await write(services, job, workerId="somebody-else", leaseToken=None)

        async with anyio.create_task_group() as tasks:
            for services in (one, two, one, two):
                tasks.start_soon(add, services)
        assert [event.sequence for event in await read(two, job)] == list(range(1, 33))


async def test_output_that_trails_behind_an_outcome_is_taken(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for end in (complete, fail, release):
            await enqueue(services, priority=1)
            job = await claimed(services)
            await end(services, job)
            assert (await write(services, job)).sequence == 1
            await write(services, job, leaseToken=None)
            if (await get(services, job)).status == "queued":
                again = await claimed(services, "w-2")
                assert again.id == job.id
                with pytest.raises(JobNotOwned):
                    await write(services, job)
                await complete(services, again)


async def test_who_has_lost_the_job_or_never_had_it_adds_nothing(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        await write(services, job, "stale, but nobody has taken it")
        await requeue(services, job)
        with pytest.raises(LeaseLost):
            await write(services, job)
        again = await claimed(services)
        with pytest.raises(LeaseLost):
            await write(services, job)
        await expire(database, again)
        await cancel(services, again)
        with pytest.raises(LeaseLost):
            await write(services, again)
        waiting = await enqueue(services)
        with pytest.raises(JobStateConflict, match="never claimed"):
            await write(services, waiting.model_copy(update={"claimed_by": "w"}))
        missing = waiting.model_copy(update={"id": LOCAL_OPERATOR.user_id, "claimed_by": "w"})
        with pytest.raises(JobNotFound):
            await write(services, missing)
        with pytest.raises(JobNotFound):
            await read(services, missing)
        total = select(func.count()).select_from(job_events)
        assert await database.read(lambda c: c.execute(total).scalar_one()) == 1


async def test_a_full_log_takes_no_more_and_says_where_the_rest_may_go(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_EVENTS", 3)
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        for _number in range(3):
            await write(services, job)
        with pytest.raises(JobStateConflict, match="artifact"):
            await write(services, job)
        assert len(await read(services, job)) == 3


async def test_a_lease_that_runs_out_while_paused_is_written_into_the_log_once_by_one_of_many(
    database_url: str,
) -> None:
    async with core(database_url) as (one, database), core(database_url) as (two, _):
        await enqueue(one)
        job = await claimed(one)
        await pause(one)
        before = None
        await expire(database, job)
        before = await row(database, job)

        async def told() -> bool:
            await one.watch.inspect()
            await two.watch.inspect()
            return bool(await read(one, job))

        await until(told)
        await told()
        (event,) = await read(two, job)
        assert (event.level, event.worker_id, event.sequence) == ("warn", None, 1)
        assert "ran out while the system is paused" in event.message
        assert await row(database, job) == before, "while paused the server changes no job"
        # A holder that comes back goes on behind it.
        assert (await write(one, job)).sequence == 2
        await resume(one)


async def test_following_a_log_ends_with_the_job_and_says_so_of_one_that_was_over(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        for number in range(450):
            await write(services, job, f"line {number}")
        done = await complete(services, job)
        got: list[Any] = [one async for one in services.logs.follow(LOCAL_OPERATOR, str(job.id), after=10)]
        assert got[-1] == done
        events = [event for some in got[:-1] for event in some]
        assert [event.sequence for event in events] == list(range(11, 451))
