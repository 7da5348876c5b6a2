"""Errors as problem+json (RFC 9457), from every source, in one shape."""

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from holdfast_core.errors import BodyTooLarge, HoldfastError, InternalError, MethodNotAllowed, NotFound
from holdfast_core.schemas import Problem

__all__ = ["PROBLEM_JSON", "problem", "refused_by_router", "refused_by_us", "unexpected"]

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"


def problem(error: HoldfastError) -> Response:
    """The answer that tells a client of `error`."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    body = Problem.of(error).model_dump_json(exclude_none=True)
    return Response(body, status_code=error.status, media_type=PROBLEM_JSON, headers=headers)


def unexpected(error: Exception, where: str) -> Response:
    """The answer to a bug of ours: the log has the traceback, the client has none of it."""
    log.error("unexpected_error", where=where, exc_info=error)
    return problem(
        InternalError("Something went wrong here, not with you. The server's log has the details.")
    )


async def refused_by_us(_: Request, error: Exception) -> Response:
    """A service or a guard has refused."""
    assert isinstance(error, HoldfastError)
    answer = problem(error)
    if isinstance(error, BodyTooLarge):
        # What of the body is still under way is not read: the connection is done with.
        answer.headers["Connection"] = "close"
    return answer


async def refused_by_router(request: Request, error: Exception) -> Response:
    """The framework has refused: no such address, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        # Beneath a mount no route of the app's own matches, and the files there are only read.
        allowed = ", ".join(_methods_at(request)) or "GET, HEAD"
        answer = problem(MethodNotAllowed(f"This address takes {allowed} only."))
        answer.headers["Allow"] = allowed
        return answer
    if error.status_code == 404:
        return problem(NotFound("There is nothing at this address. /openapi.json lists what there is."))
    return unexpected(error, request.url.path)


def _methods_at(request: Request) -> list[str]:
    """All methods of the address: the framework names only those of the first route that has it."""
    routes: list[BaseRoute] = request.app.routes
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
