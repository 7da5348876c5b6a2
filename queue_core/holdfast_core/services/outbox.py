"""What a push session has to say, in its order, until it is over."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from anyio import BrokenResourceError, ClosedResourceError, WouldBlock, create_memory_object_stream

from holdfast_core.schemas.sessions import ServerFrame

__all__ = ["Closed", "Outbox"]

#: Frames that wait to be sent to one worker. One that reads more slowly is closed, and comes back for a fresh start.
MOST_WAITING: Final = 256
#: WebSocket close codes (RFC 6455; 1013 from its registry).
TRY_AGAIN_LATER: Final = 1013


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a session, from our side: a WebSocket close code, and why."""

    code: int
    reason: str


class Outbox:
    """Frames on their way to one worker. To put one in never waits; who takes them out comes to the end once the
    session is over, and finds in `closed` how the connection is to be closed: None where the worker is gone."""

    def __init__(self) -> None:
        self._sending, self._receiving = create_memory_object_stream[str](MOST_WAITING)
        self._on_end: Callable[[], None] | None = None
        self.over = False
        self.closed: Closed | None = None

    def on_end(self, call: Callable[[], None]) -> None:
        """Call this once, when it is over."""
        self._on_end = call

    def send(self, frame: ServerFrame) -> None:
        """Put a frame into the order. A worker that does not read what it is sent is closed."""
        if not self.over:
            self.send_text(frame.model_dump_json())

    def send_text(self, text: str) -> None:
        """The same, with a frame as it goes over the wire: written once for many."""
        if self.over:
            return
        try:
            self._sending.send_nowait(text)
        except WouldBlock:
            while self._receiving.statistics().current_buffer_used:
                self._receiving.receive_nowait()
            self.end(Closed(TRY_AGAIN_LATER, "what is sent here is not read fast enough"))
        except (BrokenResourceError, ClosedResourceError):
            self.end(None)

    def end(self, closed: Closed | None) -> None:
        """Nothing more is said after what is in the order already. The first end counts."""
        if self.over:
            return
        self.over = True
        self.closed = closed
        self._sending.close()
        if self._on_end is not None:
            self._on_end()

    async def frames(self) -> AsyncIterator[str]:
        """What is to be sent, as it comes: a JSON text each."""
        with self._receiving:
            async for text in self._receiving:
                yield text

    def dispose(self) -> None:
        """Let go of what was not sent."""
        self._sending.close()
        self._receiving.close()
