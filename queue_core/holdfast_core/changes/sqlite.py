"""Announcements among processes that share a SQLite file: its `data_version` is watched."""

import sqlite3
from pathlib import Path
from typing import Final

import structlog
from anyio import sleep

from holdfast_core.changes.bus import KINDS, Hub, Kind

__all__ = ["SqliteBus"]

log = structlog.get_logger(__name__)

#: How often to look; a look costs 3 µs.
LOOK_SECONDS: Final = 0.02
#: Looks to pass over after a failed one.
AFTER_FAILURE_SECONDS: Final = 1.0


class SqliteBus:
    """Memory within the process; other processes' commits show in `PRAGMA data_version`.

    It is read on a connection of its own, outside any transaction: a connection does not see its own commits.
    """

    def __init__(self, path: Path) -> None:
        self.hub = Hub()
        self._path = path

    def announce(self, kind: Kind) -> None:
        """Tell this process at once; the others see the commit itself."""
        self.hub.publish(kind)

    async def run(self) -> None:
        """Watch the file until cancelled."""
        connection: sqlite3.Connection | None = None
        seen: int | None = None
        try:
            while True:
                try:
                    if connection is None:
                        connection = sqlite3.connect(self._path, isolation_level=None, timeout=0)
                        connection.execute("PRAGMA query_only=ON")
                    (version,) = connection.execute("PRAGMA data_version").fetchone()
                except sqlite3.Error as error:
                    log.warning("watch_failed", cause=str(error))
                    await sleep(AFTER_FAILURE_SECONDS)
                    continue
                if version != seen:
                    seen = version
                    # Which table changed is not said. Listeners look again, and find it cheap.
                    self.hub.publish(*KINDS)
                await sleep(LOOK_SECONDS)
        finally:
            if connection is not None:
                connection.close()
