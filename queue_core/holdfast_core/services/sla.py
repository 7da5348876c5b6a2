"""Tells operators of a pause that lasts longer than a pause should (OBS-01).

Every process knows how long the pause has lasted, by the database's clock, and shows it in its metrics. The log line
and the webhook come from one of them: the one that has written into the database that it will. Should it end before it
has told, another does so instead, so they come at least once; while the pause goes on, again after a day.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Final

import structlog
from anyio import sleep

from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import System
from holdfast_core.services.counters import Counters
from holdfast_core.services.watch import PauseWatch
from holdfast_core.settings import Settings
from holdfast_core.store.alerts import pause_seconds, take, told

__all__ = ["PauseAlert", "Send"]

log = structlog.get_logger(__name__)

#: How often each process looks at how long the pause has lasted.
LOOK_SECONDS: Final = 1.0
#: How long the process that tells may take until another does it: longer than the webhook tries.
TELL_SECONDS: Final = 120.0
#: How often it is looked at again whether it has been told.
AGAIN_SECONDS: Final = 30.0
DAY_SECONDS: Final = 86_400.0

#: Sends the alert of this pause, which has lasted so many seconds, under this id. Returns whether it arrived.
Send = Callable[[str, System, float], Awaitable[bool]]


class PauseAlert:
    """How long the pause lasts, and what is told when that is too long. `send`: None where nobody else is told."""

    def __init__(
        self,
        database: Database,
        watch: PauseWatch,
        counters: Counters,
        settings: Settings,
        clock: Clock,
        send: Send | None,
    ) -> None:
        self._database = database
        self._watch = watch
        self._counters = counters
        self._sla = settings.pause_sla_seconds
        self._clock = clock
        self._send = send
        #: The pause that was looked at, by when it began; and that moment by the monotonic clock.
        self._pause: datetime | None = None
        self._began = 0.0
        self._look_again_at = float("-inf")

    @property
    def seconds(self) -> float:
        """How long the pause has lasted; 0 while there is none. By the host's clock until the database's was asked."""
        paused = self._watch.paused
        if paused is None or paused.requested_at is None:
            return 0.0
        if paused.requested_at != self._pause:
            return max(0.0, (self._clock.now() - paused.requested_at).total_seconds())
        return max(0.0, self._clock.monotonic() - self._began)

    @property
    def exceeded(self) -> bool:
        """Whether that is longer than a pause should last."""
        return 0 < self._sla <= self.seconds

    async def look(self) -> bool:
        """Look at the pause, and tell of it if it is time. Returns whether this process told."""
        paused = self._watch.paused
        if paused is None:
            self._pause = None
            return False
        if paused.requested_at != self._pause:
            seconds = await self._database.read(pause_seconds)
            if seconds is None:
                return False  # it has ended, and this process has not heard of that yet
            self._began = self._clock.monotonic() - seconds
            self._pause = paused.requested_at
            self._look_again_at = float("-inf")
        if not self.exceeded or self._clock.monotonic() < self._look_again_at:
            return False
        return await self._tell(paused)

    async def _tell(self, paused: System) -> bool:
        assert paused.requested_at is not None
        seconds = self.seconds
        # The same for every process, and another one for each day that it lasts.
        name = f"pause_sla_{paused.requested_at:%Y%m%dT%H%M%S%f}_{seconds // DAY_SECONDS:.0f}"
        found = await self._database.write(
            partial(take, key=name, version=paused.version, again_after=TELL_SECONDS), lane=Lane.SINGLE
        )
        self._look_again_at = self._clock.monotonic() + AGAIN_SECONDS
        if found == "told":
            self._rest()
        if found != "taken":
            return False
        log.warning(
            "pause_sla_exceeded",
            pause_version=paused.version,
            mode=paused.mode,
            reason=paused.reason,
            requested_by=paused.requested_by,
            paused_seconds=round(seconds, 1),
            sla_seconds=self._sla,
        )
        if self._send is not None:
            arrived = await self._send(name, paused, seconds)
            self._counters.add("alerts_delivered" if arrived else "alerts_failed")
        await self._database.write(lambda connection: told(connection, name), lane=Lane.SINGLE)
        self._rest()
        return True

    def _rest(self) -> None:
        """Until it is to be told of again."""
        self._look_again_at = self._began + (self.seconds // DAY_SECONDS + 1) * DAY_SECONDS

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            try:
                await self.look()
            except HoldfastError as error:
                log.warning("pause_sla_not_looked_at", cause=error.detail)
            await sleep(LOOK_SECONDS)
