"""The routes that are asked for most, answered in front of the framework's own layers.

To find a route, to build what it may inject and to look after its errors costs FastAPI several times what a claim that
meets a pause costs. So the calls of busy workers (the operations registered as `hot`) are found by their path at the
door, pass what every request passes, the guards and the authentication, and go straight to their function. Whatever is
not exactly one of them goes on to the framework, which knows the same functions by the same paths.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast_core.errors import HoldfastError, NotAuthenticated
from holdfast_dashboard.problems import refused_by_us

__all__ = ["HOT_KEY", "Application", "HotRoutes"]

#: Where a request to a hot route carries the call that answers it.
HOT_KEY: Final = "holdfast.hot"

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


class Application(FastAPI):
    """FastAPI, with our middleware around the hot routes, and its own behind them."""

    hot_routes = HotRoutes({})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        found = self.hot_routes.find(scope) if scope["type"] == "http" else None
        if found is None:
            await super().__call__(scope, receive, send)
        else:
            scope["app"], scope[HOT_KEY] = self, found
            await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        ours, self.user_middleware = self.user_middleware, []
        framework: Any = super().build_middleware_stack()
        self.user_middleware = ours
        # The outermost of its layers answers what nobody has caught. Here the guards do, in our shape.
        assert isinstance(framework, ServerErrorMiddleware)
        stack: ASGIApp = _Hot(framework.app)
        for layer, arguments, named in reversed(ours):
            stack = layer(stack, *arguments, **named)
        return stack


class _Hot:
    """The innermost of our own layers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Endpoint | None = scope.get(HOT_KEY)
        if call is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await call(request)
        except NotAuthenticated:
            raise  # the authentication says how to do better
        except HoldfastError as error:
            response = await refused_by_us(request, error)
        await response(scope, receive, send)
