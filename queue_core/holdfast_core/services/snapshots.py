"""The snapshot: pause, counts, workers and the newest events, as status, pause, resume and wait answer it."""

from typing import Final

import structlog
from anyio import Lock, sleep
from sqlalchemy import Connection

from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import Audit, Metrics, Snapshot, System
from holdfast_core.services.watch import PauseWatch
from holdfast_core.states import PauseMode
from holdfast_core.store import metrics
from holdfast_core.store.metrics import Backlog, InFlight
from holdfast_core.store.pause import latest_events

__all__ = ["Snapshots", "is_parked", "is_safe"]

log = structlog.get_logger(__name__)

#: A backlog may be this old (CONTRACT section 2).
BACKLOG_AGE_SECONDS: Final = 2.0
#: Cheap counts are made anew for each who asks, within this part of the time.
BACKLOG_SHARE: Final = 0.02
CHEAP_SECONDS: Final = 0.005
#: Dear ones are made behind those who ask: so often, for so long after somebody has asked.
COUNT_EVERY_SECONDS: Final = 1.0
ASKED_SECONDS: Final = 30.0


def is_parked(system: System, in_flight: InFlight) -> bool:
    """Whether all that runs is parked under a quiesce."""
    return system.mode is PauseMode.QUIESCE and in_flight.running == in_flight.parked and in_flight.stale == 0


def is_safe(system: System, in_flight: InFlight) -> bool:
    """Whether it is safe to upgrade: paused, nothing running, nothing stale."""
    return system.workers_paused and in_flight.drained


class Snapshots:
    """Makes snapshots from the store."""

    def __init__(self, database: Database, watch: PauseWatch, clock: Clock) -> None:
        self._database = database
        self._watch = watch
        self._clock = clock
        self._backlog: Backlog | None = None
        self._counted_at = float("-inf")
        self._asked_at = float("-inf")
        self._cost = 0.0
        self._counting = Lock()
        self._recent: Snapshot | None = None
        self._taken_at = float("-inf")
        self._taking = Lock()

    async def in_flight(self) -> tuple[System, InFlight]:
        """The pause and what runs, from one snapshot of the database."""
        asked_at = self._clock.monotonic()
        system, in_flight = await self._database.read(metrics.system_and_in_flight)
        self._watch.learn(system, asked_at=asked_at)
        return system, in_flight

    async def take(self) -> Snapshot:
        """The whole of it. Raises StoreUnavailable: an error, never zeros."""
        backlog = await self._fresh_backlog()
        asked_at = self._clock.monotonic()

        def reading(connection: Connection) -> Snapshot:
            system, in_flight, fleet = metrics.look(connection)
            return Snapshot(
                system=system,
                metrics=Metrics(
                    queued=backlog.queued,
                    scheduled=backlog.scheduled,
                    running=in_flight.running,
                    parked=in_flight.parked,
                    stale_running=in_flight.stale,
                    is_drained=in_flight.drained,
                    is_parked=is_parked(system, in_flight),
                    safe_to_upgrade=is_safe(system, in_flight),
                    oldest_queued_seconds=backlog.oldest_seconds,
                    measured_at=backlog.measured_at,
                ),
                workers=fleet,
                audit=Audit(latest=latest_events(connection)),
            )

        snapshot = await self._database.read(reading)
        self._watch.learn(snapshot.system, asked_at=asked_at)
        return snapshot

    async def recent(self, seconds: float) -> Snapshot:
        """A snapshot that is no older than this; who asks at the same time shares it."""
        async with self._taking:
            asked_at = self._clock.monotonic()
            if self._recent is None or asked_at - self._taken_at >= seconds:
                self._recent = await self.take()
                self._taken_at = asked_at  # only now: of a look that failed nothing is kept
            return self._recent

    async def run(self) -> None:
        """Count what waits for those who go on asking, so that no answer has to wait for it, until cancelled."""
        while True:
            await sleep(COUNT_EVERY_SECONDS / 2)
            now = self._clock.monotonic()
            if now - self._asked_at < ASKED_SECONDS and now - self._counted_at >= COUNT_EVERY_SECONDS:
                try:
                    await self._count(older_than=COUNT_EVERY_SECONDS)
                except HoldfastError as error:
                    log.warning("backlog_not_counted", cause=error.detail)

    async def _fresh_backlog(self) -> Backlog:
        self._asked_at = self._clock.monotonic()
        # A count that costs little is made anew for each who asks.
        is_cheap = self._cost < CHEAP_SECONDS
        return await self._count(
            older_than=min(BACKLOG_AGE_SECONDS, self._cost / BACKLOG_SHARE)
            if is_cheap
            else BACKLOG_AGE_SECONDS
        )

    async def _count(self, *, older_than: float) -> Backlog:
        async with self._counting:  # who comes while somebody counts gets that count
            now = self._clock.monotonic()
            if self._backlog is None or now - self._counted_at > older_than:
                self._backlog = await self._database.read(metrics.backlog)
                self._counted_at = self._clock.monotonic()
                self._cost = self._counted_at - now
            return self._backlog
