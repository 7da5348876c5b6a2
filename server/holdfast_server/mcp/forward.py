"""`holdfast mcp --url`: what a server elsewhere offers, on stdio, without its database or its libraries.

Each request of our client goes on as it is, and so does its answer: tools, resources and prompts are the
server's. Ours are the handshake, which must not fail because a server is away, the subscriptions (relay.py), and the
role, which may narrow further what the token allows.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any, Final, cast

from anyio import create_task_group, move_on_after
from mcp import MCPError, types
from mcp.server import Server
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from holdfast_core import __version__
from holdfast_core.policy import INCLUDED, may_call, may_prompt
from holdfast_core.states import Role
from holdfast_server.mcp.relay import Relay
from holdfast_server.mcp.subscriptions import Running, UnchangingLists, add_subscriptions
from holdfast_server.mcp.upstream import Frame, Upstream, UpstreamFailed

__all__ = ["build_forwarder"]

#: How long the handshake waits for the server's instructions.
GREETING_SECONDS: Final = 5.0

_FORWARDED: Final = (
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
)

_Context = ServerRequestContext[Running, Any]


def build_forwarder(upstream: Upstream, role: Role | None) -> Server[Running]:
    """An MCP server that answers with what `upstream` answers. It opens `upstream` while it runs."""
    forwarding = _Forwarding(upstream, role)
    server = UnchangingLists(
        "holdfast",
        version=__version__,
        title="Holdfast",
        description="A job queue for AI-agent workers with a pause that can be trusted.",
        lifespan=_lifespan(upstream),
    )
    for method in _FORWARDED:
        server.add_request_handler(method, types.RequestParams, forwarding.answer)
    add_subscriptions(server)
    if find_spec("opentelemetry.sdk") is None:
        server.middleware.clear()
    server.middleware.append(forwarding.greet)
    return server


def _lifespan(
    upstream: Upstream,
) -> Callable[[Server[Running]], AbstractAsyncContextManager[Running]]:
    @asynccontextmanager
    async def lifespan(_: Server[Running]) -> AsyncGenerator[Running]:
        async with upstream, create_task_group() as tasks:
            try:
                yield Running(tasks, Relay(upstream))
            finally:
                tasks.cancel_scope.cancel()

    return lifespan


class _Forwarding:
    """How requests go on."""

    def __init__(self, upstream: Upstream, role: Role | None) -> None:
        self._upstream = upstream
        self._role = role
        self._roles = None if role is None else INCLUDED[role]

    async def greet(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        """Put the server's instructions into the handshake, or why there are none."""
        result = await call_next(ctx)
        if ctx.method in {"initialize", "server/discover"} and isinstance(result, Mapping):
            return {**result, "instructions": await self._instructions()}
        return result

    async def _instructions(self) -> str:
        with move_on_after(GREETING_SECONDS):
            try:
                return str((await self._upstream.call("server/discover")).get("instructions") or "")
            except MCPError as error:
                return f"The Holdfast server at {self._upstream.shown} refused: {error.message}"
            except UpstreamFailed as error:
                return str(error)
        return f"[server_unreachable] {self._upstream.shown} did not answer in time. Its tools may, later."

    async def answer(self, context: _Context, params: types.RequestParams) -> HandlerResult:
        """The server's answer. Where there is none: a tool error that a model can read, or a protocol error."""
        del params  # as it came, so that nothing is lost of what we do not know
        name = str((context.params or {}).get("name", ""))
        match context.method:
            case "tools/call" if not may_call(self._roles, name):
                return _tool_error(self._refusal(name))
            case "prompts/get" if not may_prompt(self._roles, name):
                raise MCPError(types.INVALID_PARAMS, self._refusal(name))
            case _:
                pass
        try:
            result = await self._upstream.call(
                context.method,
                context.params,
                client=_client(context),
                on_notification=lambda frame: _report(context, frame),
            )
        except UpstreamFailed as error:
            if context.method == "tools/call":
                return _tool_error(str(error))
            raise MCPError(types.INTERNAL_ERROR, str(error)) from None
        return self._narrowed(context.method, result)

    def _refusal(self, name: str) -> str:
        return (
            f"[not_allowed] The role {self._role} (HOLDFAST_MCP_ROLE) does not admit {name}. Leave it to somebody who"
            " may."
        )

    def _narrowed(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        match method:
            case "tools/list":
                kept = [tool for tool in _items(result, "tools") if may_call(self._roles, tool["name"])]
                return {**result, "tools": kept}
            case "prompts/list":
                kept = [
                    prompt for prompt in _items(result, "prompts") if may_prompt(self._roles, prompt["name"])
                ]
                return {**result, "prompts": kept}
            case _:
                return result


def _items(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", result.get(name) or [])


async def _report(context: _Context, frame: Frame) -> None:
    """Pass progress on; the client knows it by the token of its own request."""
    told = cast("Mapping[str, Any]", frame.get("params") or {})
    if frame.get("method") == "notifications/progress" and isinstance(told.get("progress"), int | float):
        await context.session.report_progress(told["progress"], told.get("total"), told.get("message"))


def _client(context: _Context) -> dict[str, Any] | None:
    params = context.session.client_params
    return params.client_info.model_dump(by_alias=True, mode="json", exclude_none=True) if params else None


def _tool_error(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
