"""Logins of browsers by the OpenID provider: the way there, and the way back.

What the way back is compared with is in a cookie of this one login, which the browser also sends when another site
sends it here; the session's own cookie it does not, so the last step is one of our own pages, which goes on by itself.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import astuple
from functools import wraps
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from holdfast_core.errors import HoldfastError, NotAuthenticated, NotFound
from holdfast_dashboard.authentication import is_secure
from holdfast_dashboard.context import Context
from holdfast_dashboard.limits import Attempts, address_of
from holdfast_dashboard.login_page import local_page
from holdfast_dashboard.login_routes import set_session
from holdfast_dashboard.markup import told

if TYPE_CHECKING:
    from holdfast_core.services.issuer_login import IssuerLogin, Pending

__all__ = ["CALLBACK_PATH", "oidc_routes"]

log = structlog.get_logger(__name__)

#: Where the provider sends browsers back to.
CALLBACK_PATH: Final = "/login/oidc/callback"
#: How long a login may take.
LOGIN_SECONDS: Final = 600
#: Longer addresses are not gone back to: cookies have to be small.
MAX_NEXT_CHARACTERS: Final = 1_000

#: State, nonce and verifier, and where to go then.
_COOKIE: Final = re.compile(r"([\w-]{43})\.([\w-]{43})\.([\w-]{43})\.([\w=-]{1,1400})", re.ASCII)


def oidc_routes(context: Context) -> list[BaseRoute]:
    """`/login/oidc` and its callback."""

    @_told
    async def begin(request: Request) -> Response:
        login = _login(context)
        wanted = _wanted(request)
        address, pending = await login.begin(_redirect_uri(context, request))
        response = RedirectResponse(address, 303)
        _keep(context, request, response, _packed(pending, wanted), LOGIN_SECONDS)
        return response

    @_told
    async def finish(request: Request) -> Response:
        login = _login(context)
        attempts: Attempts = request.scope["holdfast.attempts"]
        address = address_of(request.scope)
        attempts.refuse_many(address)
        try:
            pending, wanted = _unpacked(request.cookies.get(_cookie_name(context, request), ""))
            vouched = await login.finish(pending, request.query_params, _redirect_uri(context, request))
        except NotAuthenticated:
            attempts.failed(address)
            raise
        cookie, seconds = await context.services.access.begin_vouched_session(vouched)
        response = told(
            "Logged in", f"You are logged in as {vouched.name}.", href=wanted, way="Go on", at_once=True
        )
        set_session(request, response, context.settings, cookie, seconds)
        _keep(context, request, response, "", 0)
        return response

    return [Route("/login/oidc", begin), Route(CALLBACK_PATH, finish)]


def _told(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The same, with refusals as pages: it is people who come this way."""

    @wraps(answer)
    async def telling(request: Request) -> Response:
        try:
            return await answer(request)
        except HoldfastError as error:
            log.info("openid_login_failed", status=error.status, cause=error.detail)
            way = f"/login?next={quote(_wanted(request), safe='')}"
            page = told("Not logged in", error.detail, href=way, way="Back to the login", status=error.status)
            if error.retry_after is not None:
                page.headers["Retry-After"] = str(error.retry_after)
            return page

    return telling


def _login(context: Context) -> "IssuerLogin":
    issuer = context.services.issuer
    if issuer is None or issuer.login is None:
        raise NotFound("This server has no login by an OpenID provider. Log in with a token.")
    return issuer.login


def _wanted(request: Request) -> str:
    """The page of ours that the browser wants to see."""
    wanted = request.query_params.get("next", "")
    return local_page(wanted if len(wanted) <= MAX_NEXT_CHARACTERS else "")


def _redirect_uri(context: Context, request: Request) -> str:
    base = context.settings.public_url or str(request.base_url)
    return f"{base.rstrip('/')}{CALLBACK_PATH}"


def _cookie_name(context: Context, request: Request) -> str:
    return "__Host-holdfast-login" if is_secure(request, context.settings) else "holdfast-login"


def _keep(context: Context, request: Request, response: Response, value: str, seconds: int) -> None:
    """Have the browser keep this for so long; 0 takes it away."""
    response.set_cookie(
        _cookie_name(context, request),
        value,
        max_age=seconds,
        path="/",
        secure=is_secure(request, context.settings),
        httponly=True,
        samesite="lax",
    )


def _packed(pending: "Pending", wanted: str) -> str:
    return ".".join((*astuple(pending), urlsafe_b64encode(wanted.encode()).decode()))


def _unpacked(cookie: str) -> "tuple[Pending, str]":
    """What the browser has kept of its login, and where it goes then. Raises NotAuthenticated."""
    from holdfast_core.services.issuer_login import Pending  # loaded already, where there is a provider

    found = _COOKIE.fullmatch(cookie)
    if found is None:
        raise NotAuthenticated(
            "This browser has not begun a login, or more than ten minutes ago, or has ended it already. Log in again."
        )
    try:
        wanted = urlsafe_b64decode(found[4]).decode()
    except ValueError:
        wanted = ""
    return Pending(found[1], found[2], found[3]), local_page(wanted)
