"""What the server does to jobs by itself beside the sweep: scheduled ones become ready, old ones are removed.

Both pass the gate, so neither happens while paused.
"""

from functools import partial
from typing import Final

import structlog
from anyio import sleep

from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import HoldfastError
from holdfast_core.gate import GateCache
from holdfast_core.services.artifacts import ArtifactService
from holdfast_core.settings import Settings
from holdfast_core.store import upkeep as store
from holdfast_core.store.artifacts import ids_of
from holdfast_core.store.keys import remove_old_keys

__all__ = ["Upkeep"]

log = structlog.get_logger(__name__)

#: How late a scheduled job may be handed out, in seconds.
PROMOTE_SECONDS: Final = 0.25
#: How often old jobs and keys are looked for.
REMOVE_SECONDS: Final = 60.0
DAY_SECONDS: Final = 86_400.0


class Upkeep:
    """The upkeep of one process; several may run, they pass over each other's rows."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        cache: GateCache,
        artifacts: ArtifactService,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._artifacts = artifacts
        self._settings = settings
        self._clock = clock

    async def promote(self) -> int:
        """Make scheduled jobs ready whose time has come. Returns how many."""
        if self._cache.paused() is not None or not await self._database.read(store.any_due):
            return 0
        count = 0
        while True:
            promoted = await self._database.write(store.promote, lane=Lane.GATED)
            count += promoted
            if promoted:
                self._bus.announce("jobs")
            if promoted < store.PROMOTE_BATCH:
                return count

    async def remove(self) -> int:
        """Delete jobs that finished longer ago than the settings keep them, with logs and artifacts. Returns how
        many."""
        if self._settings.retention_days is None or self._cache.paused() is not None:
            return 0
        age = self._settings.retention_days * DAY_SECONDS
        count = 0
        while True:
            removed = await self._remove_batch(age)
            count += removed
            if removed < store.REMOVE_BATCH:
                break
        if count:
            log.info("old_jobs_removed", count=count, days=self._settings.retention_days)
        return count

    async def _remove_batch(self, age: float) -> int:
        old = await self._database.read(lambda connection: store.old(connection, age_seconds=age))
        if not old:
            return 0
        files = await self._database.read(lambda connection: ids_of(connection, old))
        for job_id in await self._database.read(lambda connection: store.heavy(connection, old)):
            lighten = partial(store.lighten, job_id=job_id, age_seconds=age)
            while await self._database.write(lighten, lane=Lane.GATED):
                pass
        removed = await self._database.write(
            lambda connection: store.remove_old(connection, age_seconds=age, chosen=old), lane=Lane.GATED
        )
        await self._artifacts.remove_files([one for job_id in removed for one in files.get(job_id, [])])
        return len(removed)

    async def run(self) -> None:
        """Promote and remove now and then, until cancelled."""
        removed_at = float("-inf")
        while True:
            try:
                await self.promote()
                if self._clock.monotonic() - removed_at >= REMOVE_SECONDS:
                    removed_at = self._clock.monotonic()
                    await self.remove()
                    await self._database.write(remove_old_keys, lane=Lane.SINGLE)
            except HoldfastError as error:
                log.warning("upkeep_failed", cause=error.detail)
            await sleep(PROMOTE_SECONDS)
