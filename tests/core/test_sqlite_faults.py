"""The SQLite file cannot be written, in one way or another: calls say so in time, write nothing, recover."""

import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, select

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database, Lane
from holdfast_core.db.tables import jobs
from holdfast_core.errors import HoldfastError, PauseNotConfirmed, StoreUnavailable
from holdfast_core.schemas import JobQuery, parse_query
from support.core import claim, claimed, complete, enqueue, get, heartbeat, pause, resume
from support.stores import core

pytestmark = pytest.mark.anyio


@contextmanager
def locked(url: str) -> Generator[None]:
    """Another program, one that does not know our lock file, holds the database's own lock."""
    foreign = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    foreign.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        foreign.close()


def everything(connection: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(jobs).order_by(jobs.c.id))]


async def writer(database: Database, lane: Lane = Lane.PLAIN) -> sqlite3.Connection:
    """The connection that all writes go through, or all toggles."""
    found: Any = await database.write(lambda c: c.connection.driver_connection, lane=lane)
    assert isinstance(found, sqlite3.Connection)
    return found


async def test_a_file_locked_by_another_program_is_told_within_bounds_and_nothing_is_written(
    sqlite_url: str,
) -> None:
    async with core(sqlite_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await enqueue(services)
        before = await database.read(everything)
        answers: dict[str, tuple[HoldfastError, float]] = {}

        async def ask(name: str, call: Any) -> None:
            begun = time.monotonic()
            with pytest.raises(HoldfastError) as caught:
                await call
            answers[name] = (caught.value, time.monotonic() - begun)

        with locked(sqlite_url):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, "heartbeat", heartbeat(services, job))
                tasks.start_soon(ask, "claim", claim(services, "w-2"))
                tasks.start_soon(ask, "enqueue", enqueue(services))
                tasks.start_soon(ask, "complete", complete(services, job))
                tasks.start_soon(ask, "pause", pause(services))
            # Readers go on.
            assert await database.read(everything) == before
            assert (await get(services, job)).status == "running"
            assert (await services.jobs.list(LOCAL_OPERATOR, parse_query(JobQuery, []))).items
            assert (await services.health.ready()).ok
        assert isinstance(answers["pause"][0], PauseNotConfirmed)
        assert answers["pause"][1] < 5
        for name in ("heartbeat", "claim", "enqueue", "complete"):
            assert isinstance(answers[name][0], StoreUnavailable)
            assert answers[name][1] < 8
        own = str(os.getpid())
        assert not [name for name, (error, _) in answers.items() if own in error.detail], (
            "a message tells the operator to end this very process, which only waits as well"
        )
        assert await database.read(everything) == before, "what was refused was written later"
        assert (await heartbeat(services, job)).attempt == 1
        assert (await claim(services, "w-2")).job is not None
        assert (await pause(services)).system.version == 2


async def test_a_lock_that_goes_away_in_time_only_delays(sqlite_url: str) -> None:
    async with core(sqlite_url) as (services, _):
        await enqueue(services)
        got: list[Any] = []

        async def take() -> None:
            got.append((await claim(services)).job)

        async with anyio.create_task_group() as tasks:
            with locked(sqlite_url):
                tasks.start_soon(take)
                await anyio.wait_all_tasks_blocked()
                assert got == []
        assert got[0] is not None


async def test_a_database_that_became_read_only_says_so_and_recovers(sqlite_url: str) -> None:
    async with core(sqlite_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        before = await database.read(everything)
        connections = [await writer(database, lane) for lane in (Lane.PLAIN, Lane.CONTROL)]
        for connection in connections:
            connection.execute("PRAGMA query_only=ON")
        for call in (
            lambda: heartbeat(services, job),
            lambda: claim(services),
            lambda: enqueue(services),
            lambda: complete(services, job),
        ):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await call()
        with pytest.raises(PauseNotConfirmed, match="read-only"):
            await pause(services)
        for connection in connections:
            connection.execute("PRAGMA query_only=OFF")
        assert await database.read(everything) == before
        await complete(services, job)
        assert (await pause(services)).system.version == 2


async def test_a_full_disk_is_told_and_a_pause_and_a_job_are_written_whole_or_not_at_all(
    sqlite_url: str,
) -> None:
    async with core(sqlite_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        connection = await writer(database)
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count={pages}")
        before = await database.read(everything)
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await enqueue(services, payload={"big": "x" * 100_000})
        assert await database.read(everything) == before
        connection.execute("PRAGMA max_page_count=1000000")
        await enqueue(services, payload={"big": "x" * 100_000})
        await complete(services, job)
        await pause(services)
        await resume(services)


async def test_the_writer_survives_a_lock_file_that_cannot_be_written(sqlite_url: str) -> None:
    """A full disk, on a file system that copies on write: to note the process id in the lock file fails."""
    async with core(sqlite_url) as (services, _):
        lock = Path(f"{sqlite_url.removeprefix('sqlite:///')}.lock").stat().st_ino
        descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
        ours = [number for number in descriptors if _inode(number) == lock]
        kept = [os.dup(one) for one in ours]
        full = os.open("/dev/full", os.O_RDWR)
        try:
            for one in ours:
                os.dup2(full, one)
            await enqueue(services)  # the lock holds all the same; only the name of its holder is missing
            await pause(services)
        finally:
            for one, before in zip(ours, kept, strict=True):
                os.dup2(before, one)
                os.close(before)
            os.close(full)
        await resume(services)
        await enqueue(services)
        assert (await claim(services)).job is not None


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None
