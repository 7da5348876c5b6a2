"""Push sessions: a worker and the server tell each other what happens, when it happens (CONTRACT section 6).

The edge hands in what comes over the wire and sends what is in `outgoing`, in that order. Whatever a frame asks for is
done by the services that REST calls, too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from anyio import create_memory_object_stream, create_task_group, sleep
from anyio.streams.memory import MemoryObjectReceiveStream

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError, Unavailable
from holdfast_core.ids import uuid7
from holdfast_core.schemas import ControlEvent, System
from holdfast_core.schemas.sessions import SESSION_SUPERSEDED, CancelFrame
from holdfast_core.services.claims import ClaimService
from holdfast_core.services.counters import Counters
from holdfast_core.services.feed import system_after
from holdfast_core.services.leases import LeaseService, OutcomeService
from holdfast_core.services.logs import LogService
from holdfast_core.services.presence import Presence
from holdfast_core.services.session import Closed, Outgoing, Session
from holdfast_core.services.tokens import hash_token
from holdfast_core.services.watch import PauseWatch
from holdfast_core.store import sessions as store

__all__ = ["SessionService"]

log = structlog.get_logger(__name__)

#: Sessions of one process.
MAX_SESSIONS: Final = 5_000
#: Frames that wait to be sent to one worker. One that reads more slowly is closed, and comes back for a fresh start.
MAX_OUTGOING: Final = 256
#: The poll behind the announcements.
POLL_SECONDS: Final = 5.0
#: The least time between two looks, so that a burst of announcements costs no more.
REST_SECONDS: Final = 0.05


class SessionService:
    """The push sessions of this process."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        watch: PauseWatch,
        claims: ClaimService,
        leases: LeaseService,
        outcomes: OutcomeService,
        logs: LogService,
        presence: Presence,
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._watch = watch
        self._claims = claims
        self._leases = leases
        self._outcomes = outcomes
        self._logs = logs
        self._presence = presence
        self._counters = counters
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._told: System | None = None
        self._avoided: dict[tuple[str, UUID], float] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @asynccontextmanager
    async def open(
        self, caller: Caller, worker_id: str
    ) -> AsyncGenerator[tuple[Session, MemoryObjectReceiveStream[Outgoing]]]:
        """A session, and what is to be sent in it; a Closed is the last. Raises Unavailable where there are too many.

        At its end offers that were not accepted go back; accepted jobs keep their leases.
        """
        if len(self._sessions) >= MAX_SESSIONS:
            raise Unavailable(f"{MAX_SESSIONS} sessions are open here already. Use REST, or try again later.")
        sending, receiving = create_memory_object_stream[Outgoing](MAX_OUTGOING)
        session = Session(
            caller,
            worker_id,
            claims=self._claims,
            leases=self._leases,
            outcomes=self._outcomes,
            logs=self._logs,
            presence=self._presence,
            counters=self._counters,
            clock=self._clock,
            avoided=self._avoided,
            sending=sending,
            begin=self._begin,
        )
        try:
            async with create_task_group() as tasks:
                session.offers.tasks = tasks
                tasks.start_soon(session.offers.run)
                try:
                    yield session, receiving
                finally:
                    session.over = True
                    tasks.cancel_scope.cancel()
        finally:
            sending.close()
            receiving.close()
            if self._sessions.get(worker_id) is session:
                del self._sessions[worker_id]

    async def _begin(self, session: Session) -> System:
        """The session has said hello: it is the worker's one from now on. Returns the pause as the database has it."""
        session.id = uuid7()
        await self._database.write(lambda c: store.write_session(c, session.worker_id, session.id))
        older = self._sessions.get(session.worker_id)
        self._sessions[session.worker_id] = session
        if older is not None and older is not session:
            _supersede(older)
        self._bus.announce("sessions")
        system = await self._watch.refresh()
        # What all sessions have been told meanwhile may be newer, and this one was not among them yet.
        return max((one for one in (system, self._told) if one is not None), key=lambda one: one.version)

    # What happens beside the sessions

    async def run_system(self) -> None:
        """Tell every session of each version, once and in order, until cancelled."""
        while True:
            told = self._told
            system = await self._watch.changed(-1 if told is None else told.version)
            # The database has lost commits that it had acknowledged (see GateCache): its word counts nevertheless.
            fell = told is not None and system.version < told.version
            for one in await self._between(told, system):
                self._told = one
                for session in list(self._sessions.values()):
                    session.tell(one, fell=fell)

    async def _between(self, told: System | None, system: System) -> list[System]:
        """The versions above the one that was told, up to this."""
        if told is None or system.version <= told.version + 1:
            return [system]

        low, high = told.version, system.version
        try:
            events: list[ControlEvent] = await self._database.read(
                lambda c: store.changes_between(c, low, high)
            )
        except HoldfastError as error:
            log.warning("versions_passed_over", cause=error.detail)
            return [system]
        found: list[System] = []
        for event in events:
            told = system_after(told, event)
            found.append(told)
        return [*found, system]

    async def run_cancels(self) -> None:
        """Tell of jobs that somebody wants to be cancelled, until cancelled."""
        with self._bus.hub.subscribe("running") as changes:
            while True:
                held = {job: session for session in self._sessions.values() for job in session.held}
                if held:
                    await self._tell_cancels(held)
                await changes.wait(POLL_SECONDS)
                await sleep(REST_SECONDS)

    async def _tell_cancels(self, held: dict[UUID, Session]) -> None:
        try:
            asked = await self._database.read(lambda c: store.cancelled_among(c, held))
        except HoldfastError as error:
            log.warning("cancels_not_read", cause=error.detail)
            return
        for job_id, (token_hash, reason) in asked.items():
            token = held[job_id].held.get(job_id)
            if token is not None and hash_token(token) == token_hash:
                held[job_id].tell_cancel(CancelFrame(job_id=job_id, lease_token=token, reason=reason))

    async def run_superseded(self) -> None:
        """Close the sessions whose workers have opened another, in whichever process, until cancelled."""
        with self._bus.hub.subscribe("sessions") as changes:
            while True:
                ours = {worker: session for worker, session in self._sessions.items() if not session.over}
                if ours:
                    try:
                        latest = await self._database.read(
                            partial(store.latest_sessions, worker_ids=list(ours))
                        )
                    except HoldfastError as error:
                        log.warning("sessions_not_read", cause=error.detail)
                    else:
                        for worker, session in ours.items():
                            if latest.get(worker, session.id) != session.id:
                                _supersede(session)
                await changes.wait(POLL_SECONDS)
                await sleep(REST_SECONDS)


def _supersede(session: Session) -> None:
    session.close(Closed(SESSION_SUPERSEDED, "another session was opened under this worker id"))
