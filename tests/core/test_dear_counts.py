"""Counts of what waits, where they take long: nobody who asks again waits for the next one."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import Connection

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database
from holdfast_core.services import Services
from holdfast_core.services.snapshots import BACKLOG_AGE_SECONDS
from holdfast_core.store import metrics
from support.core import MovableClock, enqueue
from support.stores import core

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


class SlowCounts:
    """Lets each count of what waits take half a second by the clock, and the next ones wait while the door is shut."""

    def __init__(self, database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read = database.read
        self._clock = clock
        self.begun = 0
        self.changed = anyio.Event()
        self.door = anyio.Event()
        self.door.set()
        monkeypatch.setattr(database, "read", self.read)

    async def read(self, work: Callable[[Connection], Any], **how: Any) -> Any:
        if work is metrics.backlog:
            self.begun += 1
            self.changed.set()
            await self.door.wait()
            self._clock.ahead += 0.5
        return await self._read(work, **how)

    async def next(self) -> None:
        """Until another count begins, from when this was called."""
        self.changed = anyio.Event()
        with anyio.fail_after(PATIENCE):
            await self.changed.wait()


async def queued(services: Services) -> int:
    with anyio.fail_after(PATIENCE):
        return (await services.pause.status(LOCAL_OPERATOR)).metrics.queued


async def test_who_asks_again_is_answered_while_the_next_count_is_under_way(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, database):
        counts = SlowCounts(database, clock, monkeypatch)
        assert await queued(services) == 0
        assert counts.begun == 1
        counts.door = anyio.Event()
        await enqueue(services)
        await counts.next()  # nobody has asked meanwhile
        assert await queued(services) == 0, "what was counted last"
        assert counts.begun == 2
        counts.door.set()
        with anyio.fail_after(PATIENCE):
            while await queued(services) == 0:
                await anyio.lowlevel.checkpoint()
        assert counts.begun == 2


async def test_a_count_that_nobody_looks_at_is_not_made_again_and_one_that_is_too_old_is_not_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, database):
        counts = SlowCounts(database, clock, monkeypatch)
        assert await queued(services) == 0
        await counts.next()  # for the look that there was
        await enqueue(services)
        clock.ahead += BACKLOG_AGE_SECONDS
        assert counts.begun == 2
        assert await queued(services) == 1
        assert counts.begun == 3
