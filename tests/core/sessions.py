"""A worker's end of a push session, without a socket: frames in, frames out."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.schemas.sessions import (
    ErrorFrame,
    OfferFrame,
    ServerFrame,
    SystemFrame,
    WelcomeFrame,
    parse_server_frame,
)
from holdfast_core.services import Services, Session

__all__ = ["Peer", "connected", "opened"]

_F = TypeVar("_F", bound=ServerFrame)
#: The longest that a test waits for a frame.
PATIENCE = 15.0


class Peer:
    """The worker in a session. `frames` is all that it was sent so far, in order."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.frames: list[ServerFrame] = []
        self.ended = anyio.Event()
        self._more = anyio.Event()
        self._read = 0
        self._refs = 0

    async def listen(self) -> None:
        """Read what is sent, through the wire's own form, until the session is over."""
        async for text in self.session.outbox.frames():
            parsed = parse_server_frame(text)
            assert parsed is not None
            self.frames.append(parsed)
            more, self._more = self._more, anyio.Event()
            more.set()
        self.ended.set()

    async def say(self, kind: str, **fields: Any) -> None:
        """Send one frame; it has been handled when this returns."""
        await self.session.handle(json.dumps({"type": kind, **fields}, default=str))

    async def ask(self, kind: str, wanted: type[_F], **fields: Any) -> _F:
        """Send a frame, and the answer to it."""
        self._refs += 1
        ref = f"r{self._refs}"
        await self.say(kind, ref=ref, **fields)
        return await self.hear(wanted, ref=ref)

    async def refused(self, code: str, kind: str, **fields: Any) -> ErrorFrame:
        """Send a frame that is refused with this code."""
        error = await self.ask(kind, ErrorFrame, **fields)
        assert error.code == code, error
        return error

    async def hear(self, wanted: type[_F], *, ref: str | None = None) -> _F:
        """The next frame of this kind that was not heard yet, passing over others (with `ref`: of all frames)."""
        at = 0 if ref is not None else self._read
        with anyio.fail_after(PATIENCE):
            while True:
                for number in range(at, len(self.frames)):
                    frame = self.frames[number]
                    if isinstance(frame, wanted) and frame.ref == ref:
                        if ref is None:
                            self._read = number + 1
                        return frame
                    if ref is not None and frame.ref == ref:
                        raise AssertionError(f"answered by {frame!r}")
                at = len(self.frames)
                await self._more.wait()

    async def offer(self) -> OfferFrame:
        """The next offer."""
        return await self.hear(OfferFrame)

    async def ready(self, slots: int = 1) -> None:
        """It would take so many."""
        await self.say("readyForMore", slots=slots)

    def offers(self) -> list[OfferFrame]:
        """All offers so far."""
        return [frame for frame in self.frames if isinstance(frame, OfferFrame)]

    def versions(self) -> list[int]:
        """All versions that were pushed so far."""
        return [frame.system.version for frame in self.frames if isinstance(frame, SystemFrame)]


def of(frame: OfferFrame) -> dict[str, Any]:
    """How the worker speaks of the offered job."""
    return {"jobId": frame.job.id, "leaseToken": frame.job.lease_token}


@asynccontextmanager
async def opened(services: Services, worker: str = "w") -> AsyncGenerator[Peer]:
    """A session that has not said hello."""
    async with services.sessions.open(LOCAL_OPERATOR, worker) as session, anyio.create_task_group() as tasks:
        peer = Peer(session)
        tasks.start_soon(peer.listen)
        yield peer
        session.outbox.end(None)


@asynccontextmanager
async def connected(
    services: Services, worker: str = "w", *, ready: int = 0, **hello: Any
) -> AsyncGenerator[Peer]:
    """A session that was welcomed, ready for so many jobs. `hello`: fields of its capabilities, or of the frame."""
    frame = {name: hello.pop(name) for name in ("leaseSeconds", "observedVersion", "jobs") if name in hello}
    async with opened(services, worker) as peer:
        await peer.ask("hello", WelcomeFrame, **{"leaseSeconds": 60, "capabilities": hello, **frame})
        if ready:
            await peer.ready(ready)
        yield peer
