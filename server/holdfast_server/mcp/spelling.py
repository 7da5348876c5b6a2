"""How a client wants the names of tools written."""

from typing import Any

from mcp import MCPError, types
from starlette.requests import Request

from holdfast_server.mcp.catalog import NameStyle

__all__ = ["name_style"]


def name_style(request: Request[Any] | None, default: NameStyle) -> NameStyle:
    """As the address says, `/mcp?names=underscore`, else `default`. Raises MCPError for anything else there.

    `request` is the HTTP request; None on stdio.
    """
    wanted = request.query_params.get("names") if request is not None else None
    match wanted:
        case None:
            return default
        case "dot" | "underscore":
            return wanted
        case _:
            raise MCPError(types.INVALID_PARAMS, "/mcp?names= takes dot or underscore")
