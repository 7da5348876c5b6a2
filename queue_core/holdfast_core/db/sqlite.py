"""SQLite: one writer thread behind a lock file, and a few readers.

Several processes may share the file. `BEGIN IMMEDIATE` alone lets a writer starve (a pause waited 4 s under
saturating claimers in several processes); an advisory lock on a file of its own, taken first, is fair (1.9 ms,
worst 46 ms). All commits, and the checkpoints that they start, happen under that lock, which also keeps clear
of the WAL-reset race of SQLite before 3.51.3. The lock file names its holder's process id.

Group commit: turns that wait together share one transaction, one after the other in their order, each in a
savepoint of its own, so that one that fails leaves nothing and the others stand. The lock, the beginning and the
sync to disk, which cost more than most turns do, are paid once for all. Nobody is answered before the commit; where
that fails, all are told so. The shared transaction ends as soon as pause or resume waits, which go alone and first,
and after `SHARED_SECONDS`, so that other processes have their turn. Done here and not for each kind of request,
because this serves all of them, and because here a turn is all that a batch would be.
"""

import os
import queue
import sqlite3
import sys
import threading
import time
from asyncio import AbstractEventLoop, Future, get_running_loop, wait
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import structlog
from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from sqlalchemy import Connection, Engine, QueuePool, StaticPool, create_engine, event
from sqlalchemy.exc import OperationalError

from holdfast_core.clock import Clock
from holdfast_core.db.database import Lane, Work, store_unavailable, uncancelled
from holdfast_core.db.types import SQLITE_NOW, to_text
from holdfast_core.errors import ConfigurationError, StoreUnavailable

__all__ = ["START_SECONDS", "FileLock", "SqliteDatabase", "sqlite_engine"]

T = TypeVar("T")
log = structlog.get_logger(__name__)

READERS: Final = 4
#: How long a write waits for its turn before it is given up. Then it has not begun and never will.
TURN_SECONDS: Final = {Lane.CONTROL: 3.0, Lane.PLAIN: 5.0, Lane.SINGLE: 5.0, Lane.GATED: 5.0}
#: How long a start waits for the lock.
START_SECONDS: Final = 30.0
#: How long SQLite itself waits for a writer that does not know our lock file (the sqlite3 shell, a backup).
BUSY_MS: Final = 3_000
#: How long turns may go on to join a transaction, and how many.
SHARED_SECONDS: Final = 0.005
SHARED_TURNS: Final = 64
_PRIORITY: Final = {Lane.CONTROL: 0, Lane.PLAIN: 1, Lane.SINGLE: 1, Lane.GATED: 1}
_STOP_PRIORITY: Final = 2


class FileLock:
    """An exclusive lock among processes and threads, on a file beside the database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)

    def acquire(self) -> None:
        """Wait for the lock. Blocks the thread: the kernel hands it on, nobody polls."""
        _lock(self._file)
        with suppress(OSError):  # the lock holds all the same: on a full disk only the name is missing
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, f"{os.getpid()}\n".ljust(12).encode())

    def acquire_within(self, seconds: float) -> None:
        """Wait for the lock for a while only. For the start, not for every write: it takes a thread.

        Raises ConfigurationError naming the process that holds it.
        """
        decide, done = threading.Lock(), threading.Event()
        given_up = False

        def waiting() -> None:
            # Blocking, and so in the kernel's queue: who only looks now and then starves under load.
            self.acquire()
            with decide:
                done.set()
                if given_up:
                    self.release()

        threading.Thread(target=waiting, name="holdfast-lock", daemon=True).start()
        if not done.wait(seconds):
            with decide:
                given_up = not done.is_set()
            if given_up:
                raise ConfigurationError(
                    f"Process {self.holder()} has held the lock {self._path} for {seconds:.0f} s."
                    " If that process is stuck, end it and start again."
                )

    def release(self) -> None:
        """Give the lock back."""
        _unlock(self._file)

    def holder(self) -> int | None:
        """The process that took the lock last, for an error message."""
        try:
            return int(self._path.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        # Byte 64, since a locked byte cannot be read and the first ones hold the process id.
        while True:
            os.lseek(file, 64, os.SEEK_SET)
            try:
                return msvcrt.locking(file, msvcrt.LK_LOCK, 1)
            except OSError:  # it gives up after ten seconds
                continue

    def _unlock(file: int) -> None:
        os.lseek(file, 64, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class _Moment:
    """The time of the transaction, or of the turn in it, that a connection is in."""

    def __init__(self, now: datetime) -> None:
        self.begin(now)

    def begin(self, now: datetime) -> None:
        """From here on it is this time."""
        self._now = now
        self._text = to_text(now)  # a statement asks for it half a dozen times

    def plus(self, seconds: float) -> str:
        """The time so many seconds later, as it is stored."""
        return to_text(self._now + timedelta(seconds=seconds)) if seconds else self._text


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


@dataclass(order=True)
class _Turn:
    """One transaction that waits for the writer."""

    priority: int
    number: int
    work: Callable[[Connection], Any] | None = field(compare=False)
    loop: AbstractEventLoop | None = field(compare=False, default=None)
    future: "Future[Any] | None" = field(compare=False, default=None)
    begun: bool = field(compare=False, default=False)
    given_up: bool = field(compare=False, default=False)
    result: Any = field(compare=False, default=None)
    failure: BaseException | None = field(compare=False, default=None)


class SqliteDatabase:
    """The store on SQLite."""

    dialect: Literal["postgresql", "sqlite"] = "sqlite"

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._writing = sqlite_engine(path, clock, writer=True)
        self._reading = sqlite_engine(path, clock, writer=False)
        self._readers = CapacityLimiter(READERS)
        self._turns: queue.PriorityQueue[_Turn] = queue.PriorityQueue()
        self._numbers = 0
        self.outages = 0
        # Guards begun/given_up: a turn is either run or given up, never both.
        self._decide = threading.Lock()
        self._thread = threading.Thread(target=self._write_in_turn, name="holdfast-writer", daemon=True)

    @classmethod
    def open(cls, path: Path, clock: Clock) -> "SqliteDatabase":
        """Open a database that has been migrated. Raises ConfigurationError where it cannot be used."""
        try:
            database = cls(path, clock)
            database._lock.acquire_within(START_SECONDS)
            try:
                with database._writing.begin() as connection:
                    connection.exec_driver_sql("SELECT 1")
            finally:
                database._lock.release()
        except (OSError, OperationalError) as error:
            cause = error.orig if isinstance(error, OperationalError) else error
            raise ConfigurationError(
                f"The database {path} cannot be used: {cause}. Check the path and its permissions,"
                " or set HOLDFAST_DATABASE_URL."
            ) from None
        database._thread.start()
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
        """Run `work` in the writer's thread, in its turn, and commit it."""
        loop = get_running_loop()
        self._numbers += 1
        turn = _Turn(_PRIORITY[lane], self._numbers, work, loop, loop.create_future())
        assert turn.future is not None
        self._turns.put(turn)
        with uncancelled():
            try:
                with fail_after(TURN_SECONDS[lane]):
                    await _settled(turn.future)
            except TimeoutError:
                with self._decide:
                    turn.given_up = not turn.begun
                if turn.given_up:
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
        holder = self._lock.holder()
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

    def _write_in_turn(self) -> None:
        while True:
            turn = self._turns.get()
            if turn.work is None:
                return
            done: list[_Turn] = []
            with self._lock:
                if not self._may_begin(turn):
                    continue
                try:
                    with self._writing.begin() as connection:
                        self._share(connection, turn, done)
                except BaseException as error:  # handed to those who wait
                    for one in done or [turn]:
                        one.failure = one.failure or error
            for one in done or [turn]:
                _settle(one)

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
            done.append(joining)
            driver.execute("SAVEPOINT turn")
            try:
                assert joining.work is not None
                joining.result = joining.work(connection)
            except BaseException as error:  # handed to the one who waits
                joining.failure = error
                if not driver.in_transaction:  # SQLite has rolled back all of it: a full disk, an I/O error
                    raise
                driver.execute("ROLLBACK TO turn")
            driver.execute("RELEASE turn")
            alone = turn.priority == _PRIORITY[Lane.CONTROL]
            over = alone or len(done) == SHARED_TURNS or time.monotonic() >= until
            joining = None if over else self._next_to_share()
            moment.begin(self._clock.now())

    def _next_to_share(self) -> _Turn | None:
        """The next turn, where it may join: one of those that wait already, and no pause or resume."""
        while True:
            try:
                turn = self._turns.get_nowait()
            except queue.Empty:
                return None
            if turn.priority != _PRIORITY[Lane.PLAIN]:
                self._turns.put(turn)  # its number keeps its place
                return None
            if self._may_begin(turn):
                return turn

    async def close(self) -> None:
        """Finish the writes that wait, then close. The last close checkpoints, so it is under the lock."""

        def closing() -> None:
            self._turns.put(_Turn(_STOP_PRIORITY, 0, None))
            self._thread.join()
            with self._lock:
                self._reading.dispose()
                self._writing.dispose()
            self._lock.close()

        with uncancelled():
            await run_sync(closing)


async def _settled(future: "Future[Any]") -> None:
    """Wait until the future is done, without raising what it holds and without cancelling it."""
    if not future.done():
        await wait([future])


def _settle(turn: _Turn) -> None:
    loop, future, failure = turn.loop, turn.future, turn.failure
    assert loop is not None
    assert future is not None

    def settle() -> None:
        if not future.done():
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(turn.result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.warning("writer_result_unclaimed")
