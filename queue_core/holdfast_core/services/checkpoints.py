"""Warns operators of jobs that reach no checkpoint under quiesce (EDGE-04, NFR-003). Changes nothing else of them."""

from functools import partial
from typing import Final

import structlog
from anyio import sleep
from sqlalchemy import Connection

from holdfast_core.changes import ChangeBus
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError
from holdfast_core.gate import GateCache
from holdfast_core.services.counters import Counters
from holdfast_core.settings import Settings
from holdfast_core.states import JobPhase, PauseMode
from holdfast_core.store.checkpoints import Overdue, notice_of, overdue_jobs
from holdfast_core.store.logs import Line, append, hold

__all__ = ["CheckpointWatch"]

log = structlog.get_logger(__name__)

#: How often a quiesce is looked over.
INSPECT_SECONDS: Final = 2.0


class CheckpointWatch:
    """Looks over a quiesce that takes long."""

    def __init__(
        self, database: Database, bus: ChangeBus, cache: GateCache, counters: Counters, settings: Settings
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._counters = counters
        self._seconds = settings.checkpoint_timeout_seconds

    async def inspect(self) -> int:
        """Warn of each job that has not parked in time, once for each claim and version of the pause, whichever
        process sees it first. Returns of how many this one did."""
        paused = self._cache.paused()
        if paused is None or paused.mode is not PauseMode.QUIESCE:
            return 0
        overdue = await self._database.read(lambda c: overdue_jobs(c, self._seconds))
        warned = 0
        for job in overdue:
            if not await self._database.write(partial(_warn, job=job, seconds=self._seconds)):
                continue
            warned += 1
            self._bus.announce("logs")
            self._counters.add("checkpoint_timeouts")
            log.warning(
                "checkpoint_timeout",
                job_id=str(job.id),
                worker_id=job.claimed_by,
                pause_version=job.pause_version,
                checkpoint=job.checkpoint,
                timeout_seconds=self._seconds,
            )
        return warned

    async def run(self) -> None:
        """Inspect now and then, until cancelled."""
        while True:
            await sleep(INSPECT_SECONDS)
            try:
                await self.inspect()
            except HoldfastError as error:
                log.warning("quiesce_not_inspected", cause=error.detail)


def _warn(connection: Connection, *, job: Overdue, seconds: float) -> bool:
    row = hold(connection, job.id)
    if row is None or row.claim_number != job.claim_number or row.phase in {None, JobPhase.PARKED}:
        return False  # it has parked or ended since
    last = "no checkpoint" if job.checkpoint is None else f"no checkpoint after {job.checkpoint!r}"
    line = Line(
        "warn",
        f"Worker {job.claimed_by} has reached {last} within {seconds:g} s of quiesce (version {job.pause_version})."
        " The job goes on and keeps its lease; wait for it, or cancel it.",
        notice=notice_of(job),
    )
    return append(connection, job.id, line) is not None
