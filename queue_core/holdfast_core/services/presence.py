"""Who is there: kept in memory, written behind, never in the way of an answer."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from anyio import sleep

from holdfast_core.clock import Clock
from holdfast_core.db import Database
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import Transport
from holdfast_core.store.workers import Described, Seen, write_presence

__all__ = ["Presence"]

log = structlog.get_logger(__name__)

#: How often changes of a worker's state or version are written, all in one batch.
FLUSH_SECONDS: Final = 1.0
#: How often a worker that only goes on being there is written.
REWRITE_SECONDS: Final = 5.0
#: Workers that one process keeps in mind; the one heard of longest ago makes room.
REMEMBERED: Final = 20_000
#: Rows of one batch.
BATCH: Final = 1_000


@dataclass(slots=True)
class _Known:
    capabilities: tuple[str, ...] = ()
    transport: Transport = "rest"
    auto_enabled: bool = True
    described: Described | None = None
    observed: int | None = None
    #: The version of the last answer: seen, once the worker comes again, though it may not say so.
    answered: int | None = None
    #: What it said of itself: the seconds within which it is due again.
    every: float = 0.0
    #: What it does: the smaller of its last two gaps.
    pace: float = 0.0
    #: The time between its last two words.
    gap: float = 0.0
    seen_at: float = float("-inf")
    written_at: float = float("-inf")
    changed: bool = True


class Presence:
    """What this process knows of the workers that speak to it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def seen(
        self,
        worker_id: str,
        transport: Transport | None,
        *,
        every: float | None = None,
        observed_version: int | None = None,
        capabilities: list[str] | None = None,
        auto_enabled: bool | None = None,
        described: Described | None = None,
    ) -> None:
        """A worker has spoken. None leaves what is known. `every`: the seconds within which it is due again."""
        now = self._clock.monotonic()
        known = self._known.get(worker_id)
        if known is None:
            known = self._known[worker_id] = _Known()
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        else:
            # What it said of itself, or else its pace: a gap counts once it comes twice, since being away
            # for a day is no pace.
            gap = now - known.seen_at
            known.pace = min(gap, known.gap)
            known.gap = gap
            self._known.move_to_end(worker_id)
        if every is not None:
            known.every = every
        known.seen_at = now
        observed = observed_version if observed_version is not None else known.answered
        if observed is not None and observed != known.observed:
            known.observed, known.changed = observed, True
        if transport is not None and transport != known.transport:
            known.transport, known.changed = transport, True
        if auto_enabled is not None and auto_enabled != known.auto_enabled:
            known.auto_enabled, known.changed = auto_enabled, True
        if capabilities is not None and (now_has := tuple(capabilities)) != known.capabilities:
            known.capabilities, known.changed = now_has, True
        if described is not None and described != known.described:
            known.described, known.changed = described, True

    def answered(self, worker_id: str, version: int) -> None:
        """A worker was told of this version."""
        known = self._known.get(worker_id)
        if known is not None:
            known.answered = version

    async def flush(self) -> None:
        """Write what has changed, and what has not been written for a while."""
        now = self._clock.monotonic()
        due = [
            (worker_id, known)
            for worker_id, known in self._known.items()
            if known.seen_at > known.written_at
            and (known.changed or now - known.written_at >= REWRITE_SECONDS)
        ]
        for start in range(0, len(due), BATCH):
            batch = due[start : start + BATCH]
            rows = [
                Seen(
                    worker_id=worker_id,
                    capabilities=known.capabilities,
                    transport=known.transport,
                    auto_enabled=known.auto_enabled,
                    observed_version=known.observed,
                    interval_seconds=max(known.every, known.pace),
                    age_seconds=max(0.0, now - known.seen_at),
                    described=known.described,
                )
                for worker_id, known in batch
            ]
            for _, known in batch:
                known.changed = False
            try:
                await self._database.write(partial(write_presence, seen=rows))
            except BaseException:
                for _, known in batch:
                    known.changed = True
                raise
            for _, known in batch:
                known.written_at = now

    async def run(self) -> None:
        """Write behind, until cancelled."""
        while True:
            await sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except HoldfastError as error:
                log.warning("presence_not_written", cause=error.detail)
