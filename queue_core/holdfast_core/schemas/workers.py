"""Workers: their presence and the fleet view (CONTRACT section 4)."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from holdfast_core.schemas.base import Answer, Capabilities, Name, ShortText, Version, WorkerRequest
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
    types: Annotated[list[Name], Field(max_length=64)] | None = None
    slots: Annotated[int, Field(ge=1, le=1_024)] | None = None
    runtime: ShortText | None = None
    version: ShortText | None = None


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
    types: list[str] | None = Field(
        default=None, description="The types that it takes; null: any, or unknown."
    )
    slots: int | None = Field(default=None, description="Jobs that it runs at once, at most.")
    runtime: str | None = None
    version: str | None = Field(default=None, description="Of the worker itself, as it says.")


class WorkerList(Answer):
    """All workers that are known, in the order of their ids."""

    items: list[WorkerView]
