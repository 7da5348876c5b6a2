"""SQLite: turns that wait together share one transaction, and each is as if it had been alone."""

import sqlite3
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, text

from holdfast_core.clock import SystemClock
from holdfast_core.db import Lane
from holdfast_core.db import sqlite as module
from holdfast_core.db.sqlite import SqliteDatabase
from holdfast_core.settings import load_settings
from support.core import claim, enqueue, pause
from support.stores import core

pytestmark = pytest.mark.anyio


class Turns:
    """Turns that are all in the row before the first of them may end."""

    def __init__(self, database: Any, tasks: anyio.abc.TaskGroup) -> None:
        assert isinstance(database, SqliteDatabase)
        self.came: dict[str, Any] = {}
        self.ran: list[str] = []
        self._database = database
        self._tasks = tasks
        self._open = threading.Event()
        self._begun = threading.Event()
        tasks.start_soon(self._run, "first", self._wait, Lane.PLAIN)

    def _wait(self, _: Connection) -> None:
        self._begun.set()
        assert self._open.wait(5)

    async def come(self, name: str, work: Callable[[Connection], Any], lane: Lane = Lane.SINGLE) -> None:
        with anyio.fail_after(5):
            while not self._begun.is_set():
                await anyio.sleep(0.001)

        def noted(connection: Connection) -> Any:
            self.ran.append(name)
            return work(connection)

        def waiting() -> int:
            return self._database._writer.turns.qsize() + self._database._toggles

        before = waiting()
        self._tasks.start_soon(self._run, name, noted, lane)
        with anyio.fail_after(5):
            while waiting() == before:
                await anyio.lowlevel.checkpoint()

    async def _run(self, name: str, work: Callable[[Connection], Any], lane: Lane) -> None:
        try:
            self.came[name] = await self._database.write(work, lane=lane)
        except Exception as error:
            self.came[name] = error

    def let_go(self) -> None:
        self._open.set()


def note(name: str) -> Callable[[Connection], str]:
    def noting(connection: Connection) -> str:
        connection.execute(
            text("INSERT INTO users (id, name, created_at) VALUES (:id, :id, holdfast_now(0))"), {"id": name}
        )
        return name

    return noting


async def names(database: SqliteDatabase) -> list[str]:
    return await database.read(
        lambda c: [
            row.name
            for row in c.execute(text("SELECT name FROM users WHERE length(name) < 8 ORDER BY rowid"))
        ]
    )


@pytest.fixture(autouse=True)
def without_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 30.0)


async def transactions(database: SqliteDatabase) -> list[str]:
    """The transactions of both writers, as they begin and end from now on."""
    seen: list[str] = []
    for lane in (Lane.PLAIN, Lane.CONTROL):
        driver: Any = await database.write(lambda c: c.connection.driver_connection, lane=lane)
        driver.set_trace_callback(
            lambda sql: seen.append(sql.split()[0]) if sql.startswith(("BEGIN", "COMMIT")) else None
        )
    return seen


@pytest.fixture
async def database(sqlite_url: str) -> AsyncGenerator[SqliteDatabase]:
    """A store that nobody else writes to."""
    opened = SqliteDatabase.open(load_settings(database_url=sqlite_url).sqlite_path, SystemClock())
    yield opened
    await opened.close()


async def test_turns_that_wait_share_a_transaction_in_their_order(database: SqliteDatabase) -> None:
    seen = await transactions(database)
    async with anyio.create_task_group() as tasks:
        turns = Turns(database, tasks)
        for name in ("a", "b", "c"):
            await turns.come(name, note(name))
        seen.clear()
        turns.let_go()
    assert turns.came == {"first": None, "a": "a", "b": "b", "c": "c"}
    assert turns.ran == ["a", "b", "c"]
    assert await names(database) == ["a", "b", "c"]
    assert seen[:1] == ["COMMIT"], "one for all four"


async def test_a_turn_that_fails_leaves_nothing_and_the_others_stand(database: SqliteDatabase) -> None:

    def fails_late(connection: Connection) -> None:
        note("gone")(connection)
        raise ValueError("bad")

    def fails_in_the_database(connection: Connection) -> None:
        note("lost")(connection)
        note("a")(connection)

    async with anyio.create_task_group() as tasks:
        turns = Turns(database, tasks)
        await turns.come("a", note("a"))
        await turns.come("bad", fails_late)
        await turns.come("twice", fails_in_the_database)
        await turns.come("b", note("b"))
        turns.let_go()
    assert isinstance(turns.came["bad"], ValueError)
    assert type(turns.came["twice"]).__name__ == "IntegrityError"
    assert (turns.came["a"], turns.came["b"]) == ("a", "b")
    assert await names(database) == ["a", "b"]


async def test_nobody_is_answered_where_the_shared_commit_fails(database: SqliteDatabase) -> None:

    def breaks_all(connection: Connection) -> None:
        # As SQLite itself does on a full disk.
        connection.exec_driver_sql("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    async with anyio.create_task_group() as tasks:
        turns = Turns(database, tasks)
        await turns.come("a", note("a"))
        await turns.come("full", breaks_all)
        await turns.come("b", note("b"))
        turns.let_go()
    assert not isinstance(turns.came["a"], str), "it has not been written"
    assert isinstance(turns.came["full"], Exception)
    assert turns.came["b"] == "b"
    assert await names(database) == ["b"]


async def test_a_pause_goes_ahead_of_the_turns_that_wait_and_alone(database: SqliteDatabase) -> None:
    order: list[str] = []
    seen = await transactions(database)
    async with anyio.create_task_group() as tasks:
        turns = Turns(database, tasks)
        await turns.come("a", lambda _: order.append("a"))
        await turns.come("control", lambda _: order.append("control"), Lane.CONTROL)
        await turns.come("b", lambda _: order.append("b"))
        seen.clear()
        turns.let_go()
    assert order == ["control", "a", "b"]
    assert seen == ["COMMIT", "BEGIN", "COMMIT", "BEGIN", "COMMIT"]


async def test_no_claim_of_a_shared_transaction_passes_a_pause(sqlite_url: str) -> None:
    async with core(sqlite_url) as (services, database):
        for _ in range(4):
            await enqueue(services)
        got: list[Any] = []

        async def one(call: Awaitable[Any]) -> None:
            got.append(await call)

        async with anyio.create_task_group() as tasks:
            turns = Turns(database, tasks)
            await turns.come("x", lambda _: None)
            for number in range(4):
                tasks.start_soon(one, claim(services, f"w{number}"))
            tasks.start_soon(one, pause(services))
            assert isinstance(database, SqliteDatabase)
            with anyio.fail_after(5):
                # The claims, which came together, behind `x`, and the pause.
                while (
                    database._writer.turns.qsize() < 2
                    or not database._toggles
                    or services.claims._batches.waiting((None, ())) != 0
                ):
                    await anyio.lowlevel.checkpoint()
            turns.let_go()
        assert [answer.job for answer in got if hasattr(answer, "job")] == [None] * 4


async def test_a_group_ends_so_that_other_processes_have_their_turn(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    seen = await transactions(database)
    async with anyio.create_task_group() as tasks:
        turns = Turns(database, tasks)
        for name in ("a", "b"):
            await turns.come(name, note(name))
        seen.clear()
        turns.let_go()
    assert seen[:5] == ["COMMIT", "BEGIN", "COMMIT", "BEGIN", "COMMIT"]
