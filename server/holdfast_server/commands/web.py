"""How `holdfast serve` runs the app: uvicorn, with a start and an end of our own.

What differs from plain uvicorn:
- A start that fails raises its cause instead of printing a traceback.
- A signal ends the process with exit code 0.
- Calls that still run when their time is up (long polls, mostly) are cancelled, as uvicorn does, but they
  are then answered 503 instead of failing with a traceback, and waited for before the services close,
  since a cancelled claim has a job to give back. Push sessions are closed with 1012 at once.
- A worker that does not read the end of its push session is cut off.
"""

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from holdfast_core.errors import going_down
from holdfast_core.schemas.sessions import MAX_FRAME_BYTES
from holdfast_server.commands.lean_http import lean_protocol

__all__ = ["GRACEFUL_SECONDS", "KEEP_ALIVE_SECONDS", "SessionProtocol", "run_server"]

#: Objects that are new when the collector looks at them: those of some hundred requests. With Python's 700 it comes at
#: every second request, and finds most of what it looks at still in use.
YOUNG_OBJECTS: Final = 20_000
#: How long calls in flight may go on after a signal, and how long they are waited for once cancelled.
GRACEFUL_SECONDS: Final = 2
#: Idle connections are kept for longer than a worker sleeps between two claims.
KEEP_ALIVE_SECONDS: Final = 30
#: How often a push session is asked whether it lives, and how long it has to answer.
WS_PING_SECONDS: Final = 20.0
#: How long what is left of a push session may take to be read, once it has ended.
CUT_OFF_SECONDS: Final = 15.0


def run_server(
    app: Starlette,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve `app` until a signal. `on_ready` is called once connections are accepted. With `tls`: HTTPS.

    Raises what the app's lifespan raised, at its start or at its end.
    """

    lifespan = _Lifespan(app)
    config = uvicorn.Config(
        lifespan,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        workers=1,
        http=lean_protocol(app),
        ws=SessionProtocol,
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=WS_PING_SECONDS,
        ws_ping_timeout=WS_PING_SECONDS,
        # Compression keeps a window for each connection, and frames are short.
        ws_per_message_deflate=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        ssl_context_factory=None if tls is None else _always(tls),
    )
    server = lifespan.server = _Server(config, on_ready)
    # Innermost, so that its refusal passes through the app's own middleware like every other.
    app.user_middleware.append(Middleware(_CutOff, server=server))
    app.state.is_closing = lambda: server.should_exit  # for calls that pass by it
    logger = logging.getLogger("uvicorn.error")
    # Of a failed start we tell ourselves, in one line.
    logger.addFilter(
        lambda record: server.started and not any(text in str(record.msg) for text in _NO_ERRORS)
    )
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if lifespan.failure is None:
            raise
    if lifespan.failure is not None:
        raise lifespan.failure


#: What uvicorn takes for errors: that long polls are cut, and what a client has sent (its session is closed for it).
_NO_ERRORS: Final = ("graceful shutdown exceeded", "Invalid UTF-8 sequence")


def _always(tls: ssl.SSLContext) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    return lambda config, default: tls


class _Server(uvicorn.Server):
    """Tells when it is ready, and ends with exit code 0 on a signal."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What was made until now lasts as long as the process. The collector, which each request in so many wakes,
            # need not walk through it.
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
            gc.enable()
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


class SessionProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, for push sessions. A peer that stops reading cannot keep its connection, and what waits in it, for
    ever; and a session that is refused over HTTP is no error for the log."""

    _cut_off: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self._cut_off = self.loop.call_later(CUT_OFF_SECONDS, self.transport.abort)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # by a refusal

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut_off is not None:
            self._cut_off.cancel()


class _Lifespan:
    """Stands in front of the app, and keeps what its lifespan raised."""

    server: _Server

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

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


class _CutOff:
    """ASGI middleware: a call that is cut off is refused like any other, or its stream ended."""

    def __init__(self, app: ASGIApp, *, server: _Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                await self._app(scope, receive, send)
            except asyncio.CancelledError:
                if not self._server.should_exit:
                    raise
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._server.should_exit:
                raise
            # Only uvicorn cancels, as the last thing that it does to a call: here the cancellation ends.
            if not is_started:
                raise going_down() from None
            with suppress(RuntimeError):  # it had promised a length
                await send(_END_OF_STREAM)


_END_OF_STREAM: Final[Message] = {"type": "http.response.body", "body": b""}
