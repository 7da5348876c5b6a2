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
    """What `call` returns or raises; it is cancelled once the client has gone."""
    results: list[_T] = []
    failure: Exception | None = None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # pragma: no cover
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            results.append(await call())
        except Exception as error:  # as it is, not wrapped in the group's
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise MCPError(types.INTERNAL_ERROR, "The client went away")  # nobody is there to read it
    return results[0]
