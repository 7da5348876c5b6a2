"""Paused, a claim is answered from memory: at once, and whatever has become of the database."""

import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import pytest

from holdfast_core.db import Database
from holdfast_core.errors import NotPaused, PauseNotConfirmed, StoreUnavailable
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.store.pause import read_system
from support.core import claim, enqueue, pause, resume, until
from support.proxy import Proxy, proxy
from support.stores import core

pytestmark = pytest.mark.anyio

AT_ONCE = 0.2


@asynccontextmanager
async def out_of_reach(database: Database, way: Proxy | None) -> AsyncGenerator[None]:
    """In the block no read and no write gets through to the database."""
    if way is not None:
        await way.cut()
        yield
        await way.restore()
        return
    # SQLite's writer and all its readers are held up.
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


@pytest.mark.requirement("FR-005", "NFR-001", "SC-001")
async def test_paused_claims_are_answered_at_once_while_the_database_is_out_of_reach(
    database_url: str,
) -> None:
    async with AsyncExitStack() as stack:
        way = None
        if database_url.startswith("postgresql"):
            way = await stack.enter_async_context(proxy(database_url))
            database_url = way.url
        services, database = await stack.enter_async_context(core(database_url))
        job = await enqueue(services)
        await pause(services)
        async with out_of_reach(database, way):
            with pytest.raises((StoreUnavailable, TimeoutError)), anyio.fail_after(0.3):
                await database.read(read_system)
            took = [await answered_in(services, waitSeconds=wait) for wait in (0, 30) for _ in range(20)]
            assert sorted(took)[len(took) // 2] < 0.01, "an answer from memory takes no time"
            assert max(took) < AT_ONCE

        async def resumed() -> bool:
            with suppress(PauseNotConfirmed, NotPaused):  # a dead session may show once more
                await resume(services)
            return services.watch.known_version == 3

        async def got() -> Job | None:
            with suppress(StoreUnavailable):
                return (await claim(services)).job
            return None

        await until(resumed)
        back = await until(got)
        assert back is not None
        assert (back.id, back.attempt) == (job.id, 1)
