"""Subscriptions to resources, in both eras of the protocol, over any source of updates.

2026-07-28: `subscriptions/listen` is a request whose answer is a stream, so its own call carries the updates
and ends with the client. Older protocols: `resources/subscribe` is answered at once, and a task of the
connection's own sends `notifications/resources/updated` until it is unsubscribed or the connection ends.

An update is a hint to read again, not a fact: nothing is kept for a client that was away. A client that is slow
holds up nobody, since what it has yet to be told is worked out from one number when it is ready.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol, cast

import structlog
from anyio import TASK_STATUS_IGNORED, CancelScope
from anyio.abc import TaskGroup, TaskStatus
from mcp import MCPError, types
from mcp.server import Server
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY

__all__ = [
    "MAX_SUBSCRIPTIONS",
    "MAX_SUBSCRIPTIONS_PER_SESSION",
    "VERSION_META_KEY",
    "Running",
    "Source",
    "UnchangingLists",
    "Update",
    "Updates",
    "add_subscriptions",
]

#: One client on stdio may hold so many at a time.
MAX_SUBSCRIPTIONS_PER_SESSION: Final = 16
#: All clients of an HTTP endpoint together, as many as there may be sessions. A session of an older protocol
#: holds each resource once; of the newer there are no sessions: each is a connection of its own.
MAX_SUBSCRIPTIONS: Final = 1_000
#: Where a notification says which version it announces, so that a client may skip a read.
VERSION_META_KEY: Final = "holdfast/version"

_HELD: Final = "holdfast.subscriptions"

_log: Final[Any] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """One resource changed; `version` is what it has come to, where that is known."""

    uri: str
    version: int | None


class Updates(Protocol):
    """What one subscriber is told."""

    @property
    def uris(self) -> frozenset[str]:
        """The resources that updates come for, of those that were asked for."""
        ...

    @property
    def version(self) -> int | None:
        """The version at which it begins: later ones are announced."""
        ...

    async def next(self) -> Update:
        """Wait for the next update."""
        ...


class Source(Protocol):
    """Where updates come from."""

    def open(self, uris: frozenset[str]) -> AbstractAsyncContextManager[Updates]:
        """Updates for these, as far as there are any. Raises MCPError where there can be none now."""
        ...


async def _anybody(_: Any) -> None:
    """Admits everybody."""


@dataclass(slots=True)
class Running:
    """One running of a server, over one transport. `admit` raises MCPError for who may not be told of updates."""

    tasks: TaskGroup
    source: Source
    admit: Callable[["_Context"], Awaitable[None]] = field(default=_anybody)
    open: int = field(default=0)

    @contextmanager
    def one_more(self, *, bound: int) -> Generator[None]:
        """Room for one more subscription. Raises MCPError where there is none."""
        if self.open >= bound:
            raise MCPError(
                types.INTERNAL_ERROR,
                f"There are {bound} subscriptions already. End one, or read now and then.",
            )
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


_Context = ServerRequestContext[Running, Any]


class UnchangingLists(Server[Running]):
    """Our lists never change while the server runs; serving subscriptions, the SDK would say that they may."""

    def get_capabilities(self, *arguments: Any, **named: Any) -> types.ServerCapabilities:
        capabilities = super().get_capabilities(*arguments, **named)
        for lists in (capabilities.tools, capabilities.resources, capabilities.prompts):
            if lists is not None:
                lists.list_changed = False
        return capabilities


def add_subscriptions(server: Server[Running]) -> None:
    """Serve subscriptions on `server`; its capabilities then say so by themselves."""
    server.add_request_handler("resources/subscribe", types.SubscribeRequestParams, _subscribe)
    server.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, _unsubscribe)
    server.add_request_handler("subscriptions/listen", types.SubscriptionsListenRequestParams, _listen)


async def _listen(context: _Context, params: types.SubscriptionsListenRequestParams) -> NoReturn:
    this = context.request_id
    if this is None:
        raise MCPError(types.INVALID_REQUEST, "subscriptions/listen has to be a request")
    live = context.lifespan_context
    await live.admit(context)
    asked = frozenset(params.notifications.resource_subscriptions or ())
    with live.one_more(bound=_bound(context)):
        async with live.source.open(asked) as updates:
            honored = types.SubscriptionFilter(resource_subscriptions=sorted(updates.uris) or None)
            await context.session.send_notification(
                types.SubscriptionsAcknowledgedNotification(
                    params=types.SubscriptionsAcknowledgedNotificationParams(
                        notifications=honored,
                        _meta={SUBSCRIPTION_ID_META_KEY: this, **_versioned(updates.version)},
                    )
                ),
                related_request_id=this,
            )
            while True:
                update = await updates.next()
                await live.admit(context)
                await context.session.send_notification(
                    types.ResourceUpdatedNotification(
                        params=types.ResourceUpdatedNotificationParams(
                            uri=update.uri,
                            _meta={SUBSCRIPTION_ID_META_KEY: this, **_versioned(update.version)},
                        )
                    ),
                    related_request_id=this,
                )


async def _subscribe(context: _Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    live = context.lifespan_context
    await live.admit(context)
    connection = _connection(context)
    held = _held(connection)
    if params.uri not in held:
        scope = held[params.uri] = CancelScope()  # before the first await: a second request finds it
        # An HTTP request is not kept for its subscription: who may not listen any more has no stream to hear it on.
        asking = context if context.request is None else None
        try:
            await live.tasks.start(_announce, live, _bound(context), connection, params.uri, scope, asking)
        except BaseException:
            held.pop(params.uri, None)
            raise
    return types.EmptyResult()


async def _unsubscribe(context: _Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    scope = _held(_connection(context)).pop(params.uri, None)
    if scope is not None:
        scope.cancel()
    return types.EmptyResult()


async def _announce(
    live: Running,
    bound: int,
    connection: Connection,
    uri: str,
    scope: CancelScope,
    asking: _Context | None,
    *,
    task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
) -> None:
    """Tell one connection of one resource until `scope` is cancelled."""
    async with AsyncExitStack() as held:
        held.enter_context(scope)
        held.enter_context(live.one_more(bound=bound))
        updates = await held.enter_async_context(live.source.open(frozenset({uri})))
        if uri not in updates.uris:
            raise MCPError(
                types.INVALID_PARAMS, f"Resource cannot be subscribed to: {uri[:200]!a}", {"uri": uri}
            )
        task_status.started()
        try:
            while True:
                update = await updates.next()
                if asking is not None:
                    await live.admit(asking)
                await connection.send_resource_updated(uri, meta=_versioned(update.version) or None)
        except MCPError as error:
            _log.info("mcp_subscription_ended", uri=uri, cause=error.message)
        except Exception:
            # A bug: it ends this subscription, and neither the others nor the server.
            _log.exception("mcp_subscription_failed", uri=uri)


def _bound(context: _Context) -> int:
    return MAX_SUBSCRIPTIONS_PER_SESSION if context.request is None else MAX_SUBSCRIPTIONS


def _versioned(version: int | None) -> dict[str, Any]:
    return {} if version is None else {VERSION_META_KEY: version}


def _connection(context: _Context) -> Connection:
    # Handlers are given no other way to what outlives the request: its state, its end, and its own channel.
    return context.session._connection  # pyright: ignore[reportPrivateUsage]


def _held(connection: Connection) -> dict[str, CancelScope]:
    """The connection's subscriptions; they end with it."""
    if _HELD not in connection.state:
        held: dict[str, CancelScope] = {}
        connection.state[_HELD] = held
        connection.exit_stack.callback(_end_all, held)
    return cast("dict[str, CancelScope]", connection.state[_HELD])


def _end_all(held: dict[str, CancelScope]) -> None:
    for scope in held.values():
        scope.cancel()
    held.clear()
