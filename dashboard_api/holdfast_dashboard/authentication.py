"""Who sends a request, before anything else reads it: REST, MCP, push sessions, streams and pages alike.

A request comes with one credential: a bearer token (ours, or one of the OpenID provider's), a worker's token in
`X-MoonMind-Worker-Token` (under `/api/queue` only), or the session cookie of a browser. Whoever it is stands in the
request's scope for all that follows. While authentication is disabled that is the local operator.

A request that lasts (a stream, a long poll) ends when its credential does. To watch over each costs something, so the
hot routes and MCP, most of whose calls end in a moment, see to it themselves where one is to wait.

What guards and authentication make of a request to a hot route depends on its header fields alone, and a worker sends
the same ones again and again. So what has been let through is kept in mind by its fields, and the next with the same
passes as long as the credential is good: that, and how much its caller may ask for, is looked at each time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

from anyio import CancelScope, move_on_after
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from holdfast_core.callers import CALLER_KEY, SCOPE_KEY, WATCHED_KEY, WIDER_KEY, Caller, local_operator
from holdfast_core.errors import ForeignOrigin, NotAllowed, NotAuthenticated
from holdfast_core.policy import TOOLS, Permission, canonical_tool, is_open, scope_of
from holdfast_core.services import Login, Services
from holdfast_core.settings import Settings
from holdfast_dashboard.fields import Fields, fields_of
from holdfast_dashboard.limits import Attempts, Limits, address_of
from holdfast_dashboard.markup import told
from holdfast_dashboard.problems import problem

__all__ = [
    "HOT_KEY",
    "METADATA_PATH",
    "Authentication",
    "Pass",
    "caller_of",
    "cookie_name",
    "is_secure",
    "token_ended",
    "while_good",
]

#: Where OAuth clients find out who vouches for callers of `/mcp` (RFC 9728).
METADATA_PATH: Final = "/.well-known/oauth-protected-resource/mcp"

#: Where a request to a hot route carries the call that answers it (`holdfast_dashboard.hot_routes`).
HOT_KEY: Final = "holdfast.hot"

#: Header fields that are kept in mind; the oldest make room.
PASSES: Final = 10_000
#: Above it an address is looked at as a whole: it may be too long.
SHORT_PATH: Final = 200

#: What is read of the body of a request that is refused anyway.
READ_OUT_BYTES: Final = 65_536
READ_OUT_SECONDS: Final = 2.0

_LOGIN_KEY: Final = "holdfast.login"
_WORKER_HEADER: Final = b"x-moonmind-worker-token"
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_END: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}
_NO_LIMIT: Final = nullcontext()


def caller_of(connection: HTTPConnection) -> Caller:
    """Who is asking. There is nobody on open routes."""
    caller: Caller = connection.scope[CALLER_KEY]
    return caller


def while_good(connection: HTTPConnection, end: Callable[[], None]) -> AbstractContextManager[None]:
    """While the block runs, `end` is called if the caller's credential ends."""
    login: Login | None = connection.scope[_LOGIN_KEY]
    return nullcontext() if login is None else login.while_good(end)


def token_ended() -> NotAuthenticated:
    """For a request that was under way."""
    return NotAuthenticated("The token ended while this was under way.")


def is_secure(connection: HTTPConnection, settings: Settings) -> bool:
    """Whether the browser speaks to us by https, maybe through a proxy."""
    return connection.scope.get("scheme") in {"https", "wss"} or (settings.public_url or "").startswith(
        "https:"
    )


def cookie_name(secure: bool) -> str:
    """The name of the session's cookie. By https no other host of the domain can set it."""
    return "__Host-holdfast" if secure else "holdfast"


@dataclass(frozen=True, slots=True)
class Pass:
    """From whom a request comes that was let through. `login` None: authentication is disabled."""

    caller: Caller
    login: Login | None


class Authentication:
    """ASGI middleware, inside the guards."""

    def __init__(self, app: ASGIApp, services: Callable[[], Services], settings: Settings) -> None:
        self._app = app
        self._services = services
        self._settings = settings
        self._limits = Limits(settings.rate_limit_per_second, settings.max_connections_per_caller)
        self._attempts = Attempts()
        self._passes: dict[tuple[tuple[bytes, bytes], ...], Pass] = {}

    def passed(self, scope: Scope) -> Pass | None:
        """Whose this request to a hot route is, where one with the same fields was let through and its credential is
        still good. None: it has to go the whole way."""
        if scope["query_string"] or len(scope["path"]) > SHORT_PATH:
            return None
        known = self._passes.get(tuple(scope["headers"]))
        if known is None or known.login is None or self._services().logins.is_good(known.login):
            return known
        return None

    def admitted(self, known: Pass, scope: Scope) -> AbstractContextManager[None]:
        """Put into a request whose it is, and have room for it while the block runs. Raises TooManyRequests."""
        scope[CALLER_KEY], scope[_LOGIN_KEY] = known.caller, known.login
        return _NO_LIMIT if known.login is None else self._limits.one_more(known.caller.principal)

    def _remember(self, scope: Scope, known: Pass) -> None:
        fields = fields_of(scope)
        if b"content-length" not in fields or b"transfer-encoding" in fields or b"cookie" in fields:
            return  # its body has to be measured, or more than its fields counts
        if len(self._passes) >= PASSES:
            del self._passes[next(iter(self._passes))]
        self._passes[tuple(scope["headers"])] = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
        elif self._settings.auth_provider == "disabled":
            caller = local_operator(self._settings.default_user_id)
            scope[CALLER_KEY], scope[_LOGIN_KEY] = caller, None
            if HOT_KEY in scope:
                self._remember(scope, Pass(caller, None))
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and is_open(scope["method"], scope["path"]):
            scope["holdfast.attempts"] = self._attempts
            await self._app(scope, receive, send)
        else:
            await self._known(scope, receive, send)

    async def _known(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            login = await self._login(scope)
        except NotAuthenticated as error:
            await self._refuse(scope, receive, send, error)
            return
        scope[CALLER_KEY], scope[_LOGIN_KEY] = login.caller, login
        scope[WIDER_KEY] = login.widest - login.caller.roles
        with self._limits.one_more(login.caller.principal):
            if scope["type"] == "websocket":  # a session ends itself, in its own words
                await self._app(scope, receive, send)
            elif HOT_KEY in scope:
                self._remember(scope, Pass(login.caller, login))
                try:
                    await self._app(scope, receive, send)
                except NotAuthenticated as error:  # its credential has ended, while it waited
                    await self.refusal(scope, error)(scope, receive, send)
            elif scope["path"] == "/mcp":
                scope[WATCHED_KEY] = partial(self._while_good, login)
                await self._app(scope, receive, send)
            else:
                await self._while_good(login, self._app, scope, receive, send)

    async def _while_good(
        self, login: Login, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        started = ended = False

        async def watched(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                self._challenge_further(scope, message)
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        with CancelScope() as running, login.while_good(running.cancel):
            await app(scope, receive, watched)
        if not running.cancelled_caught or ended:
            return
        if started:
            with suppress(RuntimeError):  # it had promised a length
                await send(_END)
        else:
            await self._refuse(scope, receive, send, token_ended())

    async def _login(self, scope: Scope) -> Login:
        fields = fields_of(scope)
        kind, text = self._credential(scope, fields)
        logins = self._services().logins
        known = logins.recall(text)
        if known is None:
            # Of those whom we know nobody is held up by who guesses from the same address.
            address = address_of(scope)
            self._attempts.refuse_many(address)
            try:
                known = await (logins.of_session(text) if kind == "cookie" else logins.of_token(text))
            except NotAuthenticated:
                if kind != "cookie":  # a browser with many pages open brings an ended one again and again
                    self._attempts.failed(address)
                raise
        if kind == "worker" and known.kind != "worker":
            raise NotAuthenticated("X-MoonMind-Worker-Token takes workers' tokens only.")
        if kind == "cookie":
            _refuse_forged(scope, fields)
        return known

    def _credential(self, scope: Scope, fields: Fields) -> tuple[str, str]:
        """The one credential of a request, and how it came. Raises NotAuthenticated."""
        found: dict[str, str] = {}
        for given in fields.all(b"authorization"):
            scheme, _, token = given.strip().partition(" ")
            if scheme.casefold() != "bearer" or not token.strip():
                raise NotAuthenticated("Authorization has to be `Bearer`, and the token behind it.")
            _add(found, "bearer", token.strip())
        if scope["path"].startswith("/api/queue"):
            for given in fields.all(_WORKER_HEADER):
                _add(found, "worker", given.strip())
        for given in fields.all(b"cookie"):
            name = cookie_name(is_secure(HTTPConnection(scope), self._settings))
            if cookie := cookie_parser(given).get(name):
                _add(found, "cookie", cookie)
        if not found:
            raise NotAuthenticated(
                "Say who you are: send a token as `Authorization: Bearer …`. Whoever runs this server makes them, with"
                " `holdfast token create`."
            )
        if len(set(found.values())) > 1:
            raise NotAuthenticated("Two different credentials came with this request. Send one.")
        return next((kind, found[kind]) for kind in ("worker", "bearer", "cookie") if kind in found)

    def refusal(self, scope: Scope, error: NotAuthenticated) -> Response:
        """The answer to who is not known here, or not any more."""
        answer = problem(error)
        # Where none came there was no error (RFC 6750, 3.1).
        given = b"authorization" in fields_of(scope)
        answer.headers["WWW-Authenticate"] = self._challenge(scope, error="invalid_token" if given else None)
        return answer

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: NotAuthenticated) -> None:
        if scope["type"] == "http" and _is_page(scope):
            query = scope["query_string"].decode("latin-1")
            wanted = quote(scope["path"]) + (f"?{query}" if query else "")
            if "cross-site" in fields_of(scope).get(b"sec-fetch-site"):
                # Who follows a link from elsewhere brings no cookie of ours, until the page itself asks once more.
                page = told("Holdfast", "One moment…", href=wanted, way="Go on", at_once=True)
                await page(scope, receive, send)
                return
            await RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303)(scope, receive, send)
            return
        answer = self.refusal(scope, error)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
            return
        if not await _read_out(receive):
            answer.headers["Connection"] = "close"
        await answer(scope, receive, send)

    def _challenge(self, scope: Scope, *, error: str | None = None, wanted: str | None = None) -> str:
        """How to say who one is (RFC 6750, RFC 9728)."""
        parts = ['Bearer realm="holdfast"']
        if error is not None:
            parts.append(f'error="{error}"')
        if scope["path"] == "/mcp" and self._settings.auth_provider == "oidc":
            parts.append(f'scope="{wanted or _scope_of_call(scope)}"')
            base = self._settings.public_url or str(HTTPConnection(scope).base_url)
            parts.append(f'resource_metadata="{base.rstrip("/")}{METADATA_PATH}"')
        elif wanted is not None:
            parts.append(f'scope="{wanted}"')
        return ", ".join(parts)

    def _challenge_further(self, scope: Scope, message: Message) -> None:
        """A refusal over HTTP of what a wider scope would admit says so: the client may ask its user for it."""
        if message["status"] == NotAllowed.status and (wanted := scope.get(SCOPE_KEY)) is not None:
            challenge = self._challenge(scope, error="insufficient_scope", wanted=wanted)
            message["headers"] = [*message["headers"], (b"www-authenticate", challenge.encode("latin-1"))]


def _add(found: dict[str, str], kind: str, text: str) -> None:
    if found.setdefault(kind, text) != text:
        raise NotAuthenticated("Two different credentials came with this request. Send one.")


async def _read_out(receive: Receive) -> bool:
    """Take what is left of a small body, since a connection that is closed with something unread in it may take the
    answer along. Returns whether it was all."""
    taken = 0
    with move_on_after(READ_OUT_SECONDS):
        while taken <= READ_OUT_BYTES:
            message = await receive()
            taken += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return True
    return False


def _scope_of_call(scope: Scope) -> str:
    """The scope that a call of MCP takes, as far as its headers tell; else those that people have."""
    named = canonical_tool(fields_of(scope).get(b"mcp-name"))
    if named in TOOLS and TOOLS[named] is not Permission.WORK:  # workers have tokens of our own
        return scope_of(TOOLS[named])
    return "holdfast:viewer holdfast:producer holdfast:operator"


def _is_page(scope: Scope) -> bool:
    """Whether a browser asks for one of our pages, without a token."""
    return (
        scope["method"] in {"GET", "HEAD"}
        and (scope["path"] == "/tasks" or scope["path"].startswith("/tasks/"))
        and b"authorization" not in fields_of(scope)
    )


def _refuse_forged(scope: Scope, fields: Fields) -> None:
    """A browser sends its cookie with whatever a page asks for; what changes something has to come from our own. An
    Origin of another has been refused by the guards."""
    if scope["type"] == "http" and scope["method"] not in _UNSAFE:
        return
    if b"origin" not in fields and fields.get(b"sec-fetch-site").strip().casefold() != "same-origin":
        raise ForeignOrigin(
            "A session's cookie came without the Origin of the page that sent it, so it may be forged. Scripts take a"
            " token instead: `Authorization: Bearer …`."
        )
