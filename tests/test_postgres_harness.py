"""The harness that gives the other tests their databases."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.postgres import OLDEST, Template, run_sql


def fetch(url: str, query: str) -> Any:
    async def run() -> Any:
        connection = await _connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_the_server_is_a_supported_postgresql(postgres_url: str) -> None:
    assert fetch(postgres_url, "SELECT version()").startswith("PostgreSQL ")
    assert int(fetch(postgres_url, "SHOW server_version_num")) >= OLDEST[0] * 10_000
    assert fetch(postgres_url, "SHOW fsync") == "on"


def test_what_one_clone_holds_is_not_in_the_next(postgres_url: str) -> None:
    template = Template(postgres_url)
    template.create()
    try:
        run_sql(template.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1)")
        with template.clone() as first, template.clone() as second:
            run_sql(first, "INSERT INTO t VALUES (2)")
            assert fetch(first, "SELECT count(*) FROM t") == 2
            assert fetch(second, "SELECT count(*) FROM t") == 1
    finally:
        template.drop()


def test_a_clone_is_dropped_although_a_session_is_on_it(postgres_url: str) -> None:
    template = Template(postgres_url)
    template.create()
    with asyncio.Runner() as runner:
        try:
            with template.clone() as url:
                name = url.rpartition("/")[2]
                connection = runner.run(_connect(url))
            assert fetch(postgres_url, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0
            connection.terminate()
            runner.run(asyncio.sleep(0))  # the loop closes the socket
        finally:
            template.drop()


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url, timeout=30)


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_migrated_database_of_its_own(database_url: str, turn: int) -> None:
    statement = "CREATE TABLE left_behind (x int)"  # fails in the second turn if the first's is still there
    versions = "SELECT count(*) FROM alembic_version"
    if database_url.startswith("sqlite:"):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
        connection.execute(statement)
        assert connection.execute(versions).fetchone() == (1,)
        connection.close()
    else:
        run_sql(database_url, statement)
        assert fetch(database_url, versions) == 1


def test_no_server_is_left_when_the_tests_are_killed() -> None:
    program = (
        "import time\n"
        "from support.postgres import open_cluster\n"
        "with open_cluster() as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    environment.pop("HOLDFAST_TEST_DATABASE_URL", None)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as tests:
        assert tests.stdout is not None
        data = Path(fetch(tests.stdout.readline().strip(), "SHOW data_directory"))
        server = int((data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(server, 0)
        tests.kill()
    give_up = time.monotonic() + 20
    while data.parent.exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not data.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
