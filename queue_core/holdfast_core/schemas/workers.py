"""Workers: their presence and the fleet view (CONTRACT section 4)."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from holdfast_core.schemas.base import Answer, Capabilities, Name, Version, WorkerRequest
from holdfast_core.schemas.system import System
from holdfast_core.states import WorkerState

__all__ = ["PresenceAnswer", "PresenceRequest", "Transport", "WorkerList", "WorkerView"]

Transport = Literal["rest", "mcp", "ws"]


class PresenceRequest(WorkerRequest):
    """An idle or locally paused worker says that it is there."""

    worker_id: Name
    auto_enabled: bool
    worker_capabilities: Capabilities | None = None
    observed_version: Version | None = None


class PresenceAnswer(Answer):
    """What a worker needs to know back."""

    system: System


class WorkerView(Answer):
    """One worker of the fleet."""

    id: str
    capabilities: list[str]
    transport: Transport
    auto_enabled: bool
    state: WorkerState
    jobs: list[UUID]
    last_seen_at: datetime
    observed_version: int | None = Field(
        default=None, description="The newest version that it is known to have seen."
    )


class WorkerList(Answer):
    """All workers that are known, in the order of their ids."""

    items: list[WorkerView]
