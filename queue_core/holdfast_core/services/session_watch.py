"""What happens beside the push sessions of a process, and is told to them: one look for all of them together."""

from typing import Final

import structlog
from anyio import Event, current_time, move_on_after, sleep

from holdfast_core.changes import ChangeBus
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import System
from holdfast_core.schemas.sessions import SESSION_SUPERSEDED, SystemFrame
from holdfast_core.services.outbox import Closed
from holdfast_core.services.session import Session
from holdfast_core.services.tokens import hash_token
from holdfast_core.services.versions import versions_between
from holdfast_core.services.watch import PauseWatch
from holdfast_core.store import sessions as store

__all__ = ["SessionWatch", "supersede"]

log = structlog.get_logger(__name__)

#: The poll behind the announcements.
POLL_SECONDS: Final = 5.0
#: The least time between two looks, so that a burst of announcements costs no more.
REST_SECONDS: Final = 0.05
#: How long versions that were missed are looked for while the store is away, before they are passed over.
GAP_SECONDS: Final = 2.0
#: How long a new session waits until all are told of the version that it has read.
VERSION_SECONDS: Final = 2.0


class SessionWatch:
    """The sessions that have said hello, by worker, and what they are told."""

    def __init__(self, database: Database, bus: ChangeBus, watch: PauseWatch) -> None:
        self._database = database
        self._bus = bus
        self._watch = watch
        self._sessions: dict[str, Session] = {}
        #: What all of them have been told of last.
        self._told: System | None = None
        self._told_more = Event()

    def join(self, session: Session) -> Session | None:
        """This is its worker's session from now on. Returns the one before."""
        older = self._sessions.get(session.worker_id)
        self._sessions[session.worker_id] = session
        return None if older is session else older

    def leave(self, session: Session) -> None:
        """The session is over."""
        if self._sessions.get(session.worker_id) is session:
            del self._sessions[session.worker_id]

    async def latest(self, system: System) -> System:
        """What a session that begins now is to be told of: what all the others know, once that is not older than
        `system`."""
        with move_on_after(VERSION_SECONDS):
            while self._told is None or self._told.version < system.version:
                await self._told_more.wait()
        return system if self._told is None else self._told

    async def run_system(self) -> None:
        """Tell every session of each version, once and in order, until cancelled."""
        while True:
            told = self._told
            system = await self._watch.changed(None if told is None else told.version)
            # The database has lost commits that it had acknowledged (see GateCache): its word counts nevertheless.
            fell = told is not None and system.version < told.version
            for one in await self._between(told, system):
                self._told = one
                text = SystemFrame(system=one).model_dump_json()
                for session in list(self._sessions.values()):
                    session.tell(one, text, fell=fell)
            told_more, self._told_more = self._told_more, Event()
            told_more.set()

    async def _between(self, told: System | None, system: System) -> list[System]:
        """The versions above the one that was told, up to this."""
        if told is None or system.version <= told.version + 1:
            return [system]
        until = current_time() + GAP_SECONDS
        while True:
            try:
                return await self._database.read(lambda c: versions_between(c, told, system))
            except HoldfastError as error:
                if current_time() >= until:
                    # The pause itself must not wait for its history.
                    log.warning("versions_passed_over", cause=error.detail, pause_version=system.version)
                    return [system]
            await sleep(REST_SECONDS)

    async def run_cancels(self) -> None:
        """Tell of jobs that somebody wants to be stopped, until cancelled."""
        with self._bus.hub.subscribe("running") as changes:
            while True:
                try:
                    await self._tell_cancels()
                except HoldfastError as error:
                    log.warning("cancels_not_read", cause=error.detail)
                await changes.wait(POLL_SECONDS)
                await sleep(REST_SECONDS)

    async def _tell_cancels(self) -> None:
        workers = [worker for worker, session in self._sessions.items() if session.holding.tokens]
        if not workers:
            return
        for asked in await self._database.read(lambda c: store.cancelled_of(c, workers)):
            session = self._sessions.get(asked.worker_id)
            token = None if session is None else session.holding.tokens.get(asked.job_id)
            if session is not None and token is not None and hash_token(token) == asked.token_hash:
                session.cancel(asked.job_id, asked.reason)

    async def run_superseded(self) -> None:
        """Close the sessions whose workers have opened another, in whichever process, until cancelled."""
        with self._bus.hub.subscribe("sessions") as changes:
            while True:
                try:
                    await self._close_superseded()
                except HoldfastError as error:
                    log.warning("sessions_not_read", cause=error.detail)
                await changes.wait(POLL_SECONDS)
                await sleep(REST_SECONDS)

    async def _close_superseded(self) -> None:
        ours = {worker: session for worker, session in self._sessions.items() if not session.outbox.over}
        if not ours:
            return
        latest = await self._database.read(lambda c: store.latest_sessions(c, list(ours)))
        for worker, session in ours.items():
            if latest.get(worker) not in {None, session.id}:
                supersede(session)


def supersede(session: Session) -> None:
    """Close a session for a newer one of the same worker."""
    log.info("session_superseded", worker_id=session.worker_id)
    session.outbox.end(Closed(SESSION_SUPERSEDED, "another session was opened under this worker id"))
