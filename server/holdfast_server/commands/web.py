"""How `holdfast serve` runs the app: uvicorn, with a start and an end of our own.

What differs from plain uvicorn:
- A start that fails raises its cause instead of printing a traceback.
- A signal ends the process with exit code 0.
- Calls that still run when their time is up (long polls, mostly) are cancelled, as uvicorn does, but they
  are then answered 503 instead of failing with a traceback, and waited for before the services close,
  since a cancelled claim has a job to give back.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast_core.errors import Unavailable
from holdfast_core.schemas import Problem

__all__ = ["GRACEFUL_SECONDS", "KEEP_ALIVE_SECONDS", "run_server"]

#: How long calls in flight may go on after a signal, and how long they are waited for once cancelled.
GRACEFUL_SECONDS: Final = 2
#: Idle connections are kept for longer than a worker sleeps between two claims.
KEEP_ALIVE_SECONDS: Final = 30


def run_server(app: ASGIApp, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve `app` until a signal. `on_ready` is called once connections are accepted.

    Raises what the app's lifespan raised, at its start or at its end.
    """
    guarded = _Guarded(app)
    config = uvicorn.Config(
        guarded,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        workers=1,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    server = _Server(config, on_ready)
    guarded.server = server
    logger = logging.getLogger("uvicorn.error")
    # Of a failed start we tell ourselves, in one line; and that long polls are cut is no error.
    logger.addFilter(lambda record: server.started and "graceful shutdown exceeded" not in str(record.msg))
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if guarded.failure is None:
            raise
    if guarded.failure is not None:
        raise guarded.failure


class _Server(uvicorn.Server):
    """Tells when it is ready, and ends with exit code 0 on a signal."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Without the base's note of the signal, which it would raise again at the end.
        del frame
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True  # Ctrl-C again: do not wait for anybody
        self.should_exit = True

    async def calls_ended(self) -> None:
        """Wait for the calls that uvicorn has cancelled, for a bounded time."""
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=GRACEFUL_SECONDS)


class _Guarded:
    """Stands in front of the app: keeps what its lifespan raised, and ends calls that are cut off."""

    server: _Server

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._lifespan(scope, receive, send)
            case "http":
                await self._call(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def after_calls() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.server.calls_ended()
            return message

        async def without_traceback(message: Message) -> None:
            await send({**message, "message": ""} if "message" in message else message)

        try:
            await self._app(scope, after_calls, without_traceback)
        except Exception as error:
            self.failure = error
            raise

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self.server.should_exit:
                raise
            # Only uvicorn cancels, as the last thing that it does to a call: here the cancellation ends.
            if not is_started:
                await send(_GOING_DOWN_START)
                await send(_GOING_DOWN_BODY)
            else:
                with suppress(RuntimeError):  # it had promised a length
                    await send(_END_OF_STREAM)


_GOING_DOWN: Final = Unavailable("The server is going down. Repeat this in a moment.")
_GOING_DOWN_START: Final[Message] = {
    "type": "http.response.start",
    "status": _GOING_DOWN.status,
    "headers": [
        (b"content-type", b"application/problem+json"),
        (b"retry-after", str(_GOING_DOWN.retry_after).encode()),
        (b"connection", b"close"),
    ],
}
_GOING_DOWN_BODY: Final[Message] = {
    "type": "http.response.body",
    "body": Problem.of(_GOING_DOWN).model_dump_json(exclude_none=True).encode(),
}
_END_OF_STREAM: Final[Message] = {"type": "http.response.body", "body": b""}
