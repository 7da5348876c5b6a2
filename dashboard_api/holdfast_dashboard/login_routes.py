"""The way in for browsers: a token is traded for a session's cookie. Tokens never stand in an address."""

from math import floor

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from holdfast_core.errors import NotAllowed, NotAuthenticated, NotFound, TooManyRequests
from holdfast_core.schemas import Identity, LoginRequest
from holdfast_core.settings import Settings
from holdfast_dashboard.authentication import cookie_name, is_secure
from holdfast_dashboard.context import Context
from holdfast_dashboard.limits import Attempts, address_of
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.requests import answer, read_body

__all__ = ["login_operations", "set_session"]


def login_operations(context: Context) -> Operations:
    """`/login`, `/logout` and `/api/session`."""
    operations = Operations("access")

    @operations.add(
        "POST",
        "/login",
        summary="Trade a token for a session",
        body=LoginRequest,
        answers=Identity,
        refuses=(NotAuthenticated, NotAllowed, NotFound, TooManyRequests),
    )
    async def log_in(request: Request) -> Response:
        """The session is a cookie that scripts cannot read; it ends with the token, or after twelve hours."""
        body, _ = await read_body(request, LoginRequest)
        refuse_where_disabled(context.settings)
        attempts: Attempts = request.scope["holdfast.attempts"]
        address = address_of(request.scope)
        attempts.refuse_many(address)
        services = context.services
        try:
            login = await services.logins.of_token(body.token.strip())
        except NotAuthenticated:
            attempts.failed(address)
            raise
        cookie, seconds = await services.access.begin_session(login)
        response = answer(services.access.identity(login.caller))
        set_session(request, response, context.settings, cookie, seconds)
        return response

    @operations.add("POST", "/logout", summary="End the session", answers=None, status=204)
    async def log_out(request: Request) -> Response:
        response = Response(status_code=204)
        cookie = request.cookies.get(cookie_name(is_secure(request, context.settings)))
        if cookie is not None:
            await context.services.access.end_session(cookie)
            set_session(request, response, context.settings, "", 0)
        return response

    @operations.add("GET", "/api/session", summary="Who is asking, and what they may do", answers=Identity)
    async def get_session(request: Request) -> Response:
        return answer(context.services.access.identity(context.caller(request)))

    return operations


def refuse_where_disabled(settings: Settings) -> None:
    """Raises NotFound while authentication is disabled."""
    if settings.auth_provider == "disabled":
        raise NotFound("Authentication is disabled on this server: nobody has to log in.")


def set_session(
    connection: HTTPConnection, response: Response, settings: Settings, cookie: str, seconds: float
) -> None:
    """Give the browser this cookie for so long; 0 takes it away."""
    secure = is_secure(connection, settings)
    response.set_cookie(
        cookie_name(secure),
        cookie,
        max_age=floor(seconds),
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
