"""Push sessions over WebSockets: frames in, frames out, and nothing of their rules (CONTRACT section 6)."""

from typing import Final

from anyio import create_task_group, fail_after
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from holdfast_core.errors import FieldError, InvalidRequest, NotFound, UpgradeRequired
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import Name
from holdfast_core.schemas.sessions import SUBPROTOCOL
from holdfast_core.services import Closed, Outbox, Session
from holdfast_dashboard.authentication import while_good
from holdfast_dashboard.context import Context
from holdfast_dashboard.problems import problem

__all__ = ["SEND_SECONDS", "session_routes"]

PATH: Final = "/api/queue/workers/{worker_id}/connect"
#: A worker that does not read a frame for so long is gone.
SEND_SECONDS: Final = 10.0
#: WebSocket close codes (RFC 6455), and one of our own: the worker does not come back by itself.
GOING_AWAY: Final = 1001
UNSUPPORTED: Final = 1003
TOKEN_ENDED: Final = 4001

_NAME: Final = TypeAdapter[str](Name)


def session_routes(context: Context) -> list[BaseRoute]:
    """The route on which workers connect, what a plain request gets there, and what a WebSocket gets elsewhere."""

    async def connect(websocket: WebSocket) -> None:
        worker_id = _worker_id(websocket.path_params["worker_id"])
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            raise InvalidRequest.of(
                FieldError(
                    "Sec-WebSocket-Protocol", f"must offer {SUBPROTOCOL}: it is what this server speaks"
                )
            )
        async with context.services.sessions.open(context.caller(websocket), worker_id) as session:
            await websocket.accept(subprotocol=SUBPROTOCOL)

            def ended() -> None:
                session.outbox.end(Closed(TOKEN_ENDED, "the token has ended"))

            with while_good(websocket, ended):
                async with create_task_group() as tasks:
                    tasks.start_soon(_read, websocket, session)
                    await _write(websocket, session.outbox)
                    tasks.cancel_scope.cancel()

    async def plain(request: Request) -> Response:
        admit(context.caller(request), Permission.WORK, "open a push session")
        answer = problem(
            UpgradeRequired(f"Workers connect here by WebSocket, with the subprotocol {SUBPROTOCOL}.")
        )
        answer.headers["Upgrade"] = "websocket"  # as RFC 9110, 15.5.22 asks for
        return answer

    async def nothing(websocket: WebSocket) -> None:
        raise NotFound("There is no WebSocket at this address.")

    return [
        WebSocketRoute(PATH, connect),
        Route(PATH, plain, include_in_schema=False),
        WebSocketRoute("/{path:path}", nothing),
    ]


async def _read(websocket: WebSocket, session: Session) -> None:
    """Hand in what the worker says, until one of us has closed."""
    outbox = session.outbox
    while not outbox.over:
        try:
            with fail_after(session.patience):
                message = await websocket.receive()
        except TimeoutError:
            outbox.end(Closed(GOING_AWAY, "nothing was heard of the worker"))
            return
        if message["type"] != "websocket.receive":
            outbox.end(None)
        elif (text := message.get("text")) is None:
            outbox.end(Closed(UNSUPPORTED, "frames are text"))
        else:
            await session.handle(text)


async def _write(websocket: WebSocket, outbox: Outbox) -> None:
    """Send what the session has to say, in its order, and close as it says. Returns at once where the worker has
    gone, or does not read."""
    try:
        async for text in outbox.frames():
            with fail_after(SEND_SECONDS):
                await websocket.send_text(text)
        if outbox.closed is not None:
            with fail_after(SEND_SECONDS):
                await websocket.close(outbox.closed.code, outbox.closed.reason)
    except (WebSocketDisconnect, TimeoutError):
        return


def _worker_id(given: str) -> str:
    try:
        return _NAME.validate_python(given)
    except ValidationError:
        raise InvalidRequest.of(
            FieldError("workerId", "is no name: 1 to 128 of A-Z a-z 0-9 . _ : / @ -")
        ) from None
