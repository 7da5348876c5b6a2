"""A database of the doctor's own: new, beside the live one, and gone afterwards."""

import secrets
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
from anyio import CancelScope

from holdfast_core.settings import Settings
from holdfast_server.doctor.file_system import can_write_in, nearest_folder
from holdfast_server.doctor.sessions import LOST, connect, said

__all__ = ["NoScratch", "open_scratch"]

_PREFIX: Final = "holdfast_doctor_"


class NoScratch(Exception):
    """No scratch database could be made, or it could not be removed. Says why, and what is missing."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found = found
        self.advice = advice


@asynccontextmanager
async def open_scratch(settings: Settings) -> AsyncGenerator[Settings]:
    """Settings that name a database with nothing in it, of the same kind and at the same place as the live one's.

    Raises NoScratch.
    """
    if settings.is_sqlite:
        with _sqlite_folder(settings.sqlite_path) as folder:
            yield _settings(f"sqlite:///{folder / 'scratch.db'}")
        return
    # Directly, where there is a way: a pooler knows only the databases that it was told of.
    async with _postgres_database(settings.database_listen_url or settings.database_url) as url:
        yield _settings(url)


def _settings(url: str) -> Settings:
    # Nothing else of the environment: where metrics or messages go to is for the live ones.
    return Settings.model_construct(database_url=url, database_pool_size=6)


@contextmanager
def _sqlite_folder(path: Path) -> Generator[Path]:
    beside = nearest_folder(path)
    try:
        # Beside the live one, so that the same file system's locks are tried.
        place = None if can_write_in(beside) else beside
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as folder:
            yield Path(folder)
    except OSError as error:
        raise NoScratch(
            f"There is no place for a scratch database: {error.strerror or error}.",
            "Set TMPDIR to a writable folder.",
        ) from None


@asynccontextmanager
async def _postgres_database(url: str) -> AsyncGenerator[str]:
    name = _PREFIX + secrets.token_hex(8)
    try:
        connection = await connect(url)
    except LOST as error:
        raise _none(error) from None
    with CancelScope(shield=True):  # or it would not be known whether there is one
        await _create(connection, url, name)
    try:
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
    finally:
        with CancelScope(shield=True):
            await _drop(connection, url, name)


async def _create(connection: "asyncpg.Connection[Any]", url: str, name: str) -> None:
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    except asyncpg.InsufficientPrivilegeError:
        connection.terminate()
        user = urlsplit(url).username or "the role"
        raise NoScratch(
            f"{user} may not create a scratch database.",
            f'Run the doctor as a role that may, or: ALTER ROLE "{user}" CREATEDB.',
        ) from None
    except LOST as error:
        if isinstance(error, asyncpg.PostgresError):
            connection.terminate()  # it was refused
        else:
            await _drop(connection, url, name)  # the answer was lost
        raise _none(error) from None


def _none(error: Exception) -> NoScratch:
    return NoScratch(f"No scratch database can be made: {said(error)}.", "Look at the check of the database.")


async def _drop(connection: "asyncpg.Connection[Any]", url: str, name: str) -> None:
    try:
        if connection.is_closed():
            connection = await connect(url)
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    except LOST as error:
        raise NoScratch(
            f"The scratch database {name} may be there still: {said(error)}.",
            f"Remove it: DROP DATABASE IF EXISTS {name}",
        ) from None
    finally:
        connection.terminate()
