"""SQLite: the library, the file and its place. Everything under the writers' lock, like every writer."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast_core.db.locks import FileLock
from holdfast_core.db.sqlite import BUSY_MS
from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import Settings
from holdfast_server.doctor.checks import Check, ok, problem, size, warning
from holdfast_server.doctor.file_system import can_write_in, examine_place, nearest_folder
from holdfast_server.doctor.schema import examine_schema

__all__ = ["examine_sqlite", "has_reset_race"]

LOCK_SECONDS: Final = 5.0
#: A write-ahead log is checkpointed at 4 MiB; one of this size is held back by somebody.
LARGE_WAL_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class _Look:
    revision: str | None
    wal_bytes: int


def examine_sqlite(settings: Settings) -> list[Check]:
    """Blocks, for some seconds at most where another process holds the lock."""
    path = settings.sqlite_path
    checks = [_library(), *examine_place(path)]
    if not path.exists():
        return [*checks, _not_there(path), _clock()]
    try:
        look = _look_at(path)
    except ConfigurationError as error:
        return [
            *checks,
            problem("database", str(error), "Nothing can be written while it is held."),
            _clock(),
        ]
    except (OSError, sqlite3.Error) as error:
        return [
            *checks,
            problem(
                "database",
                f"{path} cannot be written: {error}.",
                "Check the path and its permissions, or set HOLDFAST_DATABASE_URL.",
            ),
            _clock(),
        ]
    return [
        *checks,
        ok("database", f"{path} can be written ({size(path.stat().st_size)})."),
        examine_schema(look.revision, settings),
        _wal(look.wal_bytes),
        _clock(),
    ]


def _look_at(path: Path) -> _Look:
    log = path.with_name(path.name + "-wal")
    lock = FileLock(path.with_name(path.name + ".lock"))
    lock.acquire_within(LOCK_SECONDS)
    try:
        # Before the file is opened: to open and close it may checkpoint the log.
        wal_bytes = log.stat().st_size if log.exists() else 0
        uri = f"{path.resolve().as_uri()}?mode=rw"  # never made here
        with closing(
            sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000)
        ) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            revision: str | None = None
            if "alembic_version" in tables:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                revision = None if row is None else str(row[0])
            _write_and_roll_back(connection, has_tables="alembic_version" in tables)
    finally:
        lock.release()
        lock.close()
    return _Look(revision, wal_bytes)


def _write_and_roll_back(connection: sqlite3.Connection, *, has_tables: bool) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if has_tables:
            connection.execute("INSERT INTO alembic_version (version_num) VALUES ('doctor')")
        else:
            connection.execute("CREATE TABLE holdfast_doctor (id INTEGER PRIMARY KEY)")
    finally:
        connection.execute("ROLLBACK")


def _not_there(path: Path) -> Check:
    folder = nearest_folder(path)
    if (error := can_write_in(folder)) is not None:
        return problem(
            "database",
            f"{path} is not there, and cannot be made: {error.strerror or error}.",
            "Check the path and its permissions, or set HOLDFAST_DATABASE_URL.",
        )
    return ok("database", f"{path} is not there yet: the first start makes it.")


def has_reset_race(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite can corrupt a database when a checkpoint meets a writer that resets the log."""
    if (3, 44, 6) <= version < (3, 45, 0) or (3, 50, 7) <= version < (3, 51, 0):
        return False
    return (3, 7, 0) <= version < (3, 51, 3)


def _library() -> Check:
    if has_reset_race(sqlite3.sqlite_version_info):
        return warning(
            "sqlite",
            f"SQLite {sqlite3.sqlite_version} can corrupt a database that several programs write (the WAL-reset race)."
            " Holdfast's own processes keep clear of it by their lock file.",
            "Let no other program write to the file, or use a Python with SQLite 3.51.3, 3.50.7 or 3.44.6.",
        )
    return ok("sqlite", f"SQLite {sqlite3.sqlite_version}.")


def _wal(count: int) -> Check:
    if count > LARGE_WAL_BYTES:
        return warning(
            "write-ahead log",
            f"{size(count)}: somebody reads for so long that it cannot be taken over into the database.",
            "End sqlite3 shells and backups that have the file open.",
        )
    return ok("write-ahead log", f"{size(count)}.")


def _clock() -> Check:
    return ok("clock", "This host's clock is the database's clock.")
