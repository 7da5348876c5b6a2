"""The routes that are asked for most, answered in front of the framework's own layers.

To find a route, to build what it may inject and to look after its errors costs FastAPI several times what a claim that
meets a pause costs. So the calls of busy workers (the operations registered as `hot`) are found by their path at the
door, pass what every request passes, the guards and the authentication, and go straight to their function. One with
the very header fields of one that has passed takes the short way (`holdfast_dashboard.authentication`). Whatever is not
exactly one of them goes on to the framework, which knows the same functions by the same paths.

`/mcp`, which is an app of its own, has no need of the framework either.
"""

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast_core.errors import HoldfastError, NotAuthenticated, going_down
from holdfast_dashboard.authentication import HOT_KEY, Authentication, Pass
from holdfast_dashboard.operations import AtOnce
from holdfast_dashboard.problems import problem, refused_by_us, unexpected
from holdfast_dashboard.requests import Json
from holdfast_dashboard.security_headers import secured

__all__ = ["Application", "HotRoutes"]

_JOBS: Final = "/api/queue/jobs/"
_ID: Final = "{jobId}"

Endpoint = Callable[..., Awaitable[Response]]


class HotRoutes:
    """Finds the function of a request by its path: one that is whole, or that names a job and a verb."""

    def __init__(self, functions: Mapping[str, Endpoint]) -> None:
        self._whole = {path: function for path, function in functions.items() if _ID not in path}
        self._verbs = {
            path.removeprefix(f"{_JOBS}{_ID}/"): function
            for path, function in functions.items()
            if _ID in path
        }

    def find(self, scope: Scope) -> Endpoint | None:
        """What answers this request, but for the request itself; None where no hot route does."""
        path: str = scope["path"]
        if scope["method"] != "POST" or not path.startswith(_JOBS):
            return None
        if (found := self._whole.get(path)) is not None:
            return found
        job_id, _, verb = path[len(_JOBS) :].partition("/")
        function = self._verbs.get(verb)
        return partial(function, jobId=job_id) if function is not None and job_id else None


def _is_mcp(scope: Scope) -> bool:
    return (scope["type"], scope.get("path")) == ("http", "/mcp")


class Application(FastAPI):
    """FastAPI, with our middleware around the hot routes, and its own behind them."""

    hot_routes = HotRoutes({})
    #: What answers some of their requests without waiting for anything, by the path.
    answers_at_once: Mapping[str, AtOnce] = {}
    #: Answers `/mcp`.
    mcp_app: ASGIApp | None = None
    _authentication: Authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        call = self.hot_routes.find(scope) if scope["type"] == "http" else None
        if call is not None and (known := self._authentication.passed(scope)) is not None:
            await self._answer(call, known, scope, receive, send)
        elif call is not None or (self.mcp_app and _is_mcp(scope)):
            scope["app"] = self
            if call is not None:
                scope[HOT_KEY] = call
            await self.middleware_stack(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def at_once(self, scope: Scope, body: bytes) -> tuple[bytes, bytes] | None:
        """The answer (200) to a request that needs to wait for nothing, a claim that meets a pause, by the short way:
        its header fields as they go over the wire, and its body. None: it has to be called as usual, also to be
        refused. For a server that can do without a task then."""
        found = self.answers_at_once.get(scope["path"]) if scope["method"] == "POST" else None
        if found is None or self.middleware_stack is None or not found.is_ready():
            return None
        known = self._authentication.passed(scope)
        if known is None:
            return None
        try:
            with self._authentication.admitted(known, scope):
                return found.answer(known.caller, body)
        except HoldfastError:
            return None

    async def _answer(self, call: Endpoint, known: Pass, scope: Scope, receive: Receive, send: Send) -> None:
        """The short way, to the same answer."""
        request = Request(scope, receive, send)
        try:
            with self._authentication.admitted(known, scope):
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
        headers = response.raw_headers if isinstance(response, Json) else secured(response.raw_headers)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

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
