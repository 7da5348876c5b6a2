"""Presence is kept in memory and written behind: in batches, seldom, and never in the way of an answer."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, func, literal_column, select

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database
from holdfast_core.db.tables import workers
from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import PresenceRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.services.presence import BATCH
from support.core import MovableClock, claim, pause, until
from support.proxy import proxy
from support.stores import core

pytestmark = pytest.mark.anyio


async def present(services: Services, worker: str = "w", **body: Any) -> None:
    request, _ = parse_request(PresenceRequest, {"workerId": worker, "autoEnabled": True, **body})
    await services.workers.presence(LOCAL_OPERATOR, request)


async def known(database: Database) -> int:
    return await database.read(lambda c: c.execute(select(func.count()).select_from(workers)).scalar_one())


async def test_a_worker_shows_in_another_process_within_moments_of_its_first_word(database_url: str) -> None:
    async with core(database_url) as (services, _), core(database_url) as (others, _):
        await claim(services, "w-1")

        async def shown() -> bool:
            return [worker.id for worker in (await others.workers.list(LOCAL_OPERATOR)).items] == ["w-1"]

        assert await until(shown, 5)


async def test_thousands_of_workers_are_written_in_a_few_batches(database_url: str) -> None:
    count = 2 * BATCH + 500
    async with core(database_url) as (services, database):
        for number in range(count):
            services.presence.seen(f"w-{number}", "rest", observed_version=1)
        await services.presence.flush()
        assert await known(database) == count
        if database.dialect == "postgresql":  # how many transactions wrote these rows
            written = select(literal_column("count(DISTINCT xmin::text)")).select_from(workers)
            assert await database.read(lambda c: c.execute(written).scalar_one()) == 3


async def test_a_worker_that_only_goes_on_being_there_is_written_every_5_seconds(database_url: str) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, database):
        system: list[Any] = [workers.c.last_seen_at]
        if database.dialect == "postgresql":
            system.append(literal_column("xmin::text"))
        row: Callable[[Connection], Any] = lambda c: tuple(c.execute(select(*system)).one())  # noqa: E731
        await present(services, observedVersion=1)
        await services.presence.flush()
        first = await database.read(row)
        clock.ahead += 4
        await present(services, observedVersion=1)
        await services.presence.flush()
        assert await database.read(row) == first
        clock.ahead += 2
        await services.presence.flush()
        second = await database.read(row)
        assert second != first
        await services.presence.flush()
        assert await database.read(row) == second, "not heard of since: nothing to write"
        await present(services, observedVersion=1, autoEnabled=False)
        await services.presence.flush()
        assert await database.read(row) != second, "a change is written at once"


async def test_on_postgresql_presence_that_could_not_be_written_is_written_when_the_store_is_back(
    postgres_database_url: str,
) -> None:
    async with proxy(postgres_database_url) as way, core(way.url) as (services, database):
        await pause(services)
        await way.cut()
        await claim(services, "w-1")  # answered from memory, though its presence cannot be written
        await present(services, "w-2")
        with pytest.raises(StoreUnavailable):
            await services.presence.flush()
        await way.restore()

        async def written() -> bool:
            try:
                await services.presence.flush()
                return await known(database) == 2
            except StoreUnavailable:
                return False

        assert await until(written)


async def test_on_sqlite_presence_that_could_not_be_written_is_written_when_the_store_is_back(
    sqlite_url: str,
) -> None:
    async with core(sqlite_url) as (services, database):
        await pause(services)
        writer: Any = await database.write(lambda c: c.connection.driver_connection)
        writer.execute("PRAGMA query_only=ON")
        await claim(services, "w-1")
        await present(services, "w-2")
        with pytest.raises(StoreUnavailable, match="read-only"):
            await services.presence.flush()
        assert await known(database) == 0
        writer.execute("PRAGMA query_only=OFF")
        await services.presence.flush()
        assert await known(database) == 2
