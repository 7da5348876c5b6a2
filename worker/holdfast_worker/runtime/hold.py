"""The pause that a worker obeys: the system's, or its own operator's. One object tells all parts of the worker.

The system's pause is what the server said last. The local pause is this process's alone (studio, ST-01): in memory,
off after each start, never cleared by a resume of the system.
"""

import time
from threading import get_ident
from typing import Final

import structlog
from anyio import Event, from_thread
from anyio.lowlevel import EventLoopToken, current_token

from holdfast_core.schemas import System
from holdfast_core.states import PauseMode

__all__ = ["LOCALLY_PAUSED", "Hold"]

log = structlog.get_logger(__name__)

#: Why a worker rejects what is offered to it nevertheless (studio, ST-03).
LOCALLY_PAUSED: Final = "worker paused by operator"


class Hold:
    """What a worker knows of both pauses. The flips may be called from any thread; the rest belongs to the loop."""

    def __init__(self) -> None:
        self._system: System | None = None
        self._learnt_at = float("-inf")
        self._local = False
        self._stopping = False
        self._revision = 0
        self._event = Event()
        self._home: tuple[EventLoopToken, int] | None = None

    def settle(self) -> None:
        """Belong to the running event loop, so that flips from other threads reach it."""
        self._home = current_token(), get_ident()

    @property
    def system(self) -> System | None:
        """What the server said last; None before its first word."""
        return self._system

    @property
    def version(self) -> int | None:
        """The version of the system's pause that this worker has seen."""
        return None if self._system is None else self._system.version

    @property
    def age_seconds(self) -> float:
        """How long ago the server was asked for what is known here."""
        return time.monotonic() - self._learnt_at

    @property
    def system_paused(self) -> bool:
        """Whether the system is paused, as far as this worker knows."""
        return self._system is not None and self._system.workers_paused

    @property
    def quiesced(self) -> bool:
        """Whether running jobs are to wait at their checkpoints."""
        return self._system is not None and self._system.mode is PauseMode.QUIESCE

    @property
    def locally_paused(self) -> bool:
        """Whether this worker's own operator has paused it."""
        return self._local

    @property
    def stopping(self) -> bool:
        """Whether the worker is to end once its jobs have."""
        return self._stopping

    @property
    def takes_work(self) -> bool:
        """Whether the worker may ask for a job: the system's pause is the server's to say."""
        return not self._local and not self._stopping

    def stop(self) -> bool:
        """Take nothing new, and end once what runs has ended. Returns whether that is a change."""
        if self._stopping:
            return False
        self._stopping = True
        log.info("stopping")
        self._tell_the_loop()
        return True

    def pause_locally(self) -> bool:
        """Take nothing new; what runs goes on. Returns whether that is a change."""
        return self._flip(True)

    def resume_locally(self) -> bool:
        """Take work again, as far as the system is not paused. Returns whether that is a change."""
        return self._flip(False)

    def learn(self, system: System, *, asked_at: float) -> bool:
        """Take in what the server said. `asked_at`: time.monotonic() before the question.

        One line of the log for each version, and one when the pause clears. Returns whether this is news; an answer
        that was overtaken by a newer one is none.
        """
        known = self._system
        if known is not None and system.version <= known.version:
            if system.version == known.version:
                self._learnt_at = max(self._learnt_at, asked_at)
                return False
            if asked_at <= self._learnt_at:
                return False
        self._system = system
        self._learnt_at = max(self._learnt_at, asked_at)
        self._tell(known, system)
        self._changed()
        return True

    @property
    def revision(self) -> int:
        """Grows at each change, of either pause."""
        return self._revision

    async def changed(self, since: int) -> int:
        """Wait until there is a newer revision than `since`, and return it."""
        while self._revision <= since:
            await self._event.wait()
        return self._revision

    def _flip(self, paused: bool) -> bool:
        if self._local == paused:
            return False
        self._local = paused
        log.info("locally_paused" if paused else "locally_resumed")
        self._tell_the_loop()
        return True

    def _tell_the_loop(self) -> None:
        if self._home is None or self._home[1] == get_ident():
            self._changed()
        else:
            from_thread.run_sync(self._changed, token=self._home[0])

    def _changed(self) -> None:
        self._revision += 1
        event, self._event = self._event, Event()
        event.set()

    def _tell(self, before: System | None, now: System) -> None:
        if now.workers_paused:
            log.info("workers_paused", pause_version=now.version, mode=now.mode, reason=now.reason)
        elif before is not None and before.workers_paused:
            log.info("pause_cleared", pause_version=now.version)
