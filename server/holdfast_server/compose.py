"""The composition root: settings, then the store, the change bus, the services and the apps.

The only place that knows all rooms of the house; it alone may import the dashboard's app factory.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync

from holdfast_core.changes import open_bus
from holdfast_core.clock import Clock, SystemClock
from holdfast_core.db import open_database
from holdfast_core.db.migrations import check, migrate
from holdfast_core.services import AccessService, Counters, Logins, Services, run_services
from holdfast_core.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from holdfast_core.services.issuer import Issuer
    from holdfast_core.services.sla import Send
    from holdfast_server.mcp import McpEndpoint

__all__ = ["create_application", "open_access", "open_services"]


@asynccontextmanager
async def open_services(
    settings: Settings, clock: Clock | None = None, *, counters: Counters | None = None
) -> AsyncGenerator[Services]:
    """The services over the store that the settings name, until the block ends. `counters`: those that are shared with
    other processes.

    Migrates first, if the settings say so. Raises ConfigurationError where the store cannot be used.
    """
    await run_sync(migrate if settings.migrate_on_start else check, settings)
    database = await open_database(settings, clock)
    try:
        async with (
            _open_issuer(settings, clock) as issuer,
            _open_webhook(settings, clock) as send,
            run_services(
                database, open_bus(settings), settings, clock, issuer, counters=counters, send=send
            ) as services,
        ):
            yield services
    finally:
        await database.close()


@asynccontextmanager
async def _open_issuer(settings: Settings, clock: Clock | None) -> AsyncGenerator["Issuer | None"]:
    """The OpenID provider that the settings name, if any. It is not spoken to before somebody needs it."""
    if settings.auth_provider != "oidc":
        yield None
        return
    from holdfast_core.services.issuer import Issuer  # its libraries take long to load

    async with aclosing(Issuer(settings, clock)) as issuer:
        yield issuer


@asynccontextmanager
async def _open_webhook(settings: Settings, clock: Clock | None) -> AsyncGenerator["Send | None"]:
    """What sends alerts to the webhook that the settings name, if any."""
    if settings.webhook_url is None:
        yield None
        return
    from holdfast_core.services.webhook import Webhook  # its libraries take long to load

    async with aclosing(Webhook(settings, clock or SystemClock())) as webhook:
        yield webhook.send


@asynccontextmanager
async def open_access(settings: Settings) -> AsyncGenerator[AccessService]:
    """Tokens alone, over the same store and beside any server: for one call, so nothing runs in the background.

    Migrates first, if the settings say so. Raises ConfigurationError where the store cannot be used.
    """
    await run_sync(migrate if settings.migrate_on_start else check, settings)
    clock = SystemClock()
    database = await open_database(settings, clock)
    try:
        yield AccessService(database, Logins(database, clock, None), settings, clock)
    finally:
        await database.close()


def create_application(settings: Settings, counters: Counters | None = None) -> "FastAPI":
    """The whole server as one ASGI app: REST, the dashboard, and MCP at `/mcp`. Its lifespan opens the services.
    `counters`: those that are shared with other processes.

    For one run: build another for the next.
    """
    # Here, so that who only wants the services (`holdfast mcp`) does not load the web half of the house.
    from holdfast_dashboard.app import create_app
    from holdfast_server.mcp.later import LaterEndpoint

    opened: list[Services] = []

    def services() -> Services:
        return opened[-1]

    def make_endpoint() -> "McpEndpoint":
        from holdfast_server.mcp import build_mcp_server, create_mcp_endpoint

        return create_mcp_endpoint(build_mcp_server(services, settings), settings)

    endpoint = LaterEndpoint(make_endpoint)

    @asynccontextmanager
    async def lifespan(_: "FastAPI") -> AsyncGenerator[None]:
        async with open_services(settings, counters=counters) as running:
            opened.append(running)
            async with endpoint.running():
                yield

    return create_app(services, settings, lifespan=lifespan, mcp_app=endpoint)
