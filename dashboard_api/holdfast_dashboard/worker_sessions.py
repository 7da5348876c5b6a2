"""Push sessions over WebSockets: frames in, frames out, and nothing of their rules (CONTRACT section 6)."""

from typing import Final

import structlog
from anyio import create_task_group, fail_after
from anyio.streams.memory import MemoryObjectReceiveStream
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from holdfast_core.errors import FieldError, InvalidRequest, UpgradeRequired
from holdfast_core.schemas import Name
from holdfast_core.schemas.sessions import MAX_FRAME_BYTES, SUBPROTOCOL
from holdfast_core.services import Closed, Outgoing, Session
from holdfast_dashboard.context import Context

__all__ = ["session_routes"]

log = structlog.get_logger(__name__)

PATH: Final = "/api/queue/workers/{worker_id}/connect"
#: How long a worker may take to say hello, and how many of its own intervals it may be silent.
HELLO_SECONDS: Final = 10.0
SILENT_INTERVALS: Final = 3
#: WebSocket close codes (RFC 6455).
GOING_AWAY: Final = 1001
UNSUPPORTED: Final = 1003
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009
TRY_AGAIN_LATER: Final = 1013

_NAME: Final = TypeAdapter[str](Name)


def session_routes(context: Context) -> list[BaseRoute]:
    """The route on which workers connect, and what a plain request gets there."""

    async def connect(websocket: WebSocket) -> None:
        worker_id = _worker_id(websocket.path_params["worker_id"])
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            raise UpgradeRequired(
                f"Offer the WebSocket subprotocol {SUBPROTOCOL}: it is what this server speaks."
            )
        caller = context.caller(websocket)
        async with context.services.sessions.open(caller, worker_id) as (session, outgoing):
            await websocket.accept(subprotocol=SUBPROTOCOL)
            async with create_task_group() as tasks:
                tasks.start_soon(_write, websocket, outgoing)
                try:
                    await _read(websocket, session)
                finally:
                    session.over = True
                    tasks.cancel_scope.cancel()

    async def plain(request: Request) -> Response:
        raise UpgradeRequired("A worker connects here by WebSocket.")

    return [WebSocketRoute(PATH, connect), Route(PATH, plain, include_in_schema=False)]


async def _read(websocket: WebSocket, session: Session) -> None:
    """What the worker says, until it or we have closed."""
    patience = HELLO_SECONDS
    while not session.over:
        try:
            with fail_after(patience):
                raw = await websocket.receive_text()
        except WebSocketDisconnect:
            return
        except KeyError:  # a binary frame
            session.close(Closed(UNSUPPORTED, "frames are text"))
            break
        except TimeoutError:
            session.close(Closed(GOING_AWAY, "nothing was heard of the worker"))
            break
        if len(raw) > MAX_FRAME_BYTES:
            session.close(Closed(TOO_BIG, "the frame is too large"))
            break
        await session.handle(raw)
        patience = SILENT_INTERVALS * session.heartbeat_seconds
    await _closed(websocket)


async def _closed(websocket: WebSocket) -> None:
    """We have closed: wait for the other side to agree, for a moment."""
    try:
        with fail_after(HELLO_SECONDS):
            while websocket.application_state is not WebSocketState.DISCONNECTED:
                await websocket.receive()
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
        return


async def _write(websocket: WebSocket, outgoing: MemoryObjectReceiveStream[Outgoing]) -> None:
    """What the session has to say, in its order."""
    try:
        async for frame in outgoing:
            if isinstance(frame, Closed):
                await websocket.close(frame.code, frame.reason)
                return
            await websocket.send_text(frame.model_dump_json())
        await websocket.close(TRY_AGAIN_LATER, "frames are not read fast enough")
    except (WebSocketDisconnect, RuntimeError):
        return  # gone in this moment; the reader notices, too


def _worker_id(given: str) -> str:
    try:
        return _NAME.validate_python(given)
    except ValidationError:
        raise InvalidRequest.of(
            FieldError("workerId", "is no name: 1 to 128 of A-Z a-z 0-9 . _ : / @ -")
        ) from None
