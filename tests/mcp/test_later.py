"""The endpoint of a real server is made when somebody asks for it, and not before."""

import subprocess
import sys

import anyio
import httpx2
import pytest
from mcp import Client

from support.servers import start_server

LOADED = """
import sys
from holdfast_core.settings import load_settings
from holdfast_server.compose import create_application
create_application(load_settings(database_url="sqlite:////tmp/unused.db"))
print(sorted(name for name in ("mcp", "alembic", "asyncpg", "jwt") if name in sys.modules))
"""


def test_a_server_does_not_load_what_nobody_has_asked_for() -> None:
    said = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.anyio
async def test_many_first_askers_at_once_are_all_answered_and_others_meanwhile(sqlite_url: str) -> None:
    async with start_server(sqlite_url) as server, httpx2.AsyncClient(base_url=server.url) as http:
        answered: list[int] = []
        made = anyio.Event()

        async def ask() -> None:
            async with Client(f"{server.url}/mcp") as client:
                answered.append(len((await client.list_tools()).tools))
            made.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            while not made.is_set():
                with anyio.fail_after(10):
                    assert (await http.get("/healthz")).status_code == 200
        assert len(answered) == 5
        assert len(set(answered)) == 1
