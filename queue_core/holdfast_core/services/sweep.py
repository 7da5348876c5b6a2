"""Puts back jobs whose worker stopped heartbeating. Passes the gate like a claim; never while paused."""

from typing import Final

import structlog
from anyio import sleep

from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import HoldfastError
from holdfast_core.gate import GateCache
from holdfast_core.services.counters import Counters
from holdfast_core.services.spans import span
from holdfast_core.settings import Settings
from holdfast_core.store import upkeep as store

__all__ = ["Sweeper"]

log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 1.0
#: A round that comes this late says that the process itself was held up, and its clients with it.
HELD_UP_SECONDS: Final = 5.0


class Sweeper:
    """The sweep of one process; several may run, they pass over each other's rows.

    It holds off for the grace not only after a resume (the statement itself looks at that), but also after
    this process has come back: from a start, from an outage of the database, from being stopped. Workers
    that were held up by the same maintenance then heartbeat first.
    """

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        cache: GateCache,
        counters: Counters,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._counters = counters
        self._settings = settings
        self._clock = clock
        self._back_since: float | None = None
        self._last_round = float("-inf")
        #: Of the whole process: heartbeats may have failed though the sweep itself could read.
        self._outages = 0

    async def sweep(self) -> int:
        """One round; how many jobs were put back."""
        now = self._clock.monotonic()
        if now - self._last_round > HELD_UP_SECONDS or self._outages != self._database.outages:
            self._back_since = None
            self._outages = self._database.outages
        self._last_round = now
        if self._cache.paused() is not None:
            return 0
        found = await self._database.read(store.any_expired)
        if self._back_since is None:
            self._back_since = now
        if not found or now - self._back_since < self._settings.lease_grace_seconds:
            return 0
        count = 0
        with span("holdfast.sweep") as told:
            while True:
                swept = await self._database.write(
                    lambda connection: store.sweep(
                        connection,
                        grace_seconds=self._settings.lease_grace_seconds,
                        delay_seconds=self._settings.lease_retry_delay_seconds,
                    ),
                    lane=Lane.GATED,
                )
                for job in swept:
                    self._counters.ended(job.status)
                    log.warning("lease_expired", job_id=str(job.id), status=job.status, attempt=job.attempt)
                count += len(swept)
                if len(swept) < store.SWEEP_BATCH:
                    break
            told.set_attribute("holdfast.jobs", count)
        if count:
            self._counters.add("leases_expired", count)
            self._bus.announce("jobs")
        return count

    async def run(self) -> None:
        """A round now and then, until cancelled."""
        while True:
            try:
                await self.sweep()
            except HoldfastError as error:
                self._back_since = None
                log.warning("sweep_failed", cause=error.detail)
            await sleep(SWEEP_SECONDS)
