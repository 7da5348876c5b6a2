"""A push session while there is one, REST while there is none."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog
from anyio import create_task_group

from holdfast_core.schemas import Artifact, Job, LogLevel
from holdfast_core.states import JobPhase
from holdfast_worker.failures import ServerUnreachable
from holdfast_worker.runtime.grouping import one_failure
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.transports.base import Beat, Held, Identity, Name, Transport
from holdfast_worker.runtime.transports.http import HttpTransport
from holdfast_worker.runtime.transports.ws import WsTransport
from holdfast_worker.wire import Address

__all__ = ["AutoTransport"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A claim over REST is short, so that the session is taken up soon once it is there.
CLAIM_SECONDS: Final = 5.0


class AutoTransport:
    """Prefers the push session. What was lost on one way is said again on the other: all of it may be repeated."""

    def __init__(self, address: Address, identity: Identity, hold: Hold) -> None:
        """Raises ValueError where the certificates that are to be trusted cannot be read."""
        self._http = HttpTransport(address, identity, hold)
        self._ws = WsTransport(address, identity, hold, http=self._http)

    def tell_cancels_to(self, heard: Callable[[UUID], None]) -> None:
        """Call this with the id of a job that is to be cancelled."""
        self._ws.tell_cancels_to(heard)

    @property
    def name(self) -> Name:
        """The way that is taken now."""
        return self._way.name

    @property
    def connected(self) -> bool:
        """Whether the server can be reached by one of them."""
        return self._ws.connected or self._http.connected

    @property
    def pushes(self) -> bool:
        """Whether there is a session."""
        return self._ws.pushes

    @property
    def idle_seconds(self) -> float:
        """How long ago the server last heard of this worker."""
        return min(self._ws.idle_seconds, self._http.idle_seconds)

    @property
    def _way(self) -> Transport:
        return self._ws if self._ws.connected else self._http

    async def run(self) -> None:
        """Keep both, until cancelled. Raises NotAuthenticated, NotAllowed or SupersededSession."""
        async with one_failure(), create_task_group() as tasks:
            tasks.start_soon(self._http.run)
            tasks.start_soon(self._ws.run)

    async def claim(self, *, wait_seconds: float) -> tuple[Job, float] | None:
        """A job, over the session or by a short claim over REST."""
        if self._ws.connected:
            return await self._ws.claim(wait_seconds=wait_seconds)
        return await self._http.claim(wait_seconds=min(wait_seconds, CLAIM_SECONDS))

    async def heartbeat(
        self, held: Held, *, phase: JobPhase, checkpoint: str | None, progress: Mapping[str, Any] | None
    ) -> Beat:
        """Move the lease and say what the job does."""
        return await self._by(
            lambda way: way.heartbeat(held, phase=phase, checkpoint=checkpoint, progress=progress)
        )

    async def complete(self, held: Held, summary: str | None) -> None:
        """The job succeeded."""
        await self._by(lambda way: way.complete(held, summary))

    async def fail(self, held: Held, message: str, *, retryable: bool) -> None:
        """The job failed."""
        await self._by(lambda way: way.fail(held, message, retryable=retryable))

    async def release(self, held: Held, reason: str) -> None:
        """The job goes back."""
        await self._by(lambda way: way.release(held, reason))

    async def stopped(self, held: Held, message: str | None) -> None:
        """The job was stopped."""
        await self._by(lambda way: way.stopped(held, message))

    async def log(self, held: Held, level: LogLevel, message: str, payload: Mapping[str, Any] | None) -> None:
        """Add to the job's log."""
        await self._way.log(held, level, message, payload)  # not by both: it would be there twice

    async def upload(self, held: Held, name: str, content: bytes, content_type: str | None) -> Artifact:
        """Keep a file with the job."""
        return await self._http.upload(held, name, content, content_type)

    async def presence(self) -> None:
        """Say that the worker is there."""
        await self._by(lambda way: way.presence())

    async def _by(self, call: Callable[[Transport], Awaitable[T]]) -> T:
        """Over the session; over REST where there is none, or where no answer came over it."""
        if self._ws.connected:
            with suppress(ServerUnreachable):
                return await call(self._ws)
        return await call(self._http)
