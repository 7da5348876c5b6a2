"""The doctor's own sessions on PostgreSQL."""

from typing import Any, Final

import asyncpg

from holdfast_core.db.postgres import CONNECT_SECONDS, plain_url

__all__ = ["LOST", "connect", "said"]

#: What a server that is away, or does not want us, makes asyncpg raise.
LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
COMMAND_SECONDS: Final = 20.0


async def connect(url: str) -> "asyncpg.Connection[Any]":
    """A session, to be ended with `terminate()`. Raises one of `LOST`."""
    return await asyncpg.connect(
        plain_url(url),
        timeout=CONNECT_SECONDS,
        command_timeout=COMMAND_SECONDS,
        server_settings={"application_name": "holdfast-doctor"},
    )


def said(error: BaseException) -> str:
    """What the server or the system said, without a full stop."""
    return (str(error) or type(error).__name__).rstrip(".")
