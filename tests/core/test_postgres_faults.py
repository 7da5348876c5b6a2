"""PostgreSQL goes away, in one way or another: calls say so at once, and everything goes on when it is back."""

import gc
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import PauseNotConfirmed, StoreUnavailable
from holdfast_core.schemas import ClaimAnswer
from holdfast_core.services import Services
from support.core import claim, claimed, enqueue, get, heartbeat, pause, resume, session, until
from support.proxy import proxy
from support.stores import core

pytestmark = pytest.mark.anyio


async def end_sessions(url: str, name: str = "holdfast%") -> int:
    """Kill the sessions of these applications on the database; how many there were."""
    async with session(url) as connection:
        ended: int = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE $1 AND pid <> pg_backend_pid()",
            name,
        )
        return ended


async def listening(url: str) -> int:
    async with session(url) as connection:
        found: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'holdfast-listen'"
        )
        return found


async def failures_until_it_works(call: Callable[[], Awaitable[Any]]) -> int:
    """How often the call said that the store is away, before it was answered."""
    for failures in range(5):
        try:
            await call()
        except (StoreUnavailable, PauseNotConfirmed):
            continue
        return failures
    raise AssertionError("it does not recover")


async def test_after_all_sessions_were_killed_each_kind_of_call_fails_once_at_worst(
    postgres_database_url: str,
) -> None:
    async with core(postgres_database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        calls: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: heartbeat(services, job),
            lambda: claim(services),
            lambda: pause(services),
            lambda: resume(services),
            lambda: enqueue(services),
        )
        for _round in range(2):
            assert await end_sessions(postgres_database_url) >= 4
            # A read is tried again by itself, since nothing can be done twice by it.
            assert await failures_until_it_works(lambda: get(services, job)) == 0
            for call in calls:
                assert await failures_until_it_works(call) <= 1
            assert [await failures_until_it_works(call) for call in calls] == [0] * len(calls)
        assert (await get(services, job)).attempt == 1


async def test_a_bus_whose_session_was_killed_listens_again_and_hears_what_others_announce(
    postgres_database_url: str,
) -> None:
    async with core(postgres_database_url) as (services, _), core(postgres_database_url) as (others, _):

        async def both_listen() -> bool:
            return await listening(postgres_database_url) == 2

        await until(both_listen)
        assert await end_sessions(postgres_database_url, "holdfast-listen") == 2
        await until(both_listen)
        answers: list[ClaimAnswer] = []

        async def wait() -> None:
            answers.append(await claim(services, waitSeconds=20))

        took = 0.0
        for _round in range(4):  # by the poll alone it would be a second each
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                while not len(services.waiters):
                    await anyio.sleep(0.005)
                await enqueue(others)
                begun = time.monotonic()
            took += time.monotonic() - begun
        assert all(answer.job for answer in answers)
        assert took < 2.5


async def test_a_server_that_is_gone_is_told_at_once_and_all_goes_on_when_it_is_back(
    postgres_database_url: str,
) -> None:
    async with proxy(postgres_database_url) as way, core(way.url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        await way.cut()
        for call in (
            heartbeat(services, job),
            claim(services),
            enqueue(services),
            get(services, job),
            status(services),
        ):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable) as caught:
                await call
            assert time.monotonic() - begun < 1
            assert caught.value.retry_after
            assert "sql" not in caught.value.detail.casefold()
        with pytest.raises(PauseNotConfirmed):
            await pause(services)
        ready = await services.health.ready()
        assert (ready.ok, ready.degraded) == (False, False)
        await way.restore()
        for call in (lambda: heartbeat(services, job), lambda: enqueue(services), lambda: pause(services)):
            assert await failures_until_it_works(call) <= 1
        ready = await services.health.ready()
        assert (ready.ok, ready.degraded) == (True, False)

        async def listens() -> bool:
            return await listening(postgres_database_url) == 1

        await until(listens)


async def status(services: Services) -> object:
    return await services.pause.status(LOCAL_OPERATOR)


async def test_paused_and_the_database_away_it_is_ready_but_degraded(postgres_database_url: str) -> None:
    async with proxy(postgres_database_url) as way, core(way.url) as (services, _):
        await pause(services)
        await way.cut()
        ready = await services.health.ready()
        assert (ready.ok, ready.degraded) == (True, True)
        assert (await claim(services)).system.workers_paused


def name_of(url: str) -> str:
    """The database's name, quoted."""
    return f'"{urlsplit(url).path[1:]}"'


async def test_a_database_that_takes_no_connections_is_a_store_that_is_away_and_no_bug(
    postgres_database_url: str,
) -> None:
    """As during a restore, or with the password changed: 503 and a probe that answers, not 500."""
    database = name_of(postgres_database_url)
    async with session(postgres_database_url, beside=True) as connection:
        async with core(postgres_database_url) as (services, _):
            job = await enqueue(services)
            ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            await connection.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false")
            await connection.execute(ending, database.strip('"'))
            # The first of a kind meets a session that was killed, the next one the refusal.
            calls: tuple[Callable[[], Awaitable[Any]], ...] = (
                lambda: get(services, job),
                lambda: enqueue(services),
                lambda: enqueue(services),
                lambda: claim(services),
                lambda: claim(services),
            )
            for call in calls:
                with pytest.raises(StoreUnavailable):
                    await call()
            assert not (await services.health.ready()).ok
        await connection.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true")


async def test_a_database_that_became_read_only_says_so_and_writes_nothing(
    postgres_database_url: str,
) -> None:
    """As after a failover to a standby, or when a provider's disk is full."""
    database = name_of(postgres_database_url)
    async with (
        core(postgres_database_url) as (services, _),
        session(postgres_database_url, beside=True) as connection,
    ):
        job = await enqueue(services)
        await connection.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        await end_sessions(postgres_database_url)
        refused: list[str] = []
        for _try in range(2):
            for call in (lambda: enqueue(services), lambda: claim(services)):
                with pytest.raises(StoreUnavailable) as caught:
                    await call()
                refused.append(caught.value.detail)
        assert all("read-only" in detail for detail in refused[2:])
        assert (await get(services, job)).status == "queued"
        await connection.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        await end_sessions(postgres_database_url)
        assert await failures_until_it_works(lambda: enqueue(services)) <= 1
        assert await failures_until_it_works(lambda: pause(services)) <= 1


async def test_readiness_is_looked_at_for_a_few_seconds_at_most(postgres_database_url: str) -> None:
    """A load balancer's probe must not hang with the database: here a lock holds its look up."""
    async with core(postgres_database_url) as (services, _), session(postgres_database_url) as connection:
        await connection.execute("BEGIN; LOCK TABLE system_worker_pause_state IN ACCESS EXCLUSIVE MODE")
        async with anyio.create_task_group() as tasks:

            async def let_go() -> None:
                await anyio.sleep(5)
                await connection.execute("ROLLBACK")

            tasks.start_soon(let_go)
            begun = time.monotonic()
            ready = await services.health.ready()
            took = time.monotonic() - begun
            tasks.cancel_scope.cancel()
        assert took < 4
        assert not ready.ok


async def test_calls_that_are_cut_give_their_sessions_back(postgres_database_url: str) -> None:
    """Cut at any moment: while it waits for a session, in the midst of a statement, or as it ends."""
    chance = random.Random(11)
    async with core(postgres_database_url) as (services, _):
        job = await enqueue(services)
        cut = 0

        async def look(seconds: float) -> None:
            nonlocal cut
            with anyio.move_on_after(seconds) as scope:
                await status(services)
            cut += scope.cancelled_caught

        for _round in range(15):
            async with anyio.create_task_group() as tasks:
                for _number in range(8):
                    tasks.start_soon(look, chance.uniform(0, 0.01))
        assert cut > 20
        with anyio.fail_after(5):  # a session that was lost would be waited for until it is given up
            for _number in range(10):
                assert (await get(services, job)).attempt == 1
            async with anyio.create_task_group() as tasks:
                for _number in range(8):
                    tasks.start_soon(status, services)
            await enqueue(services)
        gc.collect()  # a session that was forgotten would warn now, and warnings are errors here
