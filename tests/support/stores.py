"""The services together with their store, so that a test can look and act behind their back."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import run_sync

from holdfast_core.changes import open_bus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, open_database
from holdfast_core.db.migrations import migrate
from holdfast_core.services import Services, run_services
from holdfast_core.settings import load_settings

__all__ = ["core"]


@asynccontextmanager
async def core(
    url: str, *, clock: Clock | None = None, **settings: Any
) -> AsyncGenerator[tuple[Services, Database]]:
    """The services over the database at `url`, and that database. `settings` as in the environment."""
    loaded = load_settings(**{"database_url": url, "database_pool_size": 6, **settings})
    await run_sync(migrate, loaded)
    database = await open_database(loaded, clock)
    try:
        async with run_services(database, open_bus(loaded), loaded, clock) as services:
            yield services, database
    finally:
        await database.close()
