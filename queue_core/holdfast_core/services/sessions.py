"""Push sessions: a worker and the server tell each other what happens, when it happens (CONTRACT section 6).

    an edge ── text frames ──> Session ──> Offers ──> ClaimService         the gate
            <── Outbox ───────    │  └───> Holding ─> LeaseService, …      what REST calls, too
                                  └ told by SessionWatch: the pause, cancellations, an end from elsewhere

The edge hands in what comes over the wire and sends what the outbox gives, in that order. It knows no rule.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from anyio import Lock, create_task_group

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import Unavailable
from holdfast_core.ids import uuid7
from holdfast_core.policy import admit_worker
from holdfast_core.schemas import System
from holdfast_core.services.claims import ClaimService
from holdfast_core.services.counters import Counters
from holdfast_core.services.handbacks import HandBacks
from holdfast_core.services.holding import Holding
from holdfast_core.services.leases import LeaseService
from holdfast_core.services.logs import LogService
from holdfast_core.services.offers import Offers
from holdfast_core.services.outbox import Outbox
from holdfast_core.services.outcomes import OutcomeService
from holdfast_core.services.presence import Presence
from holdfast_core.services.refusals import Refusals
from holdfast_core.services.session import Session
from holdfast_core.services.session_watch import SessionWatch, supersede
from holdfast_core.services.watch import PauseWatch
from holdfast_core.store import sessions as store

__all__ = ["SessionService"]

#: Sessions of one process.
MAX_SESSIONS: Final = 5_000


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
        self._refusals = Refusals(clock)
        self._taking_turns = Lock()
        self._count = 0
        #: For those who run the process, not for transports.
        self.handbacks = HandBacks(claims)
        self.beside = SessionWatch(database, bus, watch)

    def __len__(self) -> int:
        return self._count

    @asynccontextmanager
    async def open(self, caller: Caller, worker_id: str) -> AsyncGenerator[Session]:
        """A session, until the block ends. Raises Unavailable where too many are open.

        At its end offers that were not accepted go back; accepted jobs keep their leases.
        """
        admit_worker(caller, worker_id, "open a push session")
        if self._count >= MAX_SESSIONS:
            raise Unavailable(
                f"{MAX_SESSIONS:,} sessions are open here already. Use REST, or try again later.",
                retry_after=10,
            )
        session = self._make(caller, worker_id)
        self._count += 1
        self._counters.add("sessions")
        try:
            async with create_task_group() as tasks:
                session.offers.tasks = tasks
                tasks.start_soon(session.offers.run)
                try:
                    yield session
                finally:
                    session.outbox.end(None)
                    tasks.cancel_scope.cancel()
        finally:
            self._count -= 1
            self._counters.add("sessions", -1)
            self.beside.leave(session)
            session.outbox.dispose()

    def _make(self, caller: Caller, worker_id: str) -> Session:
        outbox = Outbox()
        offers = Offers(
            caller,
            worker_id,
            outbox.send,
            claims=self._claims,
            handbacks=self.handbacks,
            refusals=self._refusals,
            watch=self._watch,
            counters=self._counters,
        )
        outbox.on_end(offers.end)
        return Session(
            worker_id,
            outbox=outbox,
            offers=offers,
            holding=Holding(caller, worker_id, leases=self._leases, outcomes=self._outcomes, logs=self._logs),
            presence=self._presence,
            watch=self._watch,
            counters=self._counters,
            begin=self._begin,
        )

    async def _begin(self, session: Session) -> System:
        """The session has said hello: from now on it is the worker's one. Returns the pause that it is to be told of:
        the versions after that are told to it."""
        # In turns, so that of two that begin together the one that wrote last is also the one that stays here.
        async with self._taking_turns:
            session_id = uuid7()
            await self._database.write(lambda c: store.write_session(c, session.worker_id, session_id))
            session.id = session_id
            older = self.beside.join(session)
        if older is not None:
            supersede(older)
        self._bus.announce("sessions")
        return await self.beside.latest(await self._watch.refresh())
