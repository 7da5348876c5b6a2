"""One push session on the worker's side: frames out, frames in, and each answer to the call that waits for it."""

import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import uuid4

import structlog
from anyio import Event, fail_after, sleep
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from holdfast_core.errors import HoldfastError
from holdfast_core.schemas.sessions import ErrorFrame, ServerFrame, WorkerFrame, parse_server_frame
from holdfast_worker.failures import ServerUnreachable, UnexpectedAnswer, error_of
from holdfast_worker.wire import ANSWER_SECONDS

__all__ = ["PushSession"]

log = structlog.get_logger(__name__)

_F = TypeVar("_F", bound=ServerFrame)

#: The least time between two heartbeats of the session itself.
LEAST_HEARTBEAT_SECONDS: Final = 0.2


class _Waiting:
    """A call that waits for its answer."""

    def __init__(self) -> None:
        self.event = Event()
        self.answer: ServerFrame | None = None


class PushSession:
    """An open connection, after its `hello` or before it."""

    def __init__(self, connection: ClientConnection, url: str, heard: Callable[[ServerFrame], None]) -> None:
        self._connection = connection
        self._url = url
        self._heard = heard
        self._waiting: dict[str, _Waiting] = {}
        self._over = False
        self._ended_by: ConnectionClosed | None = None
        self._said_at = time.monotonic()

    async def run(self) -> None:
        """Take in frames until the connection is closed. Raises ConnectionClosed."""
        try:
            while True:
                self._take(await self._connection.recv())
        except ConnectionClosed as error:
            self._ended_by = error
            raise
        finally:
            self._over = True
            for waiting in self._waiting.values():
                waiting.event.set()

    async def beat(self, every: float, heartbeat: Callable[[], WorkerFrame]) -> None:
        """Say something at least this often, until cancelled: who is silent is taken for gone."""
        every = max(LEAST_HEARTBEAT_SECONDS, every)
        while True:
            await sleep(max(LEAST_HEARTBEAT_SECONDS, every - (time.monotonic() - self._said_at)))
            if time.monotonic() - self._said_at >= every:
                await self.tell(heartbeat())

    async def tell(self, frame: WorkerFrame) -> None:
        """Send a frame and go on. Raises ServerUnreachable."""
        self._said_at = time.monotonic()
        try:
            await self._connection.send(frame.model_dump_json(exclude_none=True))
        except ConnectionClosed as error:
            raise ServerUnreachable(f"The push session with {self._url} has ended.", sent=False) from error

    async def ask(self, frame: WorkerFrame, wanted: type[_F]) -> _F:
        """Send a frame and wait for its answer. Raises what the server refuses with, or ServerUnreachable."""
        ref = uuid4().hex
        waiting = self._waiting[ref] = _Waiting()
        try:
            await self.tell(frame.model_copy(update={"ref": ref}))
            if not self._over:
                with fail_after(ANSWER_SECONDS):
                    await waiting.event.wait()
        except TimeoutError:
            raise ServerUnreachable(
                f"{self._url} took the frame but has not answered within {ANSWER_SECONDS:g} s.", sent=True
            ) from None
        finally:
            del self._waiting[ref]
        answer = waiting.answer
        if answer is None:
            raise ServerUnreachable(
                f"The push session with {self._url} ended before the answer came.", sent=True
            ) from self._ended_by
        if isinstance(answer, ErrorFrame):
            raise error_of(answer.code, answer.message)
        if not isinstance(answer, wanted):
            raise UnexpectedAnswer(f"{self._url} answers {frame!r} with {type(answer).__name__}.")
        return answer

    def _take(self, raw: str | bytes) -> None:
        try:
            frame = parse_server_frame(raw)
        except (HoldfastError, ValidationError) as error:
            log.warning("frame_not_understood", url=self._url, cause=str(error)[:200])
            return
        if frame is None:
            return  # of a newer server
        waiting = self._waiting.get(frame.ref or "")
        if waiting is None:
            self._heard(frame)
        else:
            waiting.answer = frame
            waiting.event.set()
