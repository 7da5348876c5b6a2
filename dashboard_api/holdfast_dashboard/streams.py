"""Server-sent events: how a stream of ours goes over the wire."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import Answer, Problem

__all__ = ["event", "stream"]

T = TypeVar("T")

#: Proxies cut connections that say nothing for a minute or less.
PING_SECONDS: Final = 15
#: A client that reads nothing for so long has gone, or should come back for a fresh snapshot.
SEND_SECONDS: Final = 30
#: How long a browser waits before it connects again, in milliseconds.
RETRY_MS: Final = 1_000


def event(name: str, data: Answer, *, at: str | None = None) -> ServerSentEvent:
    """One event, its data as JSON. `at`: its id, from where a client goes on after a cut."""
    return ServerSentEvent(data.model_dump_json(), event=name, id=at)


async def stream(events: AsyncGenerator[ServerSentEvent]) -> Response:
    """The answer that streams these. What is refused before the first event is refused as on any route: raises
    HoldfastError. What fails later ends the stream with an `error` event, and the client comes back."""
    first = await anext(events, None)
    return EventSourceResponse(
        _with_first(first, events),
        ping=PING_SECONDS,
        send_timeout=SEND_SECONDS,
        headers={"Cache-Control": "no-store"},
    )


async def _with_first(
    first: ServerSentEvent | None, events: AsyncGenerator[ServerSentEvent]
) -> AsyncIterator[ServerSentEvent]:
    async with aclosing(events):
        if first is None:
            return
        first.retry = RETRY_MS
        yield first
        try:
            async for one in events:
                yield one
        except HoldfastError as error:
            yield event("error", Problem.of(error))
