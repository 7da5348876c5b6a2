"""SQLite: a writer behind a lock file, another for pause and resume, and a few readers.

Several processes may share the file, and take turns by a lock on a file of its own (`holdfast_core.db.locks`). All
commits, and the checkpoints that they start, happen under that lock, which also keeps clear of the WAL-reset race of
SQLite before 3.51.3. Pause and resume have a thread and a connection of their own, so that they stand in no line of
this process, and pass those of others.

Group commit: turns that wait together share one transaction, one after the other in their order, each in a
savepoint of its own, so that one that fails leaves nothing and the others stand. The lock, the beginning and the
sync to disk, which cost more than most turns do, are paid once for all. Nobody is answered before the commit; where
that fails, all are told so. The shared transaction ends as soon as a pause or resume of this process waits, and after
`SHARED_SECONDS`, so that other processes have their turn. Done here and not for each kind of request,
because this serves all of them, and because here a turn is all that a batch would be.
"""

import os
import queue
import sqlite3
import sys
import threading
import time
from asyncio import AbstractEventLoop, Future, get_running_loop, wait
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import structlog
from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from sqlalchemy import Connection, Engine, QueuePool, StaticPool, create_engine, event
from sqlalchemy.exc import OperationalError

from holdfast_core.clock import Clock
from holdfast_core.db.database import Lane, Work, store_unavailable, uncancelled
from holdfast_core.db.locks import WriterLocks
from holdfast_core.db.types import SQLITE_NOW, to_text
from holdfast_core.errors import ConfigurationError, StoreUnavailable

__all__ = ["START_SECONDS", "SqliteDatabase", "sqlite_engine"]

T = TypeVar("T")
log = structlog.get_logger(__name__)

READERS: Final = 4
#: How long a write waits for its turn before it is given up. Then it has not begun and never will.
TURN_SECONDS: Final = {Lane.CONTROL: 3.0, Lane.PLAIN: 5.0, Lane.SINGLE: 5.0, Lane.GATED: 5.0}
#: How long a start waits for the lock.
START_SECONDS: Final = 30.0
#: How long SQLite itself waits for a writer that does not know our lock file (the sqlite3 shell, a backup).
BUSY_MS: Final = 3_000
#: For how long a thread may compute while others wait for the interpreter (Python's own default is ten times that). A
#: turn of the writer waits for it at each return from SQLite and from the kernel, with the lock in its hands.
SWITCH_SECONDS: Final = 0.0005
#: How long turns may go on to join a transaction, and how many.
SHARED_SECONDS: Final = 0.005
SHARED_TURNS: Final = 64


class _Moment:
    """The time of the transaction, or of the turn in it, that a connection is in."""

    def __init__(self, now: datetime) -> None:
        self.begin(now)

    def begin(self, now: datetime) -> None:
        """From here on it is this time."""
        self._now = now
        self._texts: dict[float, str] = {}  # a statement asks for some of them half a dozen times

    def plus(self, seconds: float) -> str:
        """The time so many seconds later, as it is stored."""
        text = self._texts.get(seconds)
        if text is None:
            text = self._texts[seconds] = to_text(self._now + timedelta(seconds=seconds))
        return text


def sqlite_engine(path: Path, clock: Clock, *, writer: bool) -> Engine:
    """An engine whose connections begin their transactions as ours must, and know the transaction's time."""
    engine = create_engine(
        "sqlite+pysqlite://",
        hide_parameters=True,  # an error in the log must not show a payload
        creator=lambda: sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000, cached_statements=256
        ),
        **(
            {"poolclass": StaticPool}
            if writer
            else {"poolclass": QueuePool, "pool_size": READERS, "max_overflow": 0}
        ),
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, record: Any) -> None:
        moment = record.info["moment"] = _Moment(clock.now())

        # Deterministic within a statement, so SQLite computes it once instead of for each row.
        connection.create_function(SQLITE_NOW, 1, moment.plus, deterministic=True)
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        # NORMAL may lose the last commits when the power goes: an answered pause must survive.
        connection.execute("PRAGMA synchronous=FULL")
        if not writer:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A transaction that reads first and writes then would fail at once with BUSY_SNAPSHOT.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")
        moment: _Moment = connection.info["moment"]
        moment.begin(clock.now())

    return engine


@dataclass(slots=True)
class _Turn:
    """One transaction that waits for a writer."""

    work: Callable[[Connection], Any]
    loop: AbstractEventLoop
    future: "Future[Any]"
    begun: bool = False
    given_up: bool = False
    result: Any = None
    failure: BaseException | None = None


class _Writer:
    """A thread that runs turns in their order, on a connection of its own.

    `toggles`: those that go first and alone. `quiet` is set while there are none in this process.
    """

    def __init__(
        self, path: Path, clock: Clock, name: str, quiet: threading.Event, *, toggles: bool = False
    ) -> None:
        self.turns: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        self.locks = WriterLocks(path)
        self.engine = sqlite_engine(path, clock, writer=True)
        self._clock = clock
        self._toggles = toggles
        self._quiet = quiet
        # Guards begun/given_up: a turn is either run or given up, never both.
        self._decide = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def open(self) -> None:
        """Look whether the database can be written, under the lock. Raises OSError or OperationalError."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql("SELECT 1")

    def start(self) -> None:
        """Begin to take turns."""
        self._thread.start()

    def stop(self) -> None:
        """Run the turns that wait, then end. Blocks."""
        self.turns.put(None)
        self._thread.join()

    def close(self) -> None:
        """Close the files."""
        self.engine.dispose()
        self.locks.close()

    def give_up(self, turn: _Turn) -> bool:
        """Whether the turn had not begun, and now never will."""
        with self._decide:
            turn.given_up = not turn.begun
        return turn.given_up

    def _run(self) -> None:
        while not self._stopped:
            turn = self.turns.get()
            if turn is None:
                return
            if not self._toggles:
                self._quiet.wait()  # the thread of a toggle may not have come to its lock yet
            done: list[_Turn] = []
            with self.locks.toggle() if self._toggles else self.locks.turn():
                if not self._may_begin(turn):
                    continue
                try:
                    with self.engine.begin() as connection:
                        self._share(connection, turn, done)
                except BaseException as error:  # handed to those who wait
                    for one in done or [turn]:
                        one.failure = one.failure or error
            _settle(done or [turn])

    def _may_begin(self, turn: _Turn) -> bool:
        with self._decide:
            turn.begun = not turn.given_up
        return turn.begun

    def _share(self, connection: Connection, turn: _Turn, done: list[_Turn]) -> None:
        """Run this turn and those that may join it. Those that were run are `done`, whatever came of them."""
        driver: Any = connection.connection.driver_connection
        moment: _Moment = connection.info["moment"]
        until = time.monotonic() + SHARED_SECONDS
        joining: _Turn | None = turn
        while joining is not None:
            # The first one needs no savepoint: where it fails, there is nothing yet that has to stand.
            shared = bool(done)
            done.append(joining)
            if shared:
                moment.begin(self._clock.now())
                driver.execute("SAVEPOINT turn")
            try:
                joining.result = joining.work(connection)
            except BaseException as error:  # handed to the one who waits
                joining.failure = error
                if (
                    not shared or not driver.in_transaction
                ):  # SQLite itself rolls back on a full disk, an I/O error
                    raise
                driver.execute("ROLLBACK TO turn")
            if shared:
                driver.execute("RELEASE turn")
            over = self._toggles or len(done) == SHARED_TURNS or time.monotonic() >= until
            joining = None if over else self._next_to_share()

    def _next_to_share(self) -> _Turn | None:
        """The next turn, where it may join: one of those that wait already."""
        while self._quiet.is_set():
            try:
                turn = self.turns.get_nowait()
            except queue.Empty:
                return None
            if turn is None:
                self._stopped = True
                return None
            if self._may_begin(turn):
                return turn
        return None


class SqliteDatabase:
    """The store on SQLite."""

    dialect: Literal["postgresql", "sqlite"] = "sqlite"

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._toggles = 0
        self._quiet = threading.Event()
        self._quiet.set()
        self._writer = _Writer(path, clock, "holdfast-writer", self._quiet)
        self._toggler = _Writer(path, clock, "holdfast-toggler", self._quiet, toggles=True)
        self._reading = sqlite_engine(path, clock, writer=False)
        self._readers = CapacityLimiter(READERS)
        self.outages = 0

    @classmethod
    def open(cls, path: Path, clock: Clock) -> "SqliteDatabase":
        """Open a database that has been migrated. Raises ConfigurationError where it cannot be used."""
        try:
            database = cls(path, clock)
            writers = (database._writer, database._toggler)
            lock = database._writer.locks.lock
            lock.acquire_within(START_SECONDS)
            try:
                for writer in writers:
                    writer.open()
            finally:
                lock.release()
        except (OSError, OperationalError) as error:
            cause = error.orig if isinstance(error, OperationalError) else error
            raise ConfigurationError(
                f"The database {path} cannot be used: {cause}. Check the path and its permissions,"
                " or set HOLDFAST_DATABASE_URL."
            ) from None
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        for writer in writers:
            writer.start()
        return database

    async def read(self, work: Work[T], *, lane: Lane = Lane.SINGLE) -> T:
        """Run `work` in a reader's thread, in one transaction, so in one snapshot."""

        def reading() -> T:
            with self._reading.begin() as connection:
                return work(connection)

        try:
            return await run_sync(reading, limiter=self._readers)
        except Exception as error:
            self._raise_if_unavailable(error)
            raise

    async def write(self, work: Work[T], *, lane: Lane = Lane.PLAIN) -> T:
        """Run `work` in a writer's thread, in its turn, and commit it."""
        if lane is not Lane.CONTROL:
            return await self._write(self._writer, work, lane)
        self._toggles += 1
        self._quiet.clear()
        try:
            return await self._write(self._toggler, work, lane)
        finally:
            self._toggles -= 1
            if self._toggles == 0:
                self._quiet.set()

    async def _write(self, writer: _Writer, work: Work[T], lane: Lane) -> T:
        loop = get_running_loop()
        turn = _Turn(work, loop, loop.create_future())
        writer.turns.put(turn)
        with uncancelled():
            try:
                with fail_after(TURN_SECONDS[lane]):
                    await _settled(turn.future)
            except TimeoutError:
                if writer.give_up(turn):
                    self.outages += 1
                    raise self._turn_did_not_come(TURN_SECONDS[lane]) from None
                await _settled(turn.future)
            try:
                result: T = turn.future.result()
                return result
            except Exception as error:
                self._raise_if_unavailable(error)
                raise

    def _raise_if_unavailable(self, error: Exception) -> None:
        unavailable = store_unavailable(error)
        if unavailable is not None:
            self.outages += 1
            log.warning("store_unavailable", cause=str(error).splitlines()[0][:200])
            raise unavailable from error

    def _turn_did_not_come(self, seconds: float) -> StoreUnavailable:
        holder = self._writer.locks.lock.holder()
        if holder in (None, os.getpid()):
            # Our own turn holds the lock file, and waits for a program that does not know it.
            return StoreUnavailable(
                f"The database has been locked by another program for {seconds:.0f} s (a shell, a backup?)."
                " Nothing was written; end that and repeat."
            )
        return StoreUnavailable(
            f"Process {holder} has held the queue's lock for {seconds:.0f} s. Nothing was written; if that"
            " process is stuck, end it and repeat."
        )

    async def close(self) -> None:
        """Finish the writes that wait, then close. The last close checkpoints, so it is under the lock."""

        def closing() -> None:
            for writer in (self._writer, self._toggler):
                writer.stop()
            with self._writer.locks.lock:
                self._reading.dispose()
                self._toggler.close()
                self._writer.engine.dispose()
            self._writer.close()

        with uncancelled():
            await run_sync(closing)


async def _settled(future: "Future[Any]") -> None:
    """Wait until the future is done, without raising what it holds and without cancelling it."""
    if not future.done():
        await wait([future])


def _settle(turns: Sequence[_Turn]) -> None:
    """Tell those who wait what came of their turns. All are of one loop, as their writer's callers are."""

    def settle() -> None:
        for turn in turns:
            if turn.future.done():
                continue
            if turn.failure is not None:
                turn.future.set_exception(turn.failure)
            else:
                turn.future.set_result(turn.result)

    try:
        turns[0].loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.warning("writer_result_unclaimed")
