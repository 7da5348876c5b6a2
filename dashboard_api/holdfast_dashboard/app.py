"""The app factory: guards around everything, one part of the API a file, MCP handed its own path."""

from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from holdfast_core import __version__
from holdfast_core.errors import HoldfastError
from holdfast_core.schemas import Problem
from holdfast_core.services import Services, spans_are_taken
from holdfast_core.settings import Settings
from holdfast_dashboard.artifact_routes import artifact_operations
from holdfast_dashboard.authentication import Authentication
from holdfast_dashboard.context import Context
from holdfast_dashboard.guards import Guards
from holdfast_dashboard.health_routes import health_operations
from holdfast_dashboard.hot_routes import Application, HotRoutes
from holdfast_dashboard.log_routes import log_operations
from holdfast_dashboard.login_routes import login_operations
from holdfast_dashboard.metrics_routes import metrics_operations
from holdfast_dashboard.oauth_routes import oauth_routes
from holdfast_dashboard.oidc_routes import CALLBACK_PATH, oidc_routes
from holdfast_dashboard.operations import Operations
from holdfast_dashboard.pages import ASSETS, page_routes
from holdfast_dashboard.problems import refused_by_router, refused_by_us
from holdfast_dashboard.queue_routes import queue_operations
from holdfast_dashboard.system_routes import system_operations
from holdfast_dashboard.token_routes import token_operations
from holdfast_dashboard.worker_sessions import session_routes

__all__ = ["create_app"]

#: What is asked all the time by machines, and what has a secret in its address.
_UNTRACED: Final = frozenset({"/healthz", "/readyz", "/metrics", CALLBACK_PATH})


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request gets no span. Sessions get none either: they last for days."""
    path: str = scope["path"]
    return scope["type"] == "websocket" or path in _UNTRACED or path.startswith(f"{ASSETS}/")


def create_app(
    services: Callable[[], Services],
    settings: Settings,
    *,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    mcp_app: ASGIApp | None = None,
) -> Application:
    """REST and the page, over services that exist once `lifespan` has begun. `mcp_app` answers `/mcp`."""

    @asynccontextmanager
    async def begun(_: FastAPI) -> AsyncGenerator[None]:
        # By now the framework has looked who takes spans. It makes those of requests, so all of them go its way.
        if spans_are_taken():
            app.hot_routes, app.begins = HotRoutes({}), HotRoutes({})
        async with nullcontext() if lifespan is None else lifespan(app):
            yield

    app = Application(
        title="Holdfast",
        version=__version__,
        summary="A job queue for AI-agent workers, with a pause that can be trusted.",
        lifespan=begun,
        # The ready-made pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Spans of requests, where OpenTelemetry's SDK has somewhere to send them to. Nothing else of it: what is
        # measured stands in docs/observability.md, and texts of errors may be what a caller sent.
        telemetry={
            "auto_configure": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": _is_untraced,
        },
    )
    context = Context(services, settings)
    parts = [
        queue_operations(context),
        system_operations(context),
        log_operations(context),
        artifact_operations(context),
        health_operations(context),
        metrics_operations(context),
        token_operations(context),
        login_operations(context),
    ]
    for part in parts:
        app.include_router(part.router)
    app.mcp_app = mcp_app
    app.hot_routes = HotRoutes({path: function for part in parts for path, function in part.hot.items()})
    app.begins = HotRoutes({path: function for part in parts for path, function in part.begins.items()})
    app.router.routes.extend(
        [
            *page_routes(context),
            *oidc_routes(context),
            *session_routes(context),
            *oauth_routes(context),
        ]
    )
    app.add_exception_handler(HoldfastError, refused_by_us)
    app.add_exception_handler(HTTPException, refused_by_router)
    # The last one is the outermost.
    app.add_middleware(Authentication, services=services, settings=settings)
    app.add_middleware(Guards, settings=settings)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    app.openapi = lambda: _openapi(app, parts)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI, parts: list[Operations]) -> dict[str, Any]:
    """The schema of the API, made once: paths from the routes, shapes from the models."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        requests: set[type[BaseModel]] = {model for part in parts for model in part.requests}
        answers: set[type[BaseModel]] = {Problem, *(model for part in parts for model in part.answers)}
        wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [
            *((model, "validation") for model in requests),
            *((model, "serialization") for model in answers),
        ]
        _, shapes = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
        for operation in (operation for item in schema["paths"].values() for operation in item.values()):
            # The framework's own refusal of parameters, in a shape that we never answer.
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
        schema["components"] = {"schemas": dict(sorted(shapes["$defs"].items()))}
        app.openapi_schema = schema
    return app.openapi_schema
