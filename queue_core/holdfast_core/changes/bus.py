"""The seam: say that something changed, be told that something changed.

A change is a hint, never a fact: it carries no state, only what to look at again. So it may be lost, doubled
or late, and nothing breaks; every listener polls behind it. And it takes no room: each subscription keeps a
set of kinds, so a slow listener cannot hold up the others or fill the memory.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Literal, Protocol, get_args

from anyio import Event, move_on_after

__all__ = ["KINDS", "ChangeBus", "Hub", "Kind", "Subscription"]

#: `system`: the pause changed. `jobs`: there is something to claim. `running`: a running job ended or parked.
#: `logs`: a job's log grew. `sessions`: a worker has opened a push session, which ends its older one.
Kind = Literal["system", "jobs", "running", "logs", "sessions"]
KINDS: Final[frozenset[Kind]] = frozenset(get_args(Kind))


class Subscription:
    """One listener's pending hints."""

    def __init__(self, kinds: frozenset[Kind]) -> None:
        self._kinds = kinds
        self._pending: set[Kind] = set()
        self._event = Event()

    def publish(self, kinds: frozenset[Kind]) -> None:
        """Add hints and wake the listener."""
        wanted = kinds & self._kinds
        if wanted:
            self._pending |= wanted
            self._event.set()

    async def wait(self, seconds: float) -> frozenset[Kind]:
        """The hints that have come, as soon as there are any; none after `seconds`."""
        with move_on_after(seconds):
            await self._event.wait()
        self._event = Event()
        pending = frozenset(self._pending)
        self._pending.clear()
        return pending


class Hub:
    """The subscriptions of one process."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    @contextmanager
    def subscribe(self, *kinds: Kind) -> Generator[Subscription]:
        """Listen to these kinds. Subscribe first, then read: nothing falls between."""
        subscription = Subscription(frozenset(kinds))
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, *kinds: Kind) -> None:
        """Tell the listeners of this process."""
        found = frozenset(kinds)
        for subscription in self._subscriptions:
            subscription.publish(found)


class ChangeBus(Protocol):
    """Announcements among all processes that share the store."""

    @property
    def hub(self) -> Hub:
        """The listeners of this process."""
        ...

    def announce(self, kind: Kind) -> None:
        """After a commit: tell everybody. Never waits; announcements that pile up go out as one."""
        ...

    async def run(self) -> None:
        """Carry announcements until cancelled. Survives the loss of the store."""
        ...
