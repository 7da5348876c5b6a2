"""Claims that wait for work. As many are woken as there is work, and a pause answers them all."""

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from anyio import Event, move_on_after

from holdfast_core.changes import ChangeBus

__all__ = ["Waiter", "Waiters"]

#: What claims of one kind ask for: types (None: any), capabilities, and the jobs that they are not to get. Who may not
#: have a job must not stand in front of those who may.
Kind = tuple[tuple[str, ...] | None, tuple[str, ...], tuple[UUID, ...]]

#: The poll behind the announcements; also what notices jobs that have become due.
POLL_SECONDS: Final = 1.0


class Waiter:
    """One claim that waits."""

    def __init__(self) -> None:
        self._event = Event()

    @property
    def woken(self) -> bool:
        """Whether it has been woken and has not rested since."""
        return self._event.is_set()

    def wake(self) -> None:
        """Let it look for work."""
        self._event.set()

    def rest(self) -> None:
        """It found nothing, and keeps its place in the row."""
        self._event = Event()

    async def wait(self, seconds: float) -> bool:
        """Whether it was woken within `seconds`."""
        with move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()


class Waiters:
    """The claims of this process that wait, in rows by what they ask for.

    New work wakes the first of each row. Who then takes a job leaves, and so wakes the next; who finds
    nothing rests, and the row stays asleep. So a burst of work wakes just enough, one after the other.
    """

    def __init__(self, bus: ChangeBus) -> None:
        self._bus = bus
        self._rows: dict[Kind, deque[Waiter]] = {}

    def __len__(self) -> int:
        return sum(len(row) for row in self._rows.values())

    @contextmanager
    def join(self, kind: Kind) -> Generator[Waiter]:
        """Stand at the end of the row."""
        waiter = Waiter()
        row = self._rows.setdefault(kind, deque())
        row.append(waiter)
        try:
            yield waiter
        finally:
            row.remove(waiter)
            if not row:
                del self._rows[kind]
            elif waiter.woken:
                row[0].wake()

    def wake_first(self) -> None:
        """There may be work: wake the first of each row."""
        for row in self._rows.values():
            row[0].wake()

    def wake_all(self) -> None:
        """There is a pause: everybody gets an answer."""
        for row in self._rows.values():
            for waiter in row:
                waiter.wake()

    async def run(self) -> None:
        """Wake at each announcement of work, and anyway now and then, until cancelled."""
        with self._bus.hub.subscribe("jobs") as changes:
            while True:
                await changes.wait(POLL_SECONDS)
                self.wake_first()
