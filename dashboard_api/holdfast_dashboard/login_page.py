"""The page at `/login`: a token is traded for a session there, or the OpenID provider is asked."""

import re
from typing import Final
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from holdfast_core.callers import Caller
from holdfast_core.errors import HoldfastError, NotAuthenticated
from holdfast_dashboard.authentication import cookie_name, is_secure
from holdfast_dashboard.context import Context
from holdfast_dashboard.login_routes import set_session
from holdfast_dashboard.markup import PAGE_POLICY, template, text

__all__ = ["FIRST_PAGE", "local_page", "login_page"]

FIRST_PAGE: Final = "/tasks"

_PAGE: Final = template("login.html")
#: A path under /tasks and maybe a query, of what stands in addresses (RFC 3986): no host, no backslash, no fragment.
_LOCAL: Final = re.compile(r"(/tasks(?:/[\w.~!$&'()*+,;=:@%-]+)*)(?:\?[\w.~!$&'()*+,;=:@%/?-]*)?", re.ASCII)


def local_page(wanted: str) -> str:
    """The address, if it is that of one of our pages; else that of the first. No login leads to another site."""
    found = _LOCAL.fullmatch(wanted)
    # A browser walks up at `..`, however it is written.
    if found is None or any(unquote(part) in {".", ".."} for part in found[1].split("/")):
        return FIRST_PAGE
    return wanted


async def login_page(context: Context, request: Request) -> Response:
    """The page, or, while authentication is disabled, the one that was wanted."""
    wanted = local_page(request.query_params.get("next", ""))
    settings = context.settings
    if settings.auth_provider == "disabled":
        return RedirectResponse(wanted, 303)
    words = {"next": text(wanted), "who": "", "elsewhere": ""}
    is_over = False
    try:
        caller = await _caller(context, request)
    except NotAuthenticated:
        is_over = True
    else:
        if caller is not None:
            words["who"] = _who(caller, wanted)
    if settings.auth_provider == "oidc" and settings.oidc_client_id is not None:
        words["elsewhere"] = (
            f'<p><a id="oidc" class="button primary" href="/login/oidc?next={quote(wanted, safe="")}">'
            "Log in with your organisation</a></p>\n<p>Or with a token:</p>\n"
        )
    answer = HTMLResponse(_PAGE.substitute(words), headers={"Content-Security-Policy": PAGE_POLICY})
    if is_over:
        set_session(request, answer, settings, "", 0)
    return answer


async def _caller(context: Context, request: Request) -> Caller | None:
    """Whose session this browser has; None where it has none, or that cannot be found out now. Raises
    NotAuthenticated where it has ended."""
    cookie = request.cookies.get(cookie_name(is_secure(request, context.settings)))
    if cookie is None:
        return None
    try:
        return (await context.services.logins.of_session(cookie)).caller
    except NotAuthenticated:
        raise
    except HoldfastError:
        return None


def _who(caller: Caller, wanted: str) -> str:
    return (
        f'<div id="who" class="standing"><p>You are logged in as <strong>{text(caller.name)}</strong>.</p>\n'
        f'<div class="actions"><a class="button" href="{text(wanted)}">Go on</a>\n'
        '<button type="button" id="log-out">Log out</button></div></div>\n'
    )
