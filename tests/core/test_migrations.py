"""The schema is the sum of its migrations; many processes that start at once do them once."""

import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.dialects.sqlite.pysqlite import dialect as sqlite_dialect
from sqlalchemy.schema import CreateIndex

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import migrations
from holdfast_core.db.migrations import check, head, migrate
from holdfast_core.db.tables import metadata
from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import load_settings
from support.postgres import Template
from support.stores import core

MIGRATE = """
import sys
from holdfast_core.db.migrations import migrate
from holdfast_core.settings import load_settings
print(migrate(load_settings(database_url=sys.argv[1])))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A database of this test's own with nothing in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty/holdfast.db"
        return
    empty = Template(request.getfixturevalue("postgres_url"))
    empty.create()
    try:
        yield empty.url
    finally:
        empty.drop()


@pytest.mark.anyio
async def test_the_schema_equals_the_sum_of_the_migrations(database_url: str) -> None:
    async with core(database_url) as (_, database):

        def difference(connection: Connection) -> list[object]:
            sqlite = connection.dialect.name == "sqlite"

            def compared(_: object, name: str | None, kind: str, *more: object) -> bool:
                # Alembic cannot read SQLite's expressions back, and does not know that one index is SQLite's only.
                return not (kind == "index" and (sqlite or name == "ix_agent_jobs_leases"))

            options = {"compare_type": True, "include_object": compared}
            return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

        assert await database.read(difference) == []
        if database.dialect == "sqlite":
            wanted = {
                str(CreateIndex(index).compile(dialect=sqlite_dialect()))
                for table in metadata.tables.values()
                for index in table.indexes
            }
            sql = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
            assert set(await database.read(lambda c: c.execute(text(sql)).scalars().all())) == wanted


@pytest.mark.anyio
async def test_the_checks_of_the_tables_are_in_the_database(database_url: str) -> None:
    """Alembic does not compare CHECK constraints."""
    wanted = {
        str(constraint.name) for table in metadata.tables.values() for constraint in table.constraints
    } - {None}
    async with core(database_url) as (_, database):
        if database.dialect == "postgresql":
            sql = "SELECT conname FROM pg_constraint"
            found = set(await database.read(lambda c: c.execute(text(sql)).scalars().all()))
        else:
            sql = "SELECT sql FROM sqlite_master WHERE type = 'table'"
            ddl = " ".join(await database.read(lambda c: c.execute(text(sql)).scalars().all()))
            found = {name for name in wanted if f"CONSTRAINT {name} " in ddl}
    assert wanted - found == set()


def test_the_revisions_are_those_that_alembic_finds() -> None:
    """At a start they are read from the files' names: to load Alembic takes longer than all of that."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == head()
    assert {script.revision for script in scripts.walk_revisions()} == migrations._known()


def test_ten_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, empty_database_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(out.strip(), code) for out, _, code in results] == [(head(), 0)] * 10, results


def test_a_database_that_is_behind_is_refused_where_nothing_may_migrate(empty_database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="holdfast migrate"):
        check(load_settings(database_url=empty_database_url))


@pytest.mark.anyio
async def test_a_schema_that_is_newer_than_the_code_is_left_alone(database_url: str) -> None:
    async with core(database_url) as (_, database):
        await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(ConfigurationError, match="newer"):
        migrate_in_thread(database_url)


def migrate_in_thread(url: str) -> None:
    """`migrate` starts a loop of its own, so not in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(migrate, load_settings(database_url=url)).result()


@pytest.mark.anyio
async def test_the_local_user_stands_behind_the_first_toggle(database_url: str) -> None:
    async with core(database_url) as (_, database):
        names = await database.read(
            lambda c: [tuple(row) for row in c.execute(text("SELECT name FROM users"))]
        )
    assert names == [("local operator",)]
    assert LOCAL_OPERATOR.name == "local operator"


def test_an_unusable_database_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match="HOLDFAST_DATABASE_URL"):
        migrate(load_settings(database_url="postgresql://nobody@127.0.0.1:1/nothing"))
    with pytest.raises(ConfigurationError, match="HOLDFAST_DATABASE_URL"):
        migrate(load_settings(database_url="sqlite:////proc/nowhere/holdfast.db"))
