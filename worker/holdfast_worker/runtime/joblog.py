"""What a job writes into its log, sent behind the job's back: no job waits or fails for the sake of a line."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import structlog
from anyio import Event, move_on_after, sleep

from holdfast_core.errors import HoldfastError, TooManyRequests, Unavailable
from holdfast_core.schemas import MAX_TEXT, LogLevel
from holdfast_worker.runtime.transports.base import Held, Transport

__all__ = ["JobLog"]

log = structlog.get_logger(__name__)

#: Events that wait to be sent; what comes when there are so many is counted instead.
MOST_WAITING: Final = 1_000
AGAIN_SECONDS: Final = 1.0
#: The end of a job waits for its log no longer than this.
LONGEST_FLUSH_SECONDS: Final = 30.0


class JobLog:
    """The log of one job. Written into at any time; `run` sends, in order."""

    def __init__(self, transport: Transport, held: Held) -> None:
        self._transport = transport
        self._held = held
        self._waiting: deque[tuple[LogLevel, str, Mapping[str, Any] | None]] = deque()
        self._left_out = 0
        self._closed = False
        self._more = Event()
        self._sent = Event()

    def add(self, level: LogLevel, message: str, payload: Mapping[str, Any] | None = None) -> None:
        """Add an event of at most 8,000 characters; what is longer is cut."""
        if self._closed or not message:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._left_out += 1
        else:
            self._waiting.append((level, message[:MAX_TEXT], payload))
        self._more.set()

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        while True:
            await self._more.wait()
            self._more = Event()
            while self._waiting:
                if await self._send(*self._waiting[0]) and self._waiting:
                    self._waiting.popleft()
                    self._tell_sent()
                if not self._waiting and self._left_out:
                    left_out, self._left_out = self._left_out, 0
                    self.add(
                        "warn",
                        f"{left_out:,} events of this log were left out: they came faster than they"
                        " could be sent.",
                    )

    def _tell_sent(self) -> None:
        sent, self._sent = self._sent, Event()
        sent.set()

    async def flush(self, seconds: float) -> None:
        """Wait until all is sent, as long as something goes out within `seconds`, and LONGEST_FLUSH_SECONDS at most."""
        with move_on_after(LONGEST_FLUSH_SECONDS):
            while before := len(self._waiting):
                with move_on_after(seconds):
                    await self._sent.wait()
                if len(self._waiting) >= before:
                    return

    async def _send(self, level: LogLevel, message: str, payload: Mapping[str, Any] | None) -> bool:
        """Whether it is done with, sent or not."""
        try:
            await self._transport.log(self._held, level, message, payload)
        except (Unavailable, TooManyRequests):
            await sleep(AGAIN_SECONDS)
            return False
        except HoldfastError as error:
            log.warning("job_log_refused", code=error.code, detail=error.detail)
            if error.status != 422:  # the claim is over, or the log is full: so it stays
                self._closed = True
                self._waiting.clear()
        return True
