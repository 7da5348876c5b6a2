"""What a worker tells of itself: to its control port, its status page and its tray icon."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from holdfast_core.schemas import Answer, System
from holdfast_core.states import JobPhase, PauseMode

__all__ = ["CheckpointAnswer", "CheckpointKind", "JobAtWork", "WorkerStatus", "WorkerVariant"]

#: `disconnected`: the server does not answer. `paused`: takes nothing new, by its own operator or the system's.
#: `busy`: runs jobs. `idle`: the rest. The first that is true counts.
WorkerVariant = Literal["idle", "busy", "paused", "disconnected"]
#: What a boundary in a job is. A `checkpoint` without a kind always counts as safe.
CheckpointKind = Literal["stage", "step", "tool"]


class JobAtWork(Answer):
    """A job that the worker holds."""

    id: UUID
    type: str
    attempt: int
    phase: JobPhase
    checkpoint: str | None = None
    started_at: datetime


class WorkerStatus(Answer):
    """The worker, right now."""

    worker_id: str
    pid: int
    version: str
    url: str
    transport: Literal["ws", "http", "mcp"]
    connected: bool
    variant: WorkerVariant
    locally_paused: bool
    stopping: bool = Field(description="It takes nothing new any more, and ends once its jobs have.")
    system: System | None = Field(
        description="The system's pause as the worker knows it; null before it was told."
    )
    slots: int
    jobs: list[JobAtWork]
    started_at: datetime


class CheckpointAnswer(Answer):
    """What a process that asked at a checkpoint has to do."""

    hold: bool = Field(description="Wait here, and ask again.")
    mode: PauseMode | None = None
    reason: str | None = Field(default=None, description="The pause's reason.")
    version: int | None = None
