"""Subscriptions through a forwarder: one stream of the server for each, opened anew whenever it breaks.

What happened while it was broken is not known, so a subscriber is told to read again, unless the server says
that the version is still the one it knows.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

import structlog
from anyio import sleep
from mcp import MCPError, types

from holdfast_server.mcp.subscriptions import VERSION_META_KEY, Update
from holdfast_server.mcp.upstream import Frame, Upstream, UpstreamFailed

__all__ = ["Relay"]

#: Rests between attempts to listen again; the last one stays.
RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)

_log: Final[Any] = structlog.get_logger(__name__)


class Relay:
    """The source of updates that a server elsewhere sends."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    @asynccontextmanager
    async def open(self, uris: frozenset[str]) -> AsyncGenerator["_Relayed"]:
        """Updates from the server. Raises MCPError where it cannot be reached, or refuses."""
        async with AsyncExitStack() as stream:
            relayed = _Relayed(self._upstream, uris, stream)
            try:
                await relayed.listen()
            except UpstreamFailed as error:
                raise MCPError(types.INTERNAL_ERROR, str(error)) from None
            yield relayed


class _Relayed:
    """What one subscriber is told."""

    def __init__(self, upstream: Upstream, uris: frozenset[str], stream: AsyncExitStack) -> None:
        self._upstream = upstream
        self._asked = uris
        self._stream = stream
        self._frames: AsyncIterator[Frame] | None = None
        self._behind: list[Update] = []
        self.uris: frozenset[str] = frozenset()
        self.version: int | None = None

    async def next(self) -> Update:
        """The next update; one for each resource when the server is back after a loss."""
        attempt = 0
        while not self._behind:
            try:
                if self._frames is None:
                    known = self.version
                    await self.listen()
                    _log.info("mcp_listens_again", server=self._upstream.shown)
                    if known is None or self.version != known:
                        self._behind = [Update(uri, self.version) for uri in sorted(self.uris)]
                else:
                    self._take(await anext(self._frames))
                attempt = 0
            except (UpstreamFailed, MCPError, StopAsyncIteration) as error:
                if self._frames is not None:
                    _log.warning("mcp_subscription_cut", server=self._upstream.shown, cause=str(error))
                await self._drop()
                await sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1
        return self._behind.pop(0)

    async def listen(self) -> None:
        """Open a stream and wait for what the server honors. Raises UpstreamFailed or MCPError."""
        params = {"notifications": {"resourceSubscriptions": sorted(self._asked)} if self._asked else {}}
        try:
            frames = await self._stream.enter_async_context(
                self._upstream.stream("subscriptions/listen", params)
            )
            first = await anext(frames, None)
            if first is None or first.get("method") != "notifications/subscriptions/acknowledged":
                error = (first or {}).get("error")
                raise _error(error)
        except BaseException:
            await self._drop()
            raise
        told = cast("Mapping[str, Any]", first.get("params") or {})
        honored = cast("Mapping[str, Any]", told.get("notifications") or {})
        self.uris = frozenset(cast("list[str]", honored.get("resourceSubscriptions") or ()))
        self.version = _version(told)
        self._frames = frames

    def _take(self, frame: Frame) -> None:
        told = cast("Mapping[str, Any]", frame.get("params") or {})
        if frame.get("method") == "notifications/resources/updated":
            version = _version(told)
            self.version = version if version is not None else self.version
            self._behind.append(Update(str(told.get("uri")), version))
        elif "method" not in frame:
            raise UpstreamFailed("the server has ended it")

    async def _drop(self) -> None:
        self._frames = None
        await self._stream.aclose()


def _version(told: Mapping[str, Any]) -> int | None:
    version = cast("Mapping[str, Any]", told.get("_meta") or {}).get(VERSION_META_KEY)
    return version if isinstance(version, int) else None


def _error(error: Any) -> Exception:
    try:
        return MCPError.from_error_data(types.ErrorData.model_validate(error))
    except ValueError:
        return UpstreamFailed("[unexpected_answer] The server does not serve subscriptions.")
