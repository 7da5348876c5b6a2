"""The process's clocks, behind a seam so that tests can move them.

On PostgreSQL every time that is stored or compared comes from the database's clock; this clock then
only measures waits. On SQLite the host's clock is the database's clock, and this is it.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the core needs of a clock."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards, from an arbitrary start."""
        ...


class SystemClock:
    """The host's clocks."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go backwards, from an arbitrary start."""
        return time.monotonic()
