"""What operators look at beside the snapshot: what keeps a drain from its end, and the last hours."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from holdfast_core.schemas.base import Answer, Query
from holdfast_core.schemas.system import System
from holdfast_core.states import JobPhase

__all__ = ["Blocker", "BlockerList", "MetricsHistory", "MetricsHistoryQuery", "MinuteMetrics", "Verdict"]

#: `stale`: nobody heartbeats. `parked`: waits at a checkpoint. `slow`: heartbeats, but has reported nothing
#: for a while. `progressing`: the rest.
Verdict = Literal["progressing", "slow", "parked", "stale"]


class Blocker(Answer):
    """One running or stale job: it keeps the system from drained."""

    job_id: UUID
    type: str
    worker_id: str
    verdict: Verdict
    advice: str = Field(description="What it is waiting for, and the way out.")
    attempt: int
    phase: JobPhase
    started_at: datetime
    age_seconds: float = Field(description="Since its claim.")
    last_heartbeat_at: datetime
    lease_expires_at: datetime
    checkpoint: str | None = Field(default=None, description="The last one that was reported.")
    progressed_at: datetime = Field(description="When it last reported a checkpoint, a phase or progress.")
    cancel_requested_at: datetime | None = None


class BlockerList(Answer):
    """What keeps the system from drained: stale jobs first, then the oldest; `total` counts all of them."""

    system: System
    items: list[Blocker]
    total: int


class MinuteMetrics(Answer):
    """One minute. The counts of jobs are those at its end; what ended is counted over it."""

    minute: datetime
    workers_paused: bool
    queued: int
    scheduled: int
    running: int
    parked: int
    stale_running: int
    oldest_queued_seconds: float | None
    succeeded: int
    failed: int
    cancelled: int
    dead_letter: int


class MetricsHistory(Answer):
    """The last minutes, oldest first; minutes in which no server ran are missing."""

    items: list[MinuteMetrics]


class MetricsHistoryQuery(Query):
    """How far back."""

    minutes: int = Field(default=60, ge=1, le=1_440)
