"""Reading a request and answering it, the same way on every route."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from anyio import create_task_group
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from holdfast_core.schemas import Request as RequestModel
from holdfast_core.schemas import parse_query, parse_request

__all__ = ["IGNORED_FIELDS", "answer", "read_body", "read_query", "while_connected"]

R = TypeVar("R", bound=RequestModel)
T = TypeVar("T")

IGNORED_FIELDS = "Holdfast-Ignored-Fields"
#: Clients refuse answers whose headers are too large.
MAX_IGNORED_NAMED: Final = 20


async def read_body(request: Request, model: type[R], *, optional: bool = False) -> tuple[R, list[str]]:
    """The body as a request, and the fields in it that were ignored. Raises InvalidRequest.

    `optional`: no body at all counts as `{}`.
    """
    raw = await request.body()
    return parse_request(model, b"{}" if optional and not raw else raw)


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
