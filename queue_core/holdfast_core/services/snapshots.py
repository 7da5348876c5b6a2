"""The snapshot: pause, counts, workers and the newest events, as status, pause, resume and wait answer it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from anyio import Event, Lock, sleep
from sqlalchemy import Connection

from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import Audit, ControlEvent, Metrics, Snapshot, System, WorkerCounts
from holdfast_core.services.watch import PauseWatch
from holdfast_core.states import PauseMode
from holdfast_core.store import metrics
from holdfast_core.store.metrics import Backlog, InFlight
from holdfast_core.store.pause import latest_events

__all__ = ["Look", "Snapshots", "is_parked", "is_safe", "look_around"]

#: A backlog may be this old (CONTRACT section 2).
BACKLOG_AGE_SECONDS: Final = 2.0
#: Counting may take this part of the time: cheap counts are always fresh, dear ones are shared.
BACKLOG_SHARE: Final = 0.02
#: A count that takes longer is dear: while somebody asks it is made ahead, so that nobody waits for it.
DEAR_SECONDS: Final = 0.005
#: How long before a count is too old the next one should be there.
SPARE_SECONDS: Final = 0.1


def is_parked(system: System, in_flight: InFlight) -> bool:
    """Whether all that runs is parked under a quiesce."""
    return system.mode is PauseMode.QUIESCE and in_flight.running == in_flight.parked and in_flight.stale == 0


def is_safe(system: System, in_flight: InFlight) -> bool:
    """Whether it is safe to upgrade: paused, nothing running, nothing stale."""
    return system.workers_paused and in_flight.drained


@dataclass(frozen=True, slots=True)
class Look:
    """What a snapshot shows beside the backlog, all as of one moment."""

    system: System
    in_flight: InFlight
    workers: WorkerCounts
    latest: list[ControlEvent]


def look_around(connection: Connection) -> Look:
    """All but the backlog, which takes longer to count."""
    return Look(*metrics.look(connection), latest_events(connection))


def _snapshot(look: Look, backlog: Backlog) -> Snapshot:
    system, in_flight = look.system, look.in_flight
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
        workers=look.workers,
        audit=Audit(latest=look.latest),
    )


class Snapshots:
    """Makes snapshots from the store."""

    def __init__(self, database: Database, watch: PauseWatch, clock: Clock) -> None:
        self._database = database
        self._watch = watch
        self._clock = clock
        self._backlog: Backlog | None = None
        self._counted_at = float("-inf")
        self._cost = 0.0
        self._counting = Lock()
        self._asked = Event()
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
        look = await self._database.read(look_around)
        self._watch.learn(look.system, asked_at=asked_at)
        return _snapshot(look, backlog)

    async def with_backlog(self, look: Look) -> Snapshot:
        """The whole of it around what was seen just now. Raises StoreUnavailable."""
        return _snapshot(look, await self._fresh_backlog())

    async def count_ahead(self) -> None:
        """See to it that what waits has been counted by the time that somebody asks. Raises StoreUnavailable."""
        await self._fresh_backlog()

    async def recent(self, seconds: float) -> Snapshot:
        """A snapshot that is no older than this; who asks at the same time shares it."""
        async with self._taking:
            asked_at = self._clock.monotonic()
            if self._recent is None or asked_at - self._taken_at >= seconds:
                self._recent = await self.take()
                self._taken_at = asked_at  # only now: of a look that failed nothing is kept
            return self._recent

    async def run(self) -> None:
        """Count ahead, for good: after each look at a dear count once, shortly before that one is too old."""
        while True:
            await self._asked.wait()
            self._asked = Event()
            most, last = self._most_age(), self._counted_at
            begin = max(most / 2, most - 2 * self._cost - SPARE_SECONDS)
            await sleep(max(0.0, begin - self._age()))
            async with self._counting:
                if self._counted_at == last:  # else somebody who found it too old was here first
                    with suppress(StoreUnavailable):  # who asks is told
                        await self._count()

    async def _fresh_backlog(self) -> Backlog:
        if self._backlog is None or self._age() > self._most_age():
            async with self._counting:  # who comes while somebody counts gets that count
                if self._backlog is None or self._age() > self._most_age():
                    await self._count()
        assert self._backlog is not None
        if self._cost > DEAR_SECONDS:
            self._asked.set()
        return self._backlog

    def _age(self) -> float:
        return self._clock.monotonic() - self._counted_at

    def _most_age(self) -> float:
        return min(BACKLOG_AGE_SECONDS, self._cost / BACKLOG_SHARE)

    async def _count(self) -> None:
        begun_at = self._clock.monotonic()
        self._backlog = await self._database.read(metrics.backlog)
        self._counted_at = self._clock.monotonic()
        self._cost = self._counted_at - begun_at
