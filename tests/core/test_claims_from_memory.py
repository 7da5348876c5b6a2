"""Paused, a claim is answered from memory: at once, and whatever has become of the database."""

import contextlib
import threading
import time
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from holdfast_core.db import Database
from holdfast_core.db.postgres import plain_url
from holdfast_core.errors import NotPaused, PauseNotConfirmed, StoreUnavailable
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.store.pause import read_system
from support.core import beside, claim, enqueue, pause, resume, until
from support.stores import core

pytestmark = pytest.mark.anyio

AT_ONCE = 0.2


@contextlib.asynccontextmanager
async def out_of_reach(url: str, database: Database) -> AsyncGenerator[None]:
    """In the block no read and no write gets through to the database."""
    if database.dialect == "postgresql":
        name = urlsplit(plain_url(url)).path[1:]
        connection = await asyncpg.connect(beside(url))
        try:
            await connection.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )
            yield
            await connection.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
        finally:
            await connection.close()
        return
    # Its writer and all its readers are held up.
    over = threading.Event()
    held_up = [threading.Event() for _ in range(5)]

    def hold_up(number: int) -> None:
        held_up[number].set()
        over.wait(20)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.write, lambda _: hold_up(0))
        for number in range(1, 5):
            tasks.start_soon(database.read, lambda _, number=number: hold_up(number))
        try:

            async def all_held_up() -> bool:
                return all(one.is_set() for one in held_up)

            await until(all_held_up)
            yield
        finally:
            over.set()


async def answered_in(services: Services, **body: object) -> float:
    begun = time.monotonic()
    answer = await claim(services, **body)
    took = time.monotonic() - begun
    assert answer.job is None
    assert answer.system.workers_paused
    assert answer.system.reason == "a test"
    return took


@pytest.mark.requirement("FR-005")
async def test_paused_claims_are_answered_at_once_while_the_database_is_out_of_reach(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        job = await enqueue(services)
        await pause(services)
        async with out_of_reach(database_url, database):
            with pytest.raises(Exception):  # noqa: B017, PT011 (whatever it is, the database is not reached)
                with anyio.fail_after(0.3):
                    await database.read(read_system)
            took = [await answered_in(services, waitSeconds=wait) for wait in (0, 30) for _ in range(20)]
            assert sorted(took)[len(took) // 2] < 0.01, "an answer from memory takes no time"
            assert max(took) < AT_ONCE
        # Back in reach, a dead session may show once more.

        async def resumed() -> bool:
            with contextlib.suppress(StoreUnavailable, PauseNotConfirmed, NotPaused):
                await resume(services)
            return services.watch.known_version == 3

        async def got() -> Job | None:
            with contextlib.suppress(StoreUnavailable):
                return (await claim(services)).job
            return None

        await until(resumed)
        back = await until(got)
        assert back is not None
        assert (back.id, back.attempt) == (job.id, 1)
