"""MCP over streamable HTTP, at exactly `/mcp`, to be mounted into the server's app.

The SDK answers a call either with plain JSON or with a stream of events. A stream is what carries
progress, and costs a quarter (2026-07-28) to a whole call (older protocols) more. So a client of the
new protocol gets JSON, except from the tools that report progress; there each request stands for
itself, and its `Mcp-Name` header, which the SDK checks against the body, says which tool it is for. (A
`subscriptions/listen` is a stream by its nature; the SDK sees to that.) Most of what gets JSON is answered by plain.py
with less ado.
Clients of the older protocols have sessions, which answer in one way only: they get streams.

Who asks stands in the scope already: the host's app has seen to that.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast_core.callers import CALLER_KEY, SCOPE_KEY, WATCHED_KEY, WIDER_KEY, Caller
from holdfast_core.errors import NotAllowed
from holdfast_core.policy import TOOLS, Permission
from holdfast_core.settings import Settings
from holdfast_server.mcp.catalog import find_tool
from holdfast_server.mcp.plain import PlainCalls, arguments_of
from holdfast_server.mcp.server import McpServer

__all__ = ["MAX_BODY_BYTES", "MAX_SESSIONS", "SESSION_IDLE_SECONDS", "McpEndpoint", "create_mcp_endpoint"]

MAX_BODY_BYTES: Final = 1_048_576
#: Sessions of clients that speak the older protocols; newer ones have none. The next one is answered 503.
MAX_SESSIONS: Final = 1_000
#: A session without a request in flight for this long ends; its client begins a new one.
SESSION_IDLE_SECONDS: Final = 1_800.0

_MODERN: Final = frozenset(version.encode() for version in MODERN_PROTOCOL_VERSIONS)


@dataclass(frozen=True, slots=True)
class McpEndpoint:
    """`app` answers `/mcp` and nothing else, while `running()` is entered. It can be run once."""

    app: ASGIApp
    streaming: StreamableHTTPSessionManager
    plain: StreamableHTTPSessionManager

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """To be entered in the host's lifespan (a mounted app's own lifespan never runs)."""
        async with self.streaming.run(), self.plain.run():
            yield


def create_mcp_endpoint(server: McpServer, settings: Settings) -> McpEndpoint:
    """The endpoint for one running of the server. Build it in a factory: it cannot be run twice."""
    security = _security(settings.known_hosts)
    streaming = StreamableHTTPSessionManager(
        server,
        security_settings=security,
        max_request_body_size=MAX_BODY_BYTES,
        session_idle_timeout=SESSION_IDLE_SECONDS,
        max_sessions=MAX_SESSIONS,
        # A session lives in one process; with several behind one port its next request may reach another.
        stateless=settings.workers > 1,
    )
    plain = StreamableHTTPSessionManager(
        server,
        json_response=True,
        stateless=True,
        security_settings=security,
        max_request_body_size=MAX_BODY_BYTES,
    )
    calls = None
    if not server.middleware:  # which would see nothing of them
        calls = PlainCalls(
            server.calls,
            server,
            settings.tool_name_style,
            frozenset(_names(settings.known_hosts)),
            MAX_BODY_BYTES,
        )
    return McpEndpoint(_ByAnswer(streaming, plain, calls), streaming, plain)


def _security(known_hosts: Iterable[str]) -> TransportSecuritySettings:
    """The SDK's own check of Host and Origin, a second lock behind the host app's: known names, any port."""
    hosts = [form for name in _names(known_hosts) for form in (name, f"{name}:*")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")],
    )


def _names(known_hosts: Iterable[str]) -> list[str]:
    return [f"[{host}]" if ":" in host else host for host in sorted(known_hosts)]


class _ByAnswer:
    """Sends each request to whoever answers in the way that suits it."""

    def __init__(
        self,
        streaming: StreamableHTTPSessionManager,
        plain: StreamableHTTPSessionManager,
        calls: PlainCalls | None,
    ) -> None:
        self._streaming = streaming
        self._plain = plain
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/mcp":
            raise HTTPException(404)  # the host has its own shape for errors
        told = dict(scope["headers"])
        name = told.get(b"mcp-name", b"").decode("latin-1")
        tool = find_tool(name)
        calls = self._calls
        if calls is not None and tool is not None and not tool.reports_progress and calls.takes(scope, told):
            body = await _body(receive)
            request = calls.read(name, body)
            if request is not None:
                answering = partial(calls.answer, tool, request)
                # What workers ask for all the time ends in a moment, and to watch over each costs something.
                ends_at_once = TOOLS[tool.name] is Permission.WORK and not tool.waits(arguments_of(request))
                if ends_at_once and not scope.get(WIDER_KEY):
                    await answering(scope, receive, send)
                else:
                    await _while_good(answering, scope, receive, send)
                return
            receive = _again(body, receive)
        await _while_good(self._by_sdk, scope, receive, send)

    async def _by_sdk(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Host names know no case (RFC 9110, 4.2.3), and blanks around a value are no part of it (5.5); the SDK
        # compares both as they come.
        headers: list[tuple[bytes, bytes]] = [
            (key, value.strip(b" \t").lower() if key == b"host" else value.strip(b" \t"))
            for key, value in scope["headers"]
        ]
        inner = {**scope, "headers": headers}
        told = dict(headers)
        tool = find_tool(told.get(b"mcp-name", b"").decode("latin-1"))
        streams = told.get(b"mcp-protocol-version") not in _MODERN or (
            tool is not None and tool.reports_progress
        )
        if streams:
            # A session of an older protocol is its principal's, whichever token that sends (the SDK looks at this).
            inner["user"] = _user(scope[CALLER_KEY])

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and (wanted := inner.get(SCOPE_KEY)) is not None:
                scope[SCOPE_KEY], message["status"] = wanted, NotAllowed.status
            await send(message)

        manager = self._streaming if streams else self._plain
        await manager.handle_request(inner, receive, sending if scope.get(WIDER_KEY) else send)


async def _while_good(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have `app` answer what may last: until the caller's credential ends, where it may end."""
    watched: Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]] | None = scope.get(WATCHED_KEY)
    if watched is None:
        await app(scope, receive, send)
    else:
        await watched(app, scope, receive, send)


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises ClientDisconnect where the client has gone before."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives the body once more, and then what else comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return first.pop() if first else await receive()

    return receiving


def _user(caller: Caller) -> AuthenticatedUser:
    return AuthenticatedUser(AccessToken(token="", client_id=caller.principal, scopes=[]))
