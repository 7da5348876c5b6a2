"""What keeps the system from drained, with a verdict on each job and the way out (CONTRACT section 4)."""

from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import Connection, Row

from holdfast_core.callers import Caller
from holdfast_core.db import Database
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import Blocker, BlockerList, System, Verdict
from holdfast_core.settings import Settings
from holdfast_core.states import JobPhase, PauseMode
from holdfast_core.store.blockers import running_jobs
from holdfast_core.store.metrics import system_and_in_flight

__all__ = ["BlockerService"]


class BlockerService:
    """Looks at what runs."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def list(self, caller: Caller) -> BlockerList:
        """Each running or stale job: stale ones first, then those that run longest; at most 500 are named."""
        admit(caller, Permission.LOOK, "see what runs")

        def reading(connection: Connection) -> BlockerList:
            system, counts = system_and_in_flight(connection)
            items = [self._blocker(row, row.now, system) for row in running_jobs(connection)]
            return BlockerList(
                system=system, items=items, total=max(len(items), counts.running + counts.stale)
            )

        return await self._database.read(reading)

    def _blocker(self, row: Row[Any], now: datetime, system: System) -> Blocker:
        verdict = self._verdict(row, now)
        return Blocker(
            job_id=row.id,
            type=row.type,
            worker_id=row.claimed_by,
            verdict=verdict,
            advice=_advice(verdict, row, system),
            attempt=row.attempt,
            phase=JobPhase(row.phase),
            started_at=row.started_at,
            age_seconds=max(0.0, (now - row.started_at).total_seconds()),
            last_heartbeat_at=row.heartbeat_at,
            lease_expires_at=row.lease_expires_at,
            checkpoint=row.checkpoint,
            progressed_at=row.progressed_at,
            cancel_requested_at=row.cancel_requested_at,
        )

    def _verdict(self, row: Row[Any], now: datetime) -> Verdict:
        if row.lease_expires_at <= now:
            return "stale"
        if row.phase == JobPhase.PARKED:
            return "parked"
        silent = (now - row.progressed_at).total_seconds()
        return "slow" if silent > self._settings.checkpoint_timeout_seconds else "progressing"


def _advice(verdict: Verdict, row: Row[Any], system: System) -> str:
    """What to do about it, for an operator."""
    match verdict:
        case "stale":
            return (
                f"Worker {row.claimed_by} stopped heartbeating. If it does not come back, put the job back:"
                f" holdfast requeue {row.id}"
            )
        case "parked":
            if system.mode is PauseMode.QUIESCE:
                return "Waits at a checkpoint, and goes on after the resume."
            return "Waits at a checkpoint. It goes on once its worker has heard that no quiesce is on."
        case "slow":
            if row.cancel_requested_at is not None:
                return (
                    f"Heartbeats, but has not stopped since its cancellation was asked for: look at worker"
                    f" {row.claimed_by}."
                )
            return (
                f"Heartbeats, but has reported nothing for a while: look at worker {row.claimed_by}, or ask it to"
                f" stop: holdfast cancel {row.id}"
            )
        case "progressing":
            return "Is at work. Wait for it."
        case _:
            assert_never(verdict)
