"""Records the last days by the minute: one row a minute, whichever process is first."""

from datetime import timedelta
from typing import Final

import structlog
from anyio import sleep
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import MetricsHistory, MetricsHistoryQuery, MinuteMetrics
from holdfast_core.store import history as store
from holdfast_core.store.metrics import backlog, database_time, system_and_in_flight

__all__ = ["HistoryService"]

log = structlog.get_logger(__name__)

#: How often to look whether a minute has gone by.
LOOK_SECONDS: Final = 5.0
MINUTE: Final = timedelta(minutes=1)


class HistoryService:
    """The last days by the minute."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def history(self, caller: Caller, query: MetricsHistoryQuery) -> MetricsHistory:
        """The last minutes, oldest first."""
        admit(caller, Permission.LOOK, "see the last hours")

        def reading(connection: Connection) -> list[MinuteMetrics]:
            after = database_time(connection) - MINUTE * (query.minutes + 1)
            return store.minutes(connection, after=after)

        return MetricsHistory(items=await self._database.read(reading))

    async def record(self) -> bool:
        """Write down the minute that has gone by, unless somebody has. Returns whether this call did."""

        def measuring(connection: Connection) -> MinuteMetrics | None:
            minute = database_time(connection).replace(second=0, microsecond=0) - MINUTE
            if store.is_recorded(connection, minute):
                return None
            system, running = system_and_in_flight(connection)
            waiting = backlog(connection)
            return MinuteMetrics(
                minute=minute,
                workers_paused=system.workers_paused,
                queued=waiting.queued,
                scheduled=waiting.scheduled,
                running=running.running,
                parked=running.parked,
                stale_running=running.stale,
                oldest_queued_seconds=waiting.oldest_seconds,
                **store.ended(connection, minute),
            )

        found = await self._database.read(measuring)
        if found is None:
            return False
        await self._database.write(lambda connection: store.record(connection, found))
        return True

    async def run(self) -> None:
        """Record each minute, until cancelled."""
        while True:
            try:
                await self.record()
            except HoldfastError as error:
                log.warning("metrics_not_recorded", cause=error.detail)
            await sleep(LOOK_SECONDS)
