"""Reading a request and answering it, the same way on every route."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from anyio import create_task_group
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core.errors import FieldError, InvalidRequest
from holdfast_core.schemas import IdempotencyKey, parse_query, parse_request
from holdfast_core.schemas import Request as RequestModel

__all__ = [
    "IGNORED_FIELDS",
    "answer",
    "last_event_id",
    "read_body",
    "read_key",
    "read_query",
    "refuse_key",
    "while_connected",
]

R = TypeVar("R", bound=RequestModel)
T = TypeVar("T")

_KEY: Final = TypeAdapter[str](IdempotencyKey)
IGNORED_FIELDS = "Holdfast-Ignored-Fields"
#: Clients refuse answers whose headers are too large.
MAX_IGNORED_NAMED: Final = 20


async def read_body(request: Request, model: type[R], *, optional: bool = False) -> tuple[R, list[str]]:
    """The body as a request, and the fields in it that were ignored. Raises InvalidRequest.

    `optional`: no body at all counts as `{}`.
    """
    raw = await request.body()
    return parse_request(model, b"{}" if optional and not raw else raw)


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
    model: BaseModel, ignored: list[str] | None = None, *, status: int = 200, location: str | None = None
) -> Response:
    """A model as JSON, with the ignored fields named in a header (the first of them, if there are many)."""
    response = Response(model.model_dump_json(), status_code=status, media_type="application/json")
    if ignored:
        named = ignored[:MAX_IGNORED_NAMED]
        response.headers[IGNORED_FIELDS] = ", ".join(named if named == ignored else [*named, "..."])
    if location is not None:
        response.headers["Location"] = location
    return response


async def while_connected(request: Request, call: Callable[[], Awaitable[T]]) -> T | None:
    """What `call` gives, or None once the client has gone away: the call is then cancelled."""
    result: T | None = None
    failure: Exception | None = None
    async with create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            result = await call()
        except Exception as error:  # as it is, not wrapped in the group's
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result
