"""Engines, tables and migrations. Nothing above the store knows what is in here."""

from holdfast_core.clock import Clock, SystemClock
from holdfast_core.db.database import Database, Lane, Work
from holdfast_core.settings import Settings

__all__ = ["Database", "Lane", "Work", "open_database"]


async def open_database(settings: Settings, clock: Clock | None = None) -> Database:
    """The store that the settings name, its schema already in place. Raises ConfigurationError."""
    if settings.is_sqlite:
        from holdfast_core.db.sqlite import SqliteDatabase

        return SqliteDatabase.open(settings.sqlite_path, clock or SystemClock())
    from holdfast_core.db.postgres import PostgresDatabase

    return await PostgresDatabase.open(settings)
