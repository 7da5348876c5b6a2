"""MCP's endpoint, made when it is first asked for: its libraries take as long to load as all of the rest, and many
servers are never asked.

Whoever comes first waits for that, and nobody else does: they are loaded in a thread.
"""

import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyio import Event, create_task_group
from anyio.to_thread import run_sync
from starlette.types import Receive, Scope, Send

from holdfast_core.errors import going_down

if TYPE_CHECKING:
    from holdfast_server.mcp.http import McpEndpoint

__all__ = ["LaterEndpoint"]


class LaterEndpoint:
    """An ASGI app for one running of the server: `make` is called once, in a thread, at the first request."""

    def __init__(self, make: Callable[[], "McpEndpoint"]) -> None:
        self._make = make
        self._wanted = Event()
        self._made = Event()
        self._endpoint: McpEndpoint | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """To be entered in the host's lifespan, in which what was made runs and ends."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._run)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _run(self) -> None:
        await self._wanted.wait()
        try:
            endpoint = await run_sync(self._make)
            gc.freeze()  # it lasts: the collector need not walk through it again and again
            async with endpoint.running():
                self._endpoint = endpoint
                self._made.set()
                await Event().wait()
        finally:
            self._endpoint = None
            self._made.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._endpoint is None:
            self._wanted.set()
            await self._made.wait()
        if self._endpoint is None:
            raise going_down()
        await self._endpoint.app(scope, receive, send)
