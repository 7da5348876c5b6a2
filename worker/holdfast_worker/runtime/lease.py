"""The worker's own countdown of a lease, on its monotonic clock.

The server counts from the moment at which it takes a heartbeat, the worker from the moment at which it sent it: so the
worker's count ends first, however long the way takes.
"""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["Lease"]

#: The part of a lease that is kept for stopping the handler, once nothing has renewed it.
STOPPING_SHARE: Final = 1 / 6
#: ... but no more than this, in seconds.
STOPPING_MOST: Final = 15.0


class Lease:
    """How long the claim of one job is safely ours."""

    def __init__(self, seconds: float, *, asked_at: float) -> None:
        self.seconds = seconds
        self._until = asked_at + seconds
        #: Called with the deadline at each renewal and each change of the job's phase: who stops child processes by
        #: itself listens here.
        self.listeners: list[Callable[[float], None]] = []

    @property
    def until(self) -> float:
        """When the lease may have run out, on time.monotonic()."""
        return self._until

    @property
    def deadline(self) -> float:
        """When the handler has to be stopped, on time.monotonic(): it may take a moment to end."""
        return self._until - min(self.seconds * STOPPING_SHARE, STOPPING_MOST)

    @property
    def has_run_out(self) -> bool:
        """Whether the job may be somebody else's by now."""
        return time.monotonic() >= self._until

    def renewed(self, *, asked_at: float) -> None:
        """A heartbeat that was sent at `asked_at` has been answered."""
        self._until = max(self._until, asked_at + self.seconds)
        self.tell()

    def lost(self) -> None:
        """It is somebody else's by now: whoever stops by the deadline stops at once."""
        self._until = min(self._until, time.monotonic())
        self.tell()

    def tell(self) -> None:
        """Call the listeners."""
        for listener in self.listeners:
            listener(self.deadline)
