"""Reading a request and answering it, the same way on every route."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from anyio import create_task_group
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from holdfast_core.errors import FieldError, InvalidRequest
from holdfast_core.schemas import IdempotencyKey, parse_query, parse_request
from holdfast_core.schemas import Request as RequestModel
from holdfast_dashboard.authentication import token_ended, while_good
from holdfast_dashboard.operations import Wire
from holdfast_dashboard.security_headers import OF_ANSWERS

__all__ = [
    "IGNORED_FIELDS",
    "Json",
    "answer",
    "json_of",
    "last_event_id",
    "read_body",
    "read_key",
    "read_query",
    "refuse_key",
    "while_connected",
    "wire_of",
]

R = TypeVar("R", bound=RequestModel)
T = TypeVar("T")

_KEY: Final = TypeAdapter[str](IdempotencyKey)
IGNORED_FIELDS = "Holdfast-Ignored-Fields"
#: Clients refuse answers whose headers are too large.
MAX_IGNORED_NAMED: Final = 20
_IS_JSON: Final = (b"content-type", b"application/json")


class Json(Response):
    """What is JSON already, with all header fields: what is answered most passes as few layers as can be."""

    def __init__(self, body: bytes, *, status: int = 200) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [_IS_JSON, (b"content-length", b"%d" % len(body)), *OF_ANSWERS]


_LINES: Final = b"".join(
    b"%s: %s\r\n" % field for field in (_IS_JSON, *OF_ANSWERS, (b"content-length", b"%d"))
)


def wire_of(body: bytes) -> Wire:
    """A good answer of JSON, as `Json` has it."""
    return _LINES % len(body), body


def json_of(model: BaseModel) -> bytes:
    """A model as it goes over the wire: `model_dump_json` without the way there and back through text."""
    return model.__pydantic_serializer__.to_json(model)


async def read_body(request: Request, model: type[R], *, optional: bool = False) -> tuple[R, list[str]]:
    """The body as a request, and the fields in it that were ignored. Raises InvalidRequest.

    `optional`: no body at all counts as `{}`.
    """
    message = await request.receive()
    raw: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect" or message.get("more_body", False):
        raw = await _rest(request, message)
    return parse_request(model, b"{}" if optional and not raw else raw)


async def _rest(request: Request, message: Message) -> bytes:
    """A body that comes in parts, of which `message` is the first. Raises ClientDisconnect."""
    parts: list[bytes] = []
    while message["type"] != "http.disconnect":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await request.receive()
    raise ClientDisconnect


def read_key(request: Request) -> str | None:
    """The Idempotency-Key header, or None. Raises InvalidRequest."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    try:
        return _KEY.validate_python(given[0] if len(given) == 1 else "")
    except ValidationError:
        raise InvalidRequest.of(
            FieldError("Idempotency-Key", "must be given once, with 1 to 255 printable ASCII characters")
        ) from None


def last_event_id(request: Request) -> str | None:
    """Where a client that comes back to a stream had got to."""
    return request.headers.get("last-event-id")


def refuse_key(request: Request, advice: str) -> None:
    """Refuse an Idempotency-Key where it would be passed over in silence. Raises InvalidRequest."""
    if "idempotency-key" in request.headers:
        raise InvalidRequest.of(FieldError("Idempotency-Key", f"is not taken here: {advice}"))


def read_query(request: Request, model: type[R]) -> R:
    """The query string as a request. Raises InvalidRequest."""
    return parse_query(model, request.query_params.multi_items())


def answer(
    model: BaseModel | bytes,
    ignored: list[str] | None = None,
    *,
    status: int = 200,
    location: str | None = None,
) -> Response:
    """A model as JSON (or its JSON), with the ignored fields named in a header (the first of them, if there are
    many)."""
    response = Json(model if isinstance(model, bytes) else json_of(model), status=status)
    if ignored:
        named = ignored[:MAX_IGNORED_NAMED]
        response.headers[IGNORED_FIELDS] = ", ".join(named if named == ignored else [*named, "..."])
    if location is not None:
        response.headers["Location"] = location
    return response


async def while_connected(request: Request, call: Callable[[], Awaitable[T]]) -> T | None:
    """What `call` gives, or None once the client has gone away: the call is then cancelled. So it is when the caller's
    credential ends; raises NotAuthenticated then."""
    result: T | None = None
    failure: Exception | None = None
    is_over = False
    async with create_task_group() as tasks:

        def end() -> None:
            nonlocal is_over
            is_over = True
            tasks.cancel_scope.cancel()

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        with while_good(request, end):
            try:
                result = await call()
            except Exception as error:  # as it is, not wrapped in the group's
                failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if is_over and result is None:
        raise token_ended()
    return result
