"""The logs of jobs: workers add to them, people read and follow them (CONTRACT section 4)."""

from collections.abc import AsyncGenerator
from typing import Final

from anyio import sleep
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.db import Database
from holdfast_core.errors import JobNotFound, JobStateConflict
from holdfast_core.policy import Permission, admit, admit_worker
from holdfast_core.schemas import MAX_PAGE, Job, JobEvent, JobEventPage, JobEventQuery, LogRequest
from holdfast_core.services.holders import may_add
from holdfast_core.services.jobs import job_uuid
from holdfast_core.services.presence import Presence
from holdfast_core.services.tokens import fence
from holdfast_core.settings import Settings
from holdfast_core.states import TERMINAL
from holdfast_core.store import logs as store
from holdfast_core.store.jobs import find, job_from

__all__ = ["LogService"]

#: The poll behind the announcements while somebody follows a log, in seconds.
FOLLOW_POLL: Final = 1.0
#: The least time between two looks, so that a flood of lines costs no more.
FOLLOW_REST: Final = 0.05


class LogService:
    """Adds to logs, and reads them."""

    def __init__(self, database: Database, bus: ChangeBus, presence: Presence, settings: Settings) -> None:
        self._database = database
        self._bus = bus
        self._presence = presence
        self._settings = settings

    async def append(self, caller: Caller, job_id: str, request: LogRequest) -> JobEvent:
        """Add one event, as the job's holder, or as who has just ended its claim.

        Raises JobNotFound, JobNotOwned, LeaseLost, or JobStateConflict where the log is full.
        """
        admit_worker(caller, request.worker_id, "add to logs")
        found = job_uuid(job_id)
        token_hash = fence(self._settings, request.lease_token)
        self._presence.seen(request.worker_id, None)

        def work(connection: Connection) -> JobEvent:
            may_add(store.hold(connection, found), found, request.worker_id, token_hash)
            if store.length(connection, found) >= store.MAX_EVENTS:
                raise JobStateConflict(
                    f"The job's log is full: it has {store.MAX_EVENTS:,} events. Upload the rest as an artifact."
                )
            line = store.Line(request.level, request.message, request.worker_id, request.payload)
            event = store.append(connection, found, line)
            assert event is not None
            return event

        event = await self._database.write(work)
        self._bus.announce("logs")
        return event

    async def page(self, caller: Caller, job_id: str, query: JobEventQuery) -> JobEventPage:
        """A page of a job's log, oldest first. Raises JobNotFound."""
        admit(caller, Permission.LOOK, "read logs")
        found = job_uuid(job_id)

        def reading(connection: Connection) -> list[JobEvent]:
            if find(connection, found) is None:
                raise JobNotFound(f"No job has the id {found}.")
            return store.page(connection, found, after=query.after, limit=query.limit)

        items = await self._database.read(reading)
        return JobEventPage(items=items, next_after=items[-1].sequence if items else query.after)

    async def follow(
        self, caller: Caller, job_id: str, *, after: int = 0
    ) -> AsyncGenerator[list[JobEvent] | Job]:
        """The events behind `after` as they come, some at a time (at first maybe none); at the end the job, once it
        has ended and all is said. Raises JobNotFound, also where the job is removed meanwhile."""
        admit(caller, Permission.LOOK, "read logs")
        found = job_uuid(job_id)

        def reading(connection: Connection) -> tuple[Job, list[JobEvent]]:
            # The job first: what is in the log when it has ended is then all there.
            row = find(connection, found)
            if row is None:
                raise JobNotFound(f"No job has the id {found}.")
            return job_from(row), store.page(connection, found, after=after, limit=MAX_PAGE)

        with self._bus.hub.subscribe("logs") as changes:
            first = True
            while True:
                job, events = await self._database.read(reading)
                if events or first:
                    first = False
                    after = events[-1].sequence if events else after
                    yield events
                elif job.status in TERMINAL:
                    yield job
                    return
                else:
                    await changes.wait(FOLLOW_POLL)
                await sleep(FOLLOW_REST)
