"""Migrations: packaged with the code, run at start under a lock, so that ten replicas do them once.

Expand first, contract later: a migration must leave the last release's code able to run.
"""

import asyncio
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select
from sqlalchemy.exc import DBAPIError

from holdfast_core.clock import SystemClock
from holdfast_core.db.locks import FileLock
from holdfast_core.db.sqlite import START_SECONDS, sqlite_engine
from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import Settings

__all__ = ["check", "head", "migrate"]

#: Advisory locks are per database; two ints keep clear of other programs'.
LOCK: Final = (0x486F6C64, 1)


#: Where Alembic writes down the revision. It is read without it: to load it takes a fifth of a start.
_VERSIONS: Final = Table("alembic_version", MetaData(), Column("version_num", String(32)))


def head() -> str:
    """The revision that this code works with."""
    return max(_known())


def migrate(settings: Settings) -> str:
    """Bring the schema up to date. Blocks; safe to call from many processes at once.

    Returns the head revision. Raises ConfigurationError where the database cannot be used, or its
    schema is newer than this code.
    """
    return _with_connection(settings, _upgrade)


def check(settings: Settings) -> str:
    """The head revision, if the schema is at it. Raises ConfigurationError where it is not."""

    def at_head(connection: Connection, lock: Callable[[], None]) -> None:
        if _current(connection) != head():
            raise ConfigurationError("The database's schema is not up to date. Run `holdfast migrate` first.")

    return _with_connection(settings, at_head)


def _upgrade(connection: Connection, lock: Callable[[], None]) -> None:
    if _current(connection) == head():
        return  # the usual case takes no lock
    lock()
    if _current(connection) == head():
        return  # another process did it while we waited
    _upgrade_to(connection, "head")


def _upgrade_to(connection: Connection, revision: str) -> None:
    """The migrations themselves. Alembic is loaded where there is something to do."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if broken:
            raise ConfigurationError(
                f"The migration was not made, since rows of {broken[0][0]} would refer to nothing."
                " Tell the maintainers."
            )


def _with_connection(settings: Settings, work: Callable[[Connection, Callable[[], None]], None]) -> str:
    try:
        if settings.is_sqlite:
            _on_sqlite(settings.sqlite_path, work)
        else:
            asyncio.run(_on_postgresql(settings.database_url, work))
    except (OSError, TimeoutError, DBAPIError) as error:
        raise _unusable(error) from error
    return head()


def _unusable(error: Exception) -> ConfigurationError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return ConfigurationError(
        f"The database cannot be used: {str(cause) or type(error).__name__}. Check HOLDFAST_DATABASE_URL."
    )


def _on_sqlite(path: Path, work: Callable[[Connection, Callable[[], None]], None]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"))
    engine: Engine | None = None
    # Everything under the lock, since to open a WAL database may recover or checkpoint it.
    lock.acquire_within(START_SECONDS)
    try:
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # job payloads may be private
        engine = sqlite_engine(path, SystemClock(), writer=True)
        raw = engine.raw_connection()
        raw.cursor().execute("PRAGMA journal_mode=WAL")
        # Some changes make a table anew, and what refers to the old one must not hold it, or go with it. Not possible
        # inside a transaction; what it would have guarded is looked at before the commit.
        raw.cursor().execute("PRAGMA foreign_keys=OFF")
        raw.close()
        with engine.begin() as connection:
            work(connection, lambda: None)
    finally:
        if engine is not None:
            engine.dispose()
        lock.release()
    lock.close()


async def _on_postgresql(url: str, work: Callable[[Connection, Callable[[], None]], None]) -> None:
    # Here, so that who uses SQLite does not load what it does not need.
    import asyncpg
    from sqlalchemy.ext.asyncio import create_async_engine

    from holdfast_core.db.postgres import CONNECT_SECONDS

    engine = create_async_engine(
        url,
        isolation_level="READ COMMITTED",
        connect_args={
            "timeout": CONNECT_SECONDS,
            "server_settings": {"application_name": "holdfast-migrate"},
        },
    )
    try:
        async with engine.begin() as connection:

            def under_lock(sync: Connection) -> None:
                def lock() -> None:
                    sync.exec_driver_sql("SELECT pg_advisory_xact_lock($1, $2)", LOCK)

                work(sync, lock)

            await connection.run_sync(under_lock)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _unusable(error) from error
    finally:
        await engine.dispose()


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSIONS.name):
        return None
    current: str | None = connection.execute(select(_VERSIONS.c.version_num)).scalar_one_or_none()
    if current is not None and current not in _known():
        raise ConfigurationError(
            f"The database's schema ({current}) is newer than this Holdfast knows. Upgrade Holdfast;"
            " an older one must not write to it."
        )
    return current


@cache
def _known() -> frozenset[str]:
    """The revisions of this code, which are the beginnings of the files' names."""
    files = (Path(__file__).parent / "versions").glob("[0-9]*.py")
    return frozenset(file.name.partition("_")[0] for file in files)
