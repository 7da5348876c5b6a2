"""What the control port controls."""

from typing import Protocol

from holdfast_core.schemas import LogLevel
from holdfast_worker.runtime.status import CheckpointAnswer, CheckpointKind, WorkerStatus

__all__ = ["Controlled"]


class Controlled(Protocol):
    """A worker, as its control port sees it."""

    def status(self) -> WorkerStatus:
        """What it does right now."""
        ...

    def pause(self) -> None:
        """Take nothing new; what runs goes on."""
        ...

    def resume(self) -> None:
        """Take work again."""
        ...

    def stop(self) -> None:
        """End, in the way that SIGTERM asks for."""
        ...

    async def checkpoint(
        self, job_token: str, label: str | None, kind: CheckpointKind | None, wait_seconds: float
    ) -> CheckpointAnswer:
        """A child process of a job is at a checkpoint. Raises KeyError where no job has this token."""
        ...

    async def log(self, job_token: str, level: LogLevel, message: str) -> None:
        """A child process adds to the log of its job. Raises KeyError where no job has this token."""
        ...
