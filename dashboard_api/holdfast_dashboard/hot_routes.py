"""The routes that are asked for most, answered in front of the framework's own layers.

To find a route, to build what it may inject and to look after its errors costs FastAPI several times what a claim that
meets a pause costs. So the calls of busy workers (the operations registered as `hot`) are found by their path at the
door, pass what every request passes, the guards and the authentication, and go straight to their function. One with
the very header fields of one that has passed takes the short way (`holdfast_dashboard.authentication`). Whatever is not
exactly one of them goes on to the framework, which knows the same functions by the same paths.

On the short way a request needs no task, where the server can do without (`may_begin`, `begin`): a task with its queues
costs as much as all else that is done for one. It is begun, and its answer is written when it is over.

`/mcp`, which is an app of its own, has no need of the framework either.
"""

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Generic, TypeVar

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast_core.errors import HoldfastError, NotAuthenticated, going_down
from holdfast_dashboard.authentication import HOT_KEY, Authentication
from holdfast_dashboard.operations import Begin, Under, Wire
from holdfast_dashboard.problems import problem, refused_by_us, unexpected
from holdfast_dashboard.requests import Json
from holdfast_dashboard.security_headers import secured

__all__ = ["Application", "HotRoutes"]

#: Where a request that may be begun without a task carries what begins it.
_BEGIN_KEY: Final = "holdfast.begin"
#: Where one that was, and needs a task after all, carries what it has come to.
_UNDER_KEY: Final = "holdfast.under"

_JOBS: Final = "/api/queue/jobs/"
_ID: Final = "{jobId}"

F = TypeVar("F")
Endpoint = Callable[..., Awaitable[Response]]


class HotRoutes(Generic[F]):
    """Finds what is for a request by its path: one that is whole, or that names a job and a verb."""

    def __init__(self, functions: Mapping[str, F]) -> None:
        self._whole = {path: function for path, function in functions.items() if _ID not in path}
        self._verbs = {
            path.removeprefix(f"{_JOBS}{_ID}/"): function
            for path, function in functions.items()
            if _ID in path
        }

    def find(self, scope: Scope) -> tuple[F, str] | None:
        """What is for this request, and the id in its path ("" where none is); None where nothing is."""
        path: str = scope["path"]
        if scope["method"] != "POST" or not path.startswith(_JOBS):
            return None
        if (found := self._whole.get(path)) is not None:
            return found, ""
        job_id, _, verb = path[len(_JOBS) :].partition("/")
        function = self._verbs.get(verb)
        return (function, job_id) if function is not None and job_id else None


def _is_mcp(scope: Scope) -> bool:
    return (scope["type"], scope.get("path")) == ("http", "/mcp")


class Application(FastAPI):
    """FastAPI, with our middleware around the hot routes, and its own behind them."""

    hot_routes: HotRoutes[Endpoint] = HotRoutes({})
    #: What begins some of their requests without a task.
    begins: HotRoutes[Begin] = HotRoutes({})
    #: Answers `/mcp`.
    mcp_app: ASGIApp | None = None
    _authentication: Authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        if (under := scope.get(_UNDER_KEY)) is not None:
            call, place = under
            await self._answer(call, place, scope, receive, send)
            return
        call = self._find(scope) if scope["type"] == "http" else None
        if call is not None and (known := self._authentication.passed(scope)) is not None:
            try:
                place = self._authentication.admitted(known, scope)
            except HoldfastError as error:
                await _send(await refused_by_us(Request(scope, receive, send), error), send)
                return
            await self._answer(call, place, scope, receive, send)
        elif call is not None or (self.mcp_app and _is_mcp(scope)):
            scope["app"] = self
            if call is not None:
                scope[HOT_KEY] = call
            await self.middleware_stack(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _find(self, scope: Scope) -> Endpoint | None:
        found = self.hot_routes.find(scope)
        if found is None:
            return None
        function, job_id = found
        return partial(function, jobId=job_id) if job_id else function

    def may_begin(self, scope: Scope) -> bool:
        """Whether a request needs no task of its own once its body has come: it goes by the short way. For a server
        that can do without one then."""
        found = self.begins.find(scope)
        if found is None or self.middleware_stack is None:
            return False
        known = self._authentication.passed(scope)
        scope[_BEGIN_KEY] = (*found, known)
        return known is not None

    def begin(self, scope: Scope, body: bytes, answer: Callable[[Wire | None], None]) -> bool:
        """Begin such a request. True: `answer` is called once, now or later, with a good answer (200), or with None
        where the request has to be called after all, which then goes on with it. False: it has to be called, as if it
        had not been begun, also to be refused."""
        function, job_id, known = scope[_BEGIN_KEY]
        if not self._authentication.is_good(known):
            return False
        try:
            place = self._authentication.admitted(known, scope)
            begun = function(known.caller, body, job_id)
        except Exception:  # whatever it is, it is told on the usual way
            return False
        if not isinstance(begun, Under):
            if begun is not None:
                answer(begun)
            return begun is not None
        place.__enter__()
        begun.begun.when_over(partial(_over, begun, place, scope, answer))
        return True

    async def _answer(
        self,
        call: Callable[[Request], Awaitable[Response]],
        place: AbstractContextManager[None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """The short way, to the same answer."""
        request = Request(scope, receive, send)
        try:
            with place:
                response = await call(request)
        except ClientDisconnect:
            return  # gone within its own body
        except NotAuthenticated as error:  # its credential has ended, while it waited
            response = self._authentication.refusal(scope, error)
        except HoldfastError as error:
            response = await refused_by_us(request, error)
        except CancelledError:
            # Only `holdfast serve` cancels a call, as the last thing that it does to it, and says so here.
            is_closing: Callable[[], bool] | None = getattr(self.state, "is_closing", None)
            if is_closing is None or not is_closing():
                raise
            response = problem(going_down())
        except Exception as error:
            response = unexpected(error, scope["path"])
        await _send(response, send)

    def build_middleware_stack(self) -> ASGIApp:
        ours, self.user_middleware = self.user_middleware, []
        framework: Any = super().build_middleware_stack()
        self.user_middleware = ours
        # The outermost of its layers answers what nobody has caught. Here the guards do, in our shape.
        assert isinstance(framework, ServerErrorMiddleware)
        stack: ASGIApp = _Hot(framework.app, self.mcp_app)
        for layer, arguments, named in reversed(ours):
            stack = layer(stack, *arguments, **named)
            if isinstance(stack, Authentication):
                self._authentication = stack
        return stack


class _Hot:
    """The innermost of our own layers."""

    def __init__(self, app: ASGIApp, mcp_app: ASGIApp | None) -> None:
        self._app = app
        self._mcp_app = mcp_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Endpoint | None = scope.get(HOT_KEY)
        if call is None:
            app = self._mcp_app if self._mcp_app and _is_mcp(scope) else self._app
            await app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await call(request)
        except NotAuthenticated:
            raise  # the authentication says how to do better
        except HoldfastError as error:
            response = await refused_by_us(request, error)
        await response(scope, receive, send)


def _over(
    begun: Under, place: AbstractContextManager[None], scope: Scope, answer: Callable[[Wire | None], None]
) -> None:
    place.__exit__(None, None, None)
    try:
        wire = begun.wire()
    except Exception:  # whatever it is, it is told on the usual way
        wire = None
    if wire is None:
        scope[_UNDER_KEY] = begun.finish, place
    answer(wire)


async def _send(response: Response, send: Send) -> None:
    headers = response.raw_headers if isinstance(response, Json) else secured(response.raw_headers)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
