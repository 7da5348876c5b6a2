"""Announcements over LISTEN/NOTIFY, on one connection a process."""

import os
from typing import Final

import asyncpg
import structlog
from anyio import Event, create_task_group, current_time, move_on_after, sleep

from holdfast_core.changes.bus import KINDS, Hub, Kind
from holdfast_core.db.postgres import CONNECT_SECONDS, plain_url
from holdfast_core.settings import Settings

__all__ = ["PostgresBus"]

log = structlog.get_logger(__name__)

CHANNEL: Final = "holdfast"
RECONNECT_FIRST_SECONDS: Final = 0.1
RECONNECT_MOST_SECONDS: Final = 2.0
#: A listening connection says nothing when its network is cut, so it is asked now and then.
PROBE_SECONDS: Final = 5.0


class PostgresBus:
    """Listens, reconnects, and has one NOTIFY under way at most: what is announced meanwhile goes out as one."""

    def __init__(self, settings: Settings) -> None:
        self.hub = Hub()
        self._url = plain_url(settings.database_listen_url or settings.database_url)
        self._outgoing: set[Kind] = set()
        self._wake = Event()
        self._origin = os.urandom(6).hex()  # our own announcements come back; they are known already

    def announce(self, kind: Kind) -> None:
        """Tell this process at once and the others in a moment."""
        self.hub.publish(kind)
        self._outgoing.add(kind)
        self._wake.set()

    async def run(self) -> None:
        """Connect, listen and send, again and again, until cancelled."""
        pause = RECONNECT_FIRST_SECONDS
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url,
                    timeout=CONNECT_SECONDS,
                    command_timeout=CONNECT_SECONDS,
                    server_settings={"application_name": "holdfast-listen"},
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning(
                    "listen_unavailable", cause=str(error) or type(error).__name__, retry_seconds=pause
                )
                await sleep(pause)
                pause = min(pause * 2, RECONNECT_MOST_SECONDS)
                continue
            begun = current_time()
            try:
                await self._carry(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("listen_lost", cause=str(error) or type(error).__name__)
            except asyncpg.InternalClientError as error:
                log.warning("listen_lost", cause=str(error))
            finally:
                connection.terminate()
            # One that was lost at once (a standby, a pooler that refuses LISTEN) is not worth a rush.
            lasted = current_time() - begun > PROBE_SECONDS
            pause = RECONNECT_FIRST_SECONDS if lasted else min(pause * 2, RECONNECT_MOST_SECONDS)
            await sleep(pause)

    async def _carry(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        closed = Event()
        connection.add_termination_listener(lambda _: closed.set())
        await connection.add_listener(CHANNEL, self._hear)
        # What was announced while we were away was missed: look at everything again.
        self.hub.publish(*KINDS)
        failure: Exception = ConnectionError("the connection was closed")
        async with create_task_group() as tasks:

            async def until_closed() -> None:
                await closed.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_closed)
            try:
                await self._send(connection)
            except Exception as error:  # as it is, not wrapped in the group's
                failure = error
                tasks.cancel_scope.cancel()
        raise failure

    async def _send(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while True:
            with move_on_after(PROBE_SECONDS):
                await self._wake.wait()
            self._wake = Event()
            kinds, self._outgoing = self._outgoing, set()
            try:
                if kinds:
                    payload = f"{self._origin} {' '.join(sorted(kinds))}"
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
                else:
                    await connection.execute("SELECT 1")
            except BaseException:
                self._outgoing |= kinds  # to be said once the connection is back
                raise

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        origin, *kinds = str(payload).split()
        if origin != self._origin:
            heard: list[Kind] = [kind for kind in KINDS if kind in kinds]
            self.hub.publish(*heard)
