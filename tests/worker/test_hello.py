"""A worker's hello is repeated until a server takes it."""

from uuid import UUID

import anyio
import pytest
from sqlalchemy import Connection

from holdfast import Job, Worker
from holdfast_core.errors import StoreUnavailable
from holdfast_core.store import sessions
from rest.harness import PATIENCE, open_socket

pytestmark = pytest.mark.anyio


async def test_a_worker_whose_hello_meets_a_store_that_is_away_comes_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hellos = 0
    whole = sessions.write_session

    def away_at_first(connection: Connection, worker_id: str, session_id: UUID) -> None:
        nonlocal hellos
        hellos += 1
        if hellos <= 2:
            raise StoreUnavailable("The database's disk is full.")
        whole(connection, worker_id, session_id)

    monkeypatch.setattr(sessions, "write_session", away_at_first)
    done = anyio.Event()

    async def handle(_: Job) -> None:
        done.set()

    async with open_socket(sqlite_url) as api, anyio.create_task_group() as tasks:
        address = f"http://127.0.0.1:{api.port}"
        worker = Worker(handle, url=address, worker_id="w-1", transport="ws", control=False)
        tasks.start_soon(worker.serve)
        await api.enqueue()
        with anyio.fail_after(PATIENCE):
            await done.wait()
        tasks.cancel_scope.cancel()
    assert hellos == 3
