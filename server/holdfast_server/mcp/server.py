"""The MCP server: tools, resources with subscriptions, and prompts, on the SDK's low-level server.

The low-level server and a table of our own, not the SDK's decorators: those let unknown arguments
pass, cannot say camelCase, and show the model a raw validation dump.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

import structlog
from anyio import create_task_group
from mcp import MCPError, types
from mcp.server import Server

from holdfast_core import __version__
from holdfast_core.errors import HoldfastError, NotAllowed
from holdfast_core.services import Services, spans_are_taken
from holdfast_core.settings import Settings
from holdfast_core.states import Role
from holdfast_server.mcp import prompts, resources
from holdfast_server.mcp.answers import answer_result, error_text
from holdfast_server.mcp.asking import Asking, Context, Who
from holdfast_server.mcp.calls import Asked, Calls
from holdfast_server.mcp.catalog import NameStyle, find_tool, listing, spelled, tool_input_schema
from holdfast_server.mcp.spelling import name_style
from holdfast_server.mcp.subscriptions import Running, UnchangingLists, add_subscriptions
from holdfast_server.mcp.versions import SystemVersions
from holdfast_server.mcp.words import instructions

__all__ = ["McpServer", "build_mcp_server"]

_P = TypeVar("_P")
_T = TypeVar("_T")

#: How much of an unknown tool's name goes into the error about it.
_MAX_SHOWN_NAME: Final = 64

_log: Final[Any] = structlog.get_logger(__name__)


class McpServer(UnchangingLists):
    """Ours, of which a transport may also run calls itself (plain.py)."""

    calls: Calls


def build_mcp_server(
    services: Callable[[], Services],
    settings: Settings,
    *,
    who: Who | None = None,
    role: Role | None = None,
) -> McpServer:
    """An MCP server over these services, for any transport.

    `services` is called at each request, so the server may be built before they are open. Over HTTP each request acts
    as the caller in its scope; `who` says it where there is no HTTP (without it nobody is served there). `role`
    narrows what is listed and accepted. One server serves many connections; between calls it keeps nothing but their
    subscriptions.
    """
    asking = Asking(who, role)
    calls = Calls(services, asking)
    offer = _Offer(services, settings, asking, calls)
    server = McpServer(
        "holdfast",
        version=__version__,
        title="Holdfast",
        description="A job queue for AI-agent workers with a pause that can be trusted.",
        instructions=spelled(instructions(settings.pause_poll_interval_ms / 1_000), settings.tool_name_style),
        lifespan=_lifespan(services, asking),
        get_tool_input_schema=tool_input_schema,
        on_list_tools=_guarded(offer.list_tools),
        on_call_tool=offer.call_tool,
        on_list_resources=_guarded(offer.list_resources),
        on_list_resource_templates=_guarded(offer.list_templates),
        on_read_resource=_guarded(offer.read_resource),
        on_list_prompts=_guarded(offer.list_prompts),
        on_get_prompt=_guarded(offer.get_prompt),
    )
    server.calls = calls
    add_subscriptions(server)
    if not spans_are_taken():
        server.middleware.clear()  # the spans that it would make go nowhere, and cost a sixth of a call
    return server


def _guarded(
    handler: Callable[[Context, _P], Awaitable[_T]],
) -> Callable[[Context, _P], Awaitable[_T]]:
    """The same, a bug of ours told without its text: to clients of the older protocols the SDK would tell it."""

    async def handle(context: Context, params: _P) -> _T:
        try:
            return await handler(context, params)
        except MCPError:
            raise
        except HoldfastError as error:
            raise MCPError(types.INTERNAL_ERROR, error_text(error)) from None
        except Exception as error:
            _log.exception("mcp_request_crashed")
            raise MCPError(
                types.INTERNAL_ERROR, "The server failed on this request; its log says why."
            ) from error

    return handle


def _lifespan(
    services: Callable[[], Services], asking: Asking
) -> Callable[[Server[Running]], AbstractAsyncContextManager[Running]]:
    @asynccontextmanager
    async def lifespan(_: Server[Running]) -> AsyncGenerator[Running]:
        async with create_task_group() as tasks:
            try:
                yield Running(tasks, SystemVersions(services, tasks), asking.admit_subscriber)
            finally:
                tasks.cancel_scope.cancel()

    return lifespan


class _Offer:
    """What a client can ask for, but for subscriptions."""

    def __init__(
        self, services: Callable[[], Services], settings: Settings, asking: Asking, calls: Calls
    ) -> None:
        self._services = services
        self._settings = settings
        self._asking = asking
        self._calls = calls

    async def list_tools(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        style = self._style(context, params)
        caller = await self._asking.caller(context)
        return types.ListToolsResult(tools=list(listing(style, caller.roles)))

    async def call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        style = self._style(context)
        tool = find_tool(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:_MAX_SHOWN_NAME]!a}")
        scope, receive = (
            (None, None) if context.request is None else (context.request.scope, context.request.receive)
        )
        asked = Asked(scope, receive, context.protocol_version, style, context.session.report_progress)
        result = await self._calls.result(tool, params.arguments or {}, asked)
        if isinstance(result, types.ErrorData):
            raise MCPError.from_error_data(result)
        return answer_result(result) if isinstance(result, str) else result

    async def list_resources(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        style = self._style(context, params)
        return resources.list_resources(style, (await self._asking.caller(context)).roles)

    async def list_templates(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        style = self._style(context, params)
        return resources.list_templates(style, (await self._asking.caller(context)).roles)

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        caller = await self._asking.caller(context)
        return await resources.read_resource(self._services(), caller, params.uri, self._style(context))

    async def list_prompts(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        style = self._style(context, params)
        return prompts.list_prompts(style, (await self._asking.caller(context)).roles)

    async def get_prompt(
        self, context: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        caller = await self._asking.caller(context)
        try:
            return await prompts.get_prompt(self._services(), caller, params, self._style(context))
        except NotAllowed as error:
            raise MCPError(types.INVALID_PARAMS, error_text(self._asking.explained(error))) from None

    def _style(self, context: Context, page: types.PaginatedRequestParams | None = None) -> NameStyle:
        """How this client wants tools named. Raises MCPError also for a page: every list comes on one."""
        if page is not None and page.cursor is not None:
            raise MCPError(types.INVALID_PARAMS, "Unknown cursor: everything comes on one page")
        return name_style(context.request, self._settings.tool_name_style)
