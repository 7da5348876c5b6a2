"""What happens to the system, as a stream: for dashboards, `holdfast watch` and whoever else follows.

Each follower goes through the audit log at its own pace, so it sees each version once and in order, and a slow one
neither holds up the others nor fills the memory. What only has a current value (counts, workers) is read at most
once a second, for all followers together.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from anyio import sleep
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import Unavailable
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import Answer, ControlEvent, Metrics
from holdfast_core.services.snapshots import Snapshots
from holdfast_core.services.versions import system_after
from holdfast_core.store.pause import events_after, made_at, newest_event

__all__ = ["FeedEvent", "FeedService"]

#: Followers of one process.
MAX_FOLLOWERS: Final = 1_000
#: Events of the audit log that one read takes.
PAGE: Final = 100
#: The poll behind the announcements, and how old the counts may be, in seconds.
POLL_SECONDS: Final = 1.0
#: The least time between two looks.
REST_SECONDS: Final = 0.05
#: Counts are told anew after this, though only their ages have changed.
RETELL_SECONDS: Final = 10.0

FeedKind = Literal["snapshot", "system", "metrics", "workers", "audit"]


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event of the stream. `id`: where to go on after a cut; None leaves the one before."""

    kind: FeedKind
    data: Answer
    id: UUID | None = None


class FeedService:
    """Streams what happens to the system."""

    def __init__(self, database: Database, bus: ChangeBus, snapshots: Snapshots, clock: Clock) -> None:
        self._database = database
        self._bus = bus
        self._snapshots = snapshots
        self._clock = clock
        self._followers = 0

    async def follow(self, caller: Caller, *, after: UUID | None = None) -> AsyncGenerator[FeedEvent]:
        """A snapshot, then what changes. `after`: the id of the last event that was seen before a cut; the events of
        the audit log that were missed come right behind the snapshot. Raises Unavailable where too many follow."""
        admit(caller, Permission.LOOK, "follow the system")
        if self._followers >= MAX_FOLLOWERS:
            raise Unavailable(
                f"{MAX_FOLLOWERS} streams are open here already. Try again later.", retry_after=10
            )
        self._followers += 1
        try:
            # Subscribe before reading, so that nothing falls between.
            with self._bus.hub.subscribe("system", "running", "jobs") as changes:
                newest = await self._database.read(newest_event)
                snapshot = await self._snapshots.take()
                seen_at = None if after is None else await self._database.read(lambda c: made_at(c, after))
                if seen_at is not None:
                    yield FeedEvent("snapshot", snapshot)
                else:
                    # What happened before is told by the snapshot, if at all: what was refused is not in there, and
                    # is no news either.
                    shown = (e for e in snapshot.audit.latest if e.version <= snapshot.system.version)
                    before = [event for event in (newest, next(shown, None)) if event is not None]
                    last = max(before, key=lambda event: event.created_at, default=None)
                    seen_at = None if last is None else last.created_at
                    yield FeedEvent("snapshot", snapshot, None if last is None else last.id)
                system, told, told_at = snapshot.system, snapshot, self._clock.monotonic()
                counted = system.version
                while True:
                    position = seen_at

                    def reading(connection: Connection) -> list[ControlEvent]:
                        return events_after(connection, position, limit=PAGE)  # noqa: B023 (called at once)

                    events = await self._database.read(reading)
                    for event in events:
                        seen_at = event.created_at
                        yield FeedEvent("audit", event, event.id)
                        if event.outcome == "changed" and event.version > system.version:
                            system = system_after(system, event)
                            yield FeedEvent("system", system)
                    if len(events) < PAGE:
                        current = await self._snapshots.recent(POLL_SECONDS)
                        if current.system.version < system.version:
                            # Counts of an earlier version would say of this one what is not so.
                            current = await self._snapshots.recent(0)
                        late = self._clock.monotonic() - told_at >= RETELL_SECONDS
                        # The counts are those of a version: the same ones of the next version are news, though
                        # they were told already, by a snapshot that was ahead of the events read before it.
                        changed = system.version != counted
                        if late or changed or _told_apart(current.metrics) != _told_apart(told.metrics):
                            told_at = self._clock.monotonic()
                            yield FeedEvent("metrics", current.metrics)
                        if changed or current.workers != told.workers:
                            yield FeedEvent("workers", current.workers)
                        told, counted = current, system.version
                        await changes.wait(POLL_SECONDS)
                    await sleep(REST_SECONDS)
        finally:
            self._followers -= 1


def _told_apart(metrics: Metrics) -> Metrics:
    # Ages grow by themselves; that alone is no news.
    return metrics.model_copy(update={"oldest_queued_seconds": None, "measured_at": None})
