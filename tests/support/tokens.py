"""Tokens made on the server's host, as `holdfast token create` makes them, and what to send them as."""

from typing import Any

import anyio

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.clock import SystemClock
from holdfast_core.db import open_database
from holdfast_core.schemas import CreatedToken, TokenRequest, parse_request
from holdfast_core.services import AccessService, Logins
from holdfast_core.settings import load_settings

__all__ = ["bearer", "create_token", "create_token_now", "role_token"]


async def create_token(database_url: str, **body: Any) -> CreatedToken:
    """A token on a migrated database; `body` is that of `POST /api/tokens`, in its camelCase."""
    settings = load_settings(database_url=database_url, database_pool_size=2)
    clock = SystemClock()
    database = await open_database(settings, clock)
    try:
        access = AccessService(database, Logins(database, clock, None), settings, clock)
        request, _ = parse_request(TokenRequest, body)
        return await access.create(LOCAL_OPERATOR, request, by_host=True)
    finally:
        await database.close()


def create_token_now(database_url: str, **body: Any) -> CreatedToken:
    """The same, for tests without an event loop."""

    async def make() -> CreatedToken:
        return await create_token(database_url, **body)

    return anyio.run(make)


async def role_token(database_url: str, role: str, worker_id: str = "w") -> CreatedToken:
    """A token of this role, of a user of the role's name; `worker`: of the worker `worker_id`."""
    if role == "worker":
        return await create_token(database_url, workerId=worker_id)
    return await create_token(database_url, role=role, user=role)


def bearer(token: CreatedToken | str) -> dict[str, str]:
    """The header that carries it."""
    return {"Authorization": f"Bearer {token if isinstance(token, str) else token.token}"}
