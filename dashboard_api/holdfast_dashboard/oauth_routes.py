"""Where OAuth clients find out who vouches for callers of `/mcp`: the metadata of a protected resource (RFC 9728)."""

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holdfast_core.errors import NotFound
from holdfast_core.policy import TOOLS, Permission, scope_of
from holdfast_dashboard.authentication import METADATA_PATH
from holdfast_dashboard.context import Context

__all__ = ["oauth_routes"]

#: What tools take, but for those of workers: these have tokens of our own.
_SCOPES: Final = sorted({scope_of(permission) for permission in TOOLS.values()} - {scope_of(Permission.WORK)})


def oauth_routes(context: Context) -> list[Route]:
    """The metadata, at the address that belongs to `/mcp`, and at that of the whole server for clients which look there
    only. Names in it are the RFC's, so it is no part of our API's description."""

    async def get_metadata(request: Request) -> Response:
        settings = context.settings
        if settings.auth_provider != "oidc":
            raise NotFound("No OpenID provider vouches for callers of this server.")
        return JSONResponse(
            {
                "resource": settings.resource_url or f"{str(request.base_url).rstrip('/')}/mcp",
                "authorization_servers": [settings.oidc_issuer],
                "scopes_supported": _SCOPES,
                "bearer_methods_supported": ["header"],
                "resource_name": "Holdfast",
            }
        )

    return [
        Route(path, get_metadata, methods=["GET"], include_in_schema=False)
        for path in (METADATA_PATH, METADATA_PATH.removesuffix("/mcp"))
    ]
