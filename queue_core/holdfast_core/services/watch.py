"""Keeps the gate's cache fresh, and watches over a pause while it lasts."""

from functools import partial
from typing import Final
from uuid import UUID

import structlog
from anyio import Event, sleep
from sqlalchemy import Connection

from holdfast_core.changes import ChangeBus, Hub
from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError
from holdfast_core.gate import GateCache
from holdfast_core.schemas import System
from holdfast_core.services.counters import Counters
from holdfast_core.services.waiters import Waiters
from holdfast_core.store.logs import Line, append, hold
from holdfast_core.store.metrics import Stale, stale_jobs, violations
from holdfast_core.store.pause import read_system

__all__ = ["PauseWatch"]

log = structlog.get_logger(__name__)

#: The poll behind the announcements: a stale "paused" lasts no longer than this and one read.
REFRESH_SECONDS: Final = 0.5
#: How often a pause is looked over for leases that ran out and for claims that should not be.
INSPECT_SECONDS: Final = 2.0


class PauseWatch:
    """What every process knows of the pause."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        cache: GateCache,
        waiters: Waiters,
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._cache = cache
        self._counters = counters
        self._waiters = waiters
        self._clock = clock
        #: Running jobs that were claimed though paused, at the last inspection: none, always.
        self.violations = 0
        self._named: set[tuple[UUID, int]] = set()
        self._news = Event()
        self._looked_at = float("-inf")

    @property
    def hub(self) -> Hub:
        """The announcements of this process."""
        return self._bus.hub

    @property
    def known_version(self) -> int | None:
        """The version of the pause that this process knows; None before its first look."""
        return None if self._cache.system is None else self._cache.system.version

    @property
    def paused(self) -> System | None:
        """The pause as far as this process knows of one."""
        return self._cache.paused()

    async def changed(self, since: int | None) -> System:
        """The pause, as soon as this process knows of another version than `since`."""
        while self._cache.system is None or self._cache.system.version == since:
            await self._news.wait()
        return self._cache.system

    async def recent(self, seconds: float) -> System:
        """The pause as the database had it within so many seconds: from memory, or else by a look. Raises
        StoreUnavailable."""
        if self._cache.system is not None and self._clock.monotonic() - self._looked_at <= seconds:
            return self._cache.system
        return await self.refresh()

    def learn(self, system: System, *, asked_at: float) -> None:
        """Take in a `system` from the database; a pause answers every claim that waits."""
        self._looked_at = max(self._looked_at, asked_at)
        if self._cache.learn(system, asked_at=asked_at):
            log.info(
                "pause_seen",
                pause_version=system.version,
                paused=system.workers_paused,
                mode=system.mode,
                reason=system.reason,
            )
            if system.workers_paused:
                self._waiters.wake_all()
            news, self._news = self._news, Event()
            news.set()

    async def refresh(self) -> System:
        """Read the pause and take it in."""
        asked_at = self._clock.monotonic()
        system = await self._database.read(read_system)
        self.learn(system, asked_at=asked_at)
        return system

    async def run(self) -> None:
        """Refresh at each announcement, and anyway now and then, until cancelled."""
        with self._bus.hub.subscribe("system") as changes:
            while True:
                try:
                    await self.refresh()
                except HoldfastError as error:
                    log.warning("pause_not_refreshed", cause=error.detail)
                    await sleep(REFRESH_SECONDS)
                await changes.wait(REFRESH_SECONDS)

    async def inspect(self) -> int:
        """While paused: name each lease that has run out, once, and count broken promises (none, always)."""
        if self._cache.paused() is None:
            self._named.clear()
            self.violations = 0
            return 0
        stale, broken = await self._database.read(lambda c: (stale_jobs(c), violations(c)))
        for job in stale:
            if (job.id, job.claim_number) not in self._named:
                if await self._database.write(partial(_announce, job=job)):
                    self._bus.announce("logs")
                    self._counters.add("leases_expired_while_paused")
                    log.warning(
                        "lease_expired_while_paused",
                        job_id=str(job.id),
                        worker_id=job.claimed_by,
                        pause_version=self.known_version,
                        lease_expires_at=job.lease_expires_at.isoformat(),
                    )
                self._named.add((job.id, job.claim_number))
        self.violations = broken
        if broken:
            log.error("pause_violated", pause_version=self.known_version, jobs=broken)
        return broken

    async def run_inspection(self) -> None:
        """Inspect now and then, until cancelled."""
        while True:
            await sleep(INSPECT_SECONDS)
            try:
                await self.inspect()
            except HoldfastError as error:
                log.warning("pause_not_inspected", cause=error.detail)


def _announce(connection: Connection, *, job: Stale) -> bool:
    """Write into the job's log that its lease has run out, once for each claim, whichever process sees it first."""
    row = hold(connection, job.id)
    if row is None or row.claim_number != job.claim_number or row.lease_expires_at != job.lease_expires_at:
        return False  # it has been heard of since
    line = Line(
        "warn",
        f"The lease of worker {job.claimed_by} ran out while the system is paused. Nothing is done about it until"
        " the resume; holdfast requeue puts the job back at once.",
        notice=f"lease_expired {job.claim_number}",
    )
    return append(connection, job.id, line) is not None
