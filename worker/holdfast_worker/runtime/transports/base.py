"""What a way to the server does. The worker knows nothing else of REST, WebSockets and MCP.

Every call teaches the hold the `system` that its answer carries, and says `observedVersion` and, where there is room
for it, `autoEnabled` by the hold. Every call raises HoldfastErrors: ServerUnreachable and others below Unavailable
where a repeat makes sense; LeaseLost, JobNotOwned, JobStateConflict and JobNotFound where the claim is over;
NotAuthenticated and NotAllowed where the worker is not let in, which ends it.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import UUID

from holdfast_core import __version__
from holdfast_core.schemas import Artifact, Job, LogLevel
from holdfast_core.states import JobPhase

__all__ = ["Beat", "Held", "Identity", "Name", "Transport"]

Name = Literal["ws", "http", "mcp"]


@dataclass(frozen=True)
class Identity:
    """Who the worker is and what it takes."""

    worker_id: str
    lease_seconds: int
    #: None: any type.
    types: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] = ()
    slots: int = 1

    @property
    def described(self) -> dict[str, object]:
        """What the fleet view shows of it beside its capabilities, as the API names it."""
        return {
            "types": None if self.types is None else list(self.types),
            "slots": self.slots,
            "runtime": f"python {platform.python_version()}",
            "version": f"holdfast {__version__}",
        }


@dataclass(frozen=True)
class Held:
    """A job of this worker, and the claim by which it holds it."""

    job_id: UUID
    lease_token: str = field(repr=False)


@dataclass(frozen=True)
class Beat:
    """What a heartbeat brought back. The lease is good for a whole length from when it was sent."""

    cancel_requested: bool
    cancel_reason: str | None = None


class Transport(Protocol):
    """One way to the server. `run` must be running while the others are called."""

    @property
    def name(self) -> Name:
        """What it speaks, at this moment."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the latest word to the server was answered."""
        ...

    @property
    def pushes(self) -> bool:
        """Whether the server tells of a pause by itself, at this moment: then what the hold knows is fresh."""
        ...

    @property
    def idle_seconds(self) -> float:
        """How long ago the server last heard of this worker."""
        ...

    def tell_cancels_to(self, heard: Callable[[UUID], None]) -> None:
        """Call this with a job's id where the server tells by itself that somebody asks to cancel it. Where it does
        not, heartbeats bring it."""
        ...

    async def run(self) -> None:
        """Keep the connection, until cancelled. Raises NotAuthenticated or NotAllowed."""
        ...

    async def claim(self, *, wait_seconds: float) -> tuple[Job, float] | None:
        """A job, begun to be ours at a time on time.monotonic(), or None: nothing within `wait_seconds`, or paused.

        Safe to cancel at any time: a job that was taken for it goes back. Not to be called while locally paused; one
        that is, is answered None.
        """
        ...

    async def heartbeat(
        self, held: Held, *, phase: JobPhase, checkpoint: str | None, progress: Mapping[str, Any] | None
    ) -> Beat:
        """Move the lease and say what the job does."""
        ...

    async def complete(self, held: Held, summary: str | None) -> None:
        """The job succeeded. May be repeated."""
        ...

    async def fail(self, held: Held, message: str, *, retryable: bool) -> None:
        """The job failed. May be repeated."""
        ...

    async def release(self, held: Held, reason: str) -> None:
        """The job goes back to its place, no attempt used. May be repeated."""
        ...

    async def stopped(self, held: Held, message: str | None) -> None:
        """The job was stopped, as its cancellation asked. May be repeated."""
        ...

    async def log(self, held: Held, level: LogLevel, message: str, payload: Mapping[str, Any] | None) -> None:
        """Add to the job's log."""
        ...

    async def upload(self, held: Held, name: str, content: bytes, content_type: str | None) -> Artifact:
        """Keep a file with the job."""
        ...

    async def presence(self) -> None:
        """Say that the worker is there, whether it takes work, and which version it has seen."""
        ...
