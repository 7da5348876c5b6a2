"""OpenTelemetry spans, where somebody takes them: where its SDK is installed and has been given a tracer provider.

That is decided when the services are made. Without one there is nothing of it in the way of a request.
"""

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from holdfast_core import __version__
from holdfast_core.errors import HoldfastError

__all__ = ["span", "spans_are_taken", "traced"]

P = ParamSpec("P")
T = TypeVar("T")


def spans_are_taken() -> bool:
    """Whether anybody takes spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


@contextmanager
def span(name: str, **attributes: str | int | bool) -> Generator[Span]:
    """A span around the block, for what happens now and then. Attributes are named `holdfast.…`."""
    tracer = trace.get_tracer("holdfast", __version__)
    named = {f"holdfast.{key}": value for key, value in attributes.items()}
    # What an exception says may be what a caller sent: its name has to do.
    with tracer.start_as_current_span(
        name, attributes=named, record_exception=False, set_status_on_exception=False
    ) as opened:
        try:
            yield opened
        except Exception as error:
            opened.set_attribute("error.type", type(error).__name__)
            if not isinstance(error, HoldfastError) or error.status >= 500:
                opened.set_status(Status(StatusCode.ERROR))
            raise


def traced(name: str, call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The same with a span around it, for what happens all the time: where nobody takes spans it is `call` itself.

    Where the first argument is a list of requests, `holdfast.requests` says how many they are.
    """
    if not spans_are_taken():
        return call

    @wraps(call)
    async def calling(*args: P.args, **kwargs: P.kwargs) -> T:
        first = args[0] if args else None
        with span(name, requests=len(cast("list[object]", first)) if isinstance(first, list) else 1):
            return await call(*args, **kwargs)

    return calling
