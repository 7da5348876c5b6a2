"""A claim that is cancelled just as it takes a job gives it back: nothing is lost, no attempt is used."""

import contextlib
from collections.abc import AsyncGenerator

import anyio
import asyncpg
import pytest
from anyio.to_thread import run_sync

from holdfast_core.db import Database
from holdfast_core.db.locks import FileLock
from holdfast_core.ids import uuid7
from holdfast_core.schemas import EnqueueRequest, Job, parse_request
from holdfast_core.settings import load_settings
from holdfast_core.states import JobStatus
from holdfast_core.store.jobs import New, insert_jobs
from holdfast_core.store.metrics import backlog
from support.core import claim, claimed, column, enqueue, get, session, until
from support.stores import core

pytestmark = pytest.mark.anyio


class Door:
    """The way of a claim's write, held shut from outside until it is opened."""

    def __init__(
        self, connection: "asyncpg.Connection[asyncpg.Record] | None", lock: FileLock | None
    ) -> None:
        self._connection = connection
        self._lock = lock

    async def somebody_waits(self) -> bool:
        if self._connection is None:
            return True
        return bool(
            await self._connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE relation = 'pause_gate'::regclass AND NOT granted"
            )
        )

    async def open(self) -> None:
        if self._connection is not None:
            await self._connection.execute("COMMIT")
        if self._lock is not None:
            self._lock.release()


@contextlib.asynccontextmanager
async def door_held_shut(url: str, database: Database) -> AsyncGenerator[Door]:
    if database.dialect == "sqlite":
        lock = FileLock(load_settings(database_url=url).sqlite_path.with_suffix(".db.lock"))
        await run_sync(lock.acquire)
        try:
            yield Door(None, lock)
        finally:
            lock.close()
    else:
        async with session(url) as connection:
            await connection.execute("BEGIN; LOCK TABLE pause_gate IN EXCLUSIVE MODE")
            yield Door(connection, None)


async def test_a_claim_cancelled_as_it_takes_a_job_gives_it_back_and_uses_no_attempt(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        first, second = await enqueue(services), await enqueue(services)
        async with door_held_shut(database_url, database) as door, anyio.create_task_group() as tasks:
            answered = False

            async def cancelled_claim(scope: anyio.CancelScope) -> None:
                nonlocal answered
                with scope:
                    await claim(services)
                    answered = True

            scope = anyio.CancelScope()
            tasks.start_soon(cancelled_claim, scope)
            await until(door.somebody_waits)
            for _ in range(5):  # on SQLite: until the claim's turn is in the row
                await anyio.lowlevel.checkpoint()
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            await door.open()
        assert scope.cancelled_caught
        assert not answered
        # It had been taken: the claim has a number, and was ended by its holder.
        assert await column(database, first, "claim_number") is not None
        assert await column(database, first, "claim_outcome") == "release"
        back = await get(services, first)
        assert (back.status, back.attempt, back.claimed_by, back.next_attempt_at) == (
            JobStatus.QUEUED,
            1,
            None,
            None,
        )
        assert [(await claimed(services)).id for _ in range(2)] == [first.id, second.id]


async def test_the_job_that_a_cancelled_claim_gives_back_goes_to_the_next_who_waits(
    database_url: str,
) -> None:
    got: list[Job | None] = []
    async with core(database_url) as (services, database):

        async def wait(worker: str, scope: anyio.CancelScope) -> None:
            with scope:
                got.append((await claim(services, worker, waitSeconds=20)).job)

        async def so_many_wait(count: int) -> bool:
            return len(services.waiters) == count

        request, _ = parse_request(EnqueueRequest, {"type": "t"})
        leaving = anyio.CancelScope()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, "staying", anyio.CancelScope())
                await until(lambda: so_many_wait(1))
                async with door_held_shut(database_url, database) as door:
                    # Unannounced; on SQLite it is written as soon as the door opens, before the claim.
                    tasks.start_soon(
                        database.write, lambda c: insert_jobs(c, [New(uuid7(), request, None, None, None)])
                    )
                    await until(lambda: anything_to_take(database))
                    tasks.start_soon(wait, "leaving", leaving)
                    await until(door.somebody_waits)
                    await until(lambda: so_many_wait(2))
                    leaving.cancel()
                    await anyio.lowlevel.checkpoint()
                    await door.open()
        assert leaving.cancelled_caught
        assert [(job.claimed_by, job.attempt) for job in got if job] == [("staying", 1)]


async def anything_to_take(database: Database) -> bool:
    if database.dialect == "sqlite":
        return True
    return (await database.read(backlog)).queued == 1
