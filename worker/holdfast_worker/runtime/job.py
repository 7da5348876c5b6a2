"""A job as its handler sees it.

from holdfast import Job, Worker

async def handle(job: Job) -> str:
    await job.stage("fetch")
    ...
    async for part in job.steps(job.payload["parts"]):
        ...
    return "3 parts done"
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from holdfast_core.schemas import Artifact, LogLevel

if TYPE_CHECKING:
    from holdfast_worker.runtime.lease import Lease
    from holdfast_worker.runtime.running import JobRun

__all__ = ["Job"]

T = TypeVar("T")


class Job:
    """One job that this worker holds.

    Its handler is cancelled when somebody cancels the job, when its lease is lost or about to be, and when the worker
    stops: to clean up, use `try … finally`.
    """

    def __init__(self, run: "JobRun") -> None:
        self._run = run
        job = run.claimed
        self.id: UUID = job.id
        self.type: str = job.type
        self.payload: dict[str, Any] = job.payload or {}
        self.priority: int = job.priority
        #: From 1.
        self.attempt: int = job.attempt
        self.max_attempts: int = job.max_attempts

    @property
    def worker_id(self) -> str:
        """Who runs it."""
        return self._run.worker_id

    @property
    def lease(self) -> "Lease":
        """How long the claim is safely ours, and who is told of each renewal."""
        return self._run.lease

    @property
    def parked(self) -> bool:
        """Whether it waits at a checkpoint."""
        return self._run.parked

    async def checkpoint(self, label: str | None = None) -> None:
        """A point at which the job may safely wait: returns at once while running, and waits while quiesced.

        While it waits the lease is kept, and operators see the job as parked. `label` (at most 200 characters) says
        where it is.
        """
        await self._run.checkpoint(label, None)

    async def stage(self, name: str) -> None:
        """The next stage begins. A checkpoint, unless stages are not among the worker's `checkpoints`."""
        await self._run.checkpoint(name, "stage")

    async def steps(self, items: Iterable[T], label: str = "step") -> AsyncIterator[T]:
        """The items one by one, with a checkpoint before each ("step 3"), unless steps are not among the worker's
        `checkpoints`."""
        for number, item in enumerate(items, start=1):
            await self._run.checkpoint(f"{label} {number}", "step")
            yield item

    async def log(
        self, message: str, *, level: LogLevel = "info", payload: Mapping[str, Any] | None = None
    ) -> None:
        """Add to the job's log (at most 8,000 characters a message). Sent in the background, in order."""
        self._run.log.add(level, message, payload)

    async def progress(self, progress: Mapping[str, Any]) -> None:
        """Say how far it is, as JSON of at most 64 KiB. Goes out with the next heartbeat."""
        self._run.say_progress(progress)

    async def upload(self, name: str, content: bytes | str, *, content_type: str | None = None) -> Artifact:
        """Keep a file with the job. Raises HoldfastError where the server does not take it."""
        raw = content.encode() if isinstance(content, str) else content
        return await self._run.transport.upload(self._run.held, name, raw, content_type)

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment to be a part of this job: `holdfast checkpoint` and
        `holdfast hook` find their way by it. No credential of the worker's is among it."""
        return self._run.environment()
