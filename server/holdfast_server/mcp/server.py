"""The MCP server: lists the tools and calls them, on the SDK's low-level server.

The low-level server and a table of our own, not the SDK's decorators: those let unknown arguments
pass, cannot say camelCase, and show the model a raw validation dump.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import structlog
from mcp import MCPError, types
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from starlette.requests import Request

from holdfast_core import __version__
from holdfast_core.callers import Caller, local_operator
from holdfast_core.errors import HoldfastError, InternalError
from holdfast_core.services import Services
from holdfast_core.settings import Settings
from holdfast_server.mcp.answers import answer_result, error_result
from holdfast_server.mcp.catalog import NameStyle, find_tool, listing, spelled, tool_input_schema
from holdfast_server.mcp.connected import while_connected
from holdfast_server.mcp.tool import Call
from holdfast_server.mcp.words import instructions

__all__ = ["build_mcp_server"]

#: `request` is the HTTP request; None on stdio.
_Context = ServerRequestContext[dict[str, Any], Request[Any]]

#: How much of an unknown tool's name goes into the error about it.
_MAX_SHOWN_NAME: Final = 64

_log: Final[Any] = structlog.get_logger(__name__)


def build_mcp_server(
    services: Callable[[], Services], settings: Settings, caller: Caller | None = None
) -> Server[dict[str, Any]]:
    """An MCP server over these services, for any transport.

    `services` is called at each tool call, so the server may be built before they are open. All calls
    speak as `caller`, by default the local operator. One server serves many connections; it keeps no state
    between calls.
    """
    acting = caller or local_operator(settings.default_user_id)

    async def list_tools(
        context: _Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        if params is not None and params.cursor is not None:
            raise MCPError(types.INVALID_PARAMS, "Unknown cursor: the tools come on one page")
        return types.ListToolsResult(tools=list(listing(_name_style(context, settings))))

    async def call_tool(context: _Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        style = _name_style(context, settings)
        tool = find_tool(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:_MAX_SHOWN_NAME]!a}")

        async def result() -> types.CallToolResult:
            try:
                call = Call(services(), acting, context.session.report_progress)
                return answer_result(await tool.call(call, params.arguments or {}))
            except HoldfastError as error:
                return error_result(error, style)
            except Exception:
                # Not the cancellation: that passes through, so that the service can give a job back.
                _log.exception("mcp_tool_crashed", tool=tool.name)
                return error_result(InternalError("The server failed on this call; its log says why."), style)

        if tool.waits and context.request is not None:
            return await while_connected(context.request.receive, result)
        return await result()

    server: Server[dict[str, Any]] = Server(
        "holdfast",
        version=__version__,
        title="Holdfast",
        description="A job queue for AI-agent workers with a pause that can be trusted.",
        instructions=spelled(instructions(settings.pause_poll_interval_ms / 1_000), settings.tool_name_style),
        get_tool_input_schema=tool_input_schema,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    if find_spec("opentelemetry.sdk") is None:
        server.middleware.clear()  # the spans that it would make go nowhere, and cost a sixth of a call
    return server


def _name_style(context: _Context, settings: Settings) -> NameStyle:
    """How this client wants tools listed: `/mcp?names=underscore`, else as the settings say."""
    wanted = context.request.query_params.get("names") if context.request is not None else None
    match wanted:
        case None:
            return settings.tool_name_style
        case "dot" | "underscore":
            return wanted
        case _:
            raise MCPError(types.INVALID_PARAMS, "/mcp?names= takes dot or underscore")
