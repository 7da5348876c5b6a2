"""Two who want different things of one job at once: one consistent winner, and the other is told."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from holdfast_core.db import Database
from holdfast_core.db.locks import FileLock
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from support.core import (
    cancel,
    claimed,
    complete,
    enqueue,
    expire,
    fail,
    get,
    heartbeat,
    release,
    requeue,
    session,
    until,
)
from support.stores import core

pytestmark = pytest.mark.anyio

Verb = Callable[[Services, Job], Awaitable[Job]]


async def fail_retryable(services: Services, job: Job) -> Job:
    return await fail(services, job, retryable=True)


@contextlib.asynccontextmanager
async def row_held(url: str, database: Database, job: Job) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Nobody can write the job's row in the block; yields how many wait for it."""
    if database.dialect == "sqlite":
        lock = FileLock(load_settings(database_url=url).sqlite_path.with_suffix(".db.lock"))
        await run_sync(lock.acquire)
        asked = 0

        async def in_the_row() -> int:
            nonlocal asked
            for _ in range(4):  # to ask, to be called up, to be sent, and to stand in the writer's line
                await anyio.lowlevel.checkpoint()
            asked += 1
            return asked

        try:
            yield in_the_row
        finally:
            lock.release()
            lock.close()
        return
    async with session(url) as connection, session(url) as watching:

        async def waiting() -> int:
            found: int = await watching.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND application_name = 'holdfast'"
            )
            return found

        await connection.execute("BEGIN")
        await connection.execute("SELECT 1 FROM agent_jobs WHERE id = $1 FOR UPDATE", job.id)
        yield waiting
        await connection.execute("ROLLBACK")


async def one_after_the_other(
    url: str, services: Services, database: Database, job: Job, first: Verb, second: Verb
) -> list[str]:
    """Both are under way before either has written; the first is the first to go on. What each was answered."""
    answers = ["", ""]

    async def ask(number: int, verb: Verb) -> None:
        try:
            answers[number] = str((await verb(services, job)).status)
        except HoldfastError as error:
            answers[number] = error.code

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, row_held(url, database, job) as waiting:
            for number, verb in enumerate((first, second)):
                tasks.start_soon(ask, number, verb)

                async def under_way(number: int = number) -> bool:
                    return await waiting() > number

                await until(under_way)
            assert answers == ["", ""]
    return answers


#: Whether the job is stale, who comes first, who comes second, what each is answered, how the job stands then.
PAIRS: list[tuple[bool, Any, Any, list[str], str]] = [
    (False, complete, cancel, ["succeeded", "job_state_conflict"], "succeeded"),
    (False, cancel, complete, ["running", "succeeded"], "succeeded"),
    (False, complete, fail, ["succeeded", "job_state_conflict"], "succeeded"),
    (False, fail, complete, ["failed", "job_state_conflict"], "failed"),
    (False, cancel, fail, ["running", "cancelled"], "cancelled"),
    (False, cancel, release, ["running", "cancelled"], "cancelled"),
    (False, release, cancel, ["queued", "cancelled"], "cancelled"),
    (False, fail_retryable, cancel, ["queued", "cancelled"], "cancelled"),
    (True, complete, requeue, ["succeeded", "job_state_conflict"], "succeeded"),
    (True, requeue, complete, ["queued", "lease_lost"], "queued"),
    (True, heartbeat, requeue, ["running", "job_state_conflict"], "running"),
    (True, requeue, heartbeat, ["queued", "lease_lost"], "queued"),
    (True, complete, cancel, ["succeeded", "job_state_conflict"], "succeeded"),
    (True, cancel, complete, ["cancelled", "lease_lost"], "cancelled"),
    (True, cancel, requeue, ["cancelled", "job_state_conflict"], "cancelled"),
    (True, requeue, cancel, ["queued", "cancelled"], "cancelled"),
    (True, heartbeat, cancel, ["running", "running"], "running"),
    (True, requeue, requeue, ["queued", "job_state_conflict"], "queued"),
]


async def test_who_comes_first_wins_and_the_other_is_told(database_url: str) -> None:
    wrong: list[str] = []
    async with core(database_url, database_pool_size=12) as (services, database):
        for stale, first, second, wanted, end in PAIRS:
            await enqueue(services)
            job = await claimed(services)
            if stale:
                await expire(database, job)
            answers = await one_after_the_other(database_url, services, database, job, first, second)
            now = await get(services, job)
            attempt = 2 if first in (requeue, fail_retryable) else 1
            if (answers, now.status, now.attempt) != (wanted, end, attempt):
                wrong.append(
                    f"{first.__name__}, {second.__name__}: {answers}, {now.status}, attempt {now.attempt}"
                )
            if now.status == "queued":
                await cancel(services, job)
    assert wrong == []


async def test_of_many_who_end_one_claim_at_once_exactly_one_does(database_url: str) -> None:
    async with core(database_url) as (services, database), core(database_url) as (others, _):
        for _round in range(10):
            await enqueue(services)
            job = await claimed(services)
            await expire(database, job)
            answers: list[str] = []

            async def ask(process: Services, verb: Any, job: Job = job, answers: list[str] = answers) -> None:
                try:
                    answers.append(str((await verb(process, job)).status))
                except HoldfastError as error:
                    answers.append(error.code)

            async with anyio.create_task_group() as tasks:
                for process, verb in (
                    (services, complete),
                    (others, fail),
                    (others, requeue),
                    (services, release),
                ):
                    tasks.start_soon(ask, process, verb)
            won = [answer for answer in answers if answer in {"succeeded", "failed", "queued"}]
            now = await get(services, job)
            assert won == [now.status]
            assert set(answers) - set(won) <= {"job_state_conflict", "lease_lost"}
            if now.status == "queued":
                await cancel(services, job)
