"""Groups of tasks, seen from outside as one thing that fails for one reason."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["one_failure"]


@asynccontextmanager
async def one_failure() -> AsyncGenerator[None]:
    """What ended a group of tasks, as it is: the first of several."""
    try:
        yield
    except BaseExceptionGroup as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None
