"""A worker's end of a push session over a real socket.

async with push(server.url, "w-1", ready=1) as worker:
    offer = await worker.hear("offer")
    await worker.ask("accept", **of(offer))
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

__all__ = ["PATIENCE", "Push", "of", "push", "push_url"]

#: The longest that a test waits for a frame.
PATIENCE = 20.0
SUBPROTOCOL = "holdfast-worker-v1"


def push_url(url: str, worker: str) -> str:
    """Where a worker connects."""
    return f"{url.replace('http', 'ws', 1)}/api/queue/workers/{worker}/connect"


def of(offer: dict[str, Any]) -> dict[str, Any]:
    """How the worker speaks of the offered job."""
    return {"jobId": offer["job"]["id"], "leaseToken": offer["job"]["leaseToken"]}


class Push:
    """The connection. `frames` is all that was heard so far, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []
        self._unheard: list[dict[str, Any]] = []
        self._refs = 0

    async def say(self, kind: str, **fields: Any) -> None:
        """Send one frame."""
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def _next(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.connection.recv())
        self.frames.append(frame)
        return frame

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next frame of this kind; others before it stay to be heard."""
        with anyio.fail_after(PATIENCE):
            for frame in self._unheard:
                if frame["type"] == kind:
                    self._unheard.remove(frame)
                    return frame
            while (frame := await self._next())["type"] != kind:
                self._unheard.append(frame)
            return frame

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a frame, and the answer to it."""
        self._refs += 1
        ref = f"r{self._refs}"
        await self.say(kind, ref=ref, **fields)
        with anyio.fail_after(PATIENCE):
            while (frame := await self._next())["ref"] != ref:
                self._unheard.append(frame)
        return frame

    async def closed(self) -> int:
        """The code with which the server closes, once it does."""
        with anyio.fail_after(PATIENCE):
            with suppress(ConnectionClosed):
                while True:
                    self._unheard.append(await self._next())
        assert self.connection.close_code is not None
        return self.connection.close_code


@asynccontextmanager
async def push(
    url: str, worker: str, *, ready: int = 0, hello: bool = True, token: str | None = None, **fields: Any
) -> AsyncGenerator[Push]:
    """A session that was welcomed, ready for so many jobs. `fields`: more of the hello; `token`: of the worker."""
    async with connect(
        push_url(url, worker),
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
        max_size=None,
        proxy=None,
        additional_headers=None if token is None else {"Authorization": f"Bearer {token}"},
    ) as connection:
        one = Push(connection)
        if hello:
            welcome = await one.ask("hello", **{"leaseSeconds": 60, "capabilities": {}, **fields})
            assert welcome["type"] == "welcome", welcome
        if ready:
            await one.say("readyForMore", slots=ready)
        yield one
