"""A long call ends when its HTTP client goes away.

The SDK sees to that only where it answers a 2026-07-28 client with a stream. Elsewhere a call runs on,
and a claim would take a job that nobody hears of.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from mcp import MCPError, types
from starlette.types import Receive

__all__ = ["while_connected"]

_T = TypeVar("_T")


async def while_connected(receive: Receive, call: Callable[[], Awaitable[_T]]) -> _T:
    """What `call` returns; it is cancelled once the client has gone. `call` may not raise."""
    results: list[_T] = []

    async def run() -> None:
        results.append(await call())
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while (await receive())["type"] != "http.disconnect":
            pass  # pragma: no cover
        tasks.cancel_scope.cancel()
    if not results:
        raise MCPError(types.INTERNAL_ERROR, "The client went away")  # nobody is there to read it
    return results[0]
