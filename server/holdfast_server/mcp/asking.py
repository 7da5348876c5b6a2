"""Who sends a request, and whether that admits what it asks for.

Over HTTP whatever guards the server has put the caller into the request's scope. In the sessions of the older
protocols, too, each message comes with the very request that brought it, so that a session is nobody's by itself. A
request that lasts is ended by those guards when its credential ends.

On stdio a process speaks for one credential, which is looked at again at each call.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from anyio import CancelScope
from mcp import MCPError, types
from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Scope

from holdfast_core.callers import CALLER_KEY, SCOPE_KEY, WIDER_KEY, Caller
from holdfast_core.errors import HoldfastError, NotAllowed, NotAuthenticated
from holdfast_core.policy import INCLUDED, SCOPE_PREFIX, Permission, admit
from holdfast_core.services import Login
from holdfast_core.states import Role
from holdfast_server.mcp.answers import error_text
from holdfast_server.mcp.subscriptions import Running

__all__ = ["Asking", "Context", "Who", "caller_of"]

#: `request` is the HTTP request; None on stdio.
Context = ServerRequestContext[Running, Request[Any]]

#: The credential that speaks where there is no HTTP. Raises NotAuthenticated once it has ended.
Who = Callable[[], Awaitable[Login]]


class Asking:
    """Knows the callers of one server. `role` narrows what those without HTTP may do."""

    def __init__(self, who: Who | None, role: Role | None) -> None:
        self._who = who
        self._role = role

    async def caller(self, context: Context) -> Caller:
        """Who sent this. Raises NotAuthenticated where a credential has ended."""
        if context.request is not None:
            return caller_of(context.request.scope)
        return self._narrowed(await self._login())

    @asynccontextmanager
    async def while_good(self) -> AsyncGenerator[Caller]:
        """For whom a server on stdio speaks; if that credential ends while the block runs, the block is cancelled and
        NotAuthenticated raised."""
        login = await self._login()
        with CancelScope() as running, login.while_good(running.cancel):
            yield self._narrowed(login)
        if running.cancelled_caught:
            raise NotAuthenticated("The token ended while this was under way.")

    async def admit_subscriber(self, context: Context) -> None:
        """Raises MCPError for who may not be told of the pause."""
        try:
            admit(await self.caller(context), Permission.STATUS, "subscribe to the pause")
        except HoldfastError as error:
            raise MCPError(types.INTERNAL_ERROR, error_text(error)) from None

    def explained(self, error: NotAllowed) -> NotAllowed:
        """The same, with the setting that may be why."""
        if self._role is None:
            return error
        why = f"HOLDFAST_MCP_ROLE={self._role} narrows what may be called here."
        return NotAllowed(f"{error.detail} {why}", scope=error.scope)

    def ask_for_more(self, scope: Scope | None, protocol: str, error: NotAllowed) -> bool:
        """Whether this refusal is told by the status of HTTP, so that an OAuth client asks its user for a wider scope
        and comes again (RFC 6750): where that would help. Where a stream of an older protocol answers, the status has
        been sent already."""
        if (
            scope is None
            or error.scope not in {f"{SCOPE_PREFIX}{role}" for role in scope.get(WIDER_KEY, ())}
            or protocol not in MODERN_PROTOCOL_VERSIONS
        ):
            return False
        scope[SCOPE_KEY] = error.scope
        return True

    async def _login(self) -> Login:
        if self._who is None:
            raise RuntimeError("a server that was built without `who` serves HTTP only")
        return await self._who()

    def _narrowed(self, login: Login) -> Caller:
        if self._role is None:
            return login.caller
        return replace(login.caller, roles=login.caller.roles & INCLUDED[self._role])


def caller_of(scope: Scope) -> Caller:
    """Who sent the HTTP request of this scope."""
    caller: Caller = scope[CALLER_KEY]
    return caller
