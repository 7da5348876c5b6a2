"""Locks among all processes that share a SQLite file, and the order in which its writers come.

`BEGIN IMMEDIATE` alone lets a writer starve: SQLite's writers look now and then, and a pause waited 4 s under
saturating claimers in several processes. So an advisory lock on a file of its own is taken first, for which writers
wait in the kernel.

That lock alone is not fair either. The kernel gives a lock that is released to whoever runs first, so who asks for it
again at once has it again, and a pause still waited 0.4 s on a busy machine. So writers wait for it one at a time, in
the seat: who has released the lock queues for the seat, with all the others. A toggle does not queue. It shuts the
door between the seat and the lock, and waits for the lock itself: there is one writer at work then, and one at most
that had passed the door.

Only the lock keeps writers apart, and what may not go wrong rests on it alone; the other two say who is next. A process
that ends, however it does, gives all of them back.
"""

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from holdfast_core.errors import ConfigurationError

__all__ = ["FileLock", "WriterLocks"]


class FileLock:
    """An exclusive lock among processes and threads, on a file beside the database."""

    def __init__(self, path: Path, *, named: bool = True) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._named = named

    def acquire(self, *, shared: bool = False) -> None:
        """Wait for the lock. Blocks the thread: the kernel hands it on, nobody polls. `shared`: beside others who have
        it so."""
        _lock(self._file, shared)
        if self._named:
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

    def _lock(file: int, shared: bool) -> None:
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

    def _lock(file: int, shared: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class WriterLocks:
    """The locks of one writer. Each writer has its own: within a process, too, they keep threads apart."""

    def __init__(self, path: Path) -> None:
        self.lock = FileLock(path.with_name(f"{path.name}.lock"))
        self._seat = FileLock(path.with_name(f"{path.name}.seat.lock"), named=False)
        self._door = FileLock(path.with_name(f"{path.name}.toggle.lock"), named=False)

    @contextmanager
    def turn(self) -> Generator[None]:
        """A writer's turn."""
        with self._seat:
            self._door.acquire(shared=True)
            self._door.release()
            self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    @contextmanager
    def toggle(self) -> Generator[None]:
        """The turn of a pause or resume."""
        with self._door:
            self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def close(self) -> None:
        """Close the files."""
        for one in (self.lock, self._seat, self._door):
            one.close()
