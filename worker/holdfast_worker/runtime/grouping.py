"""Groups of tasks, seen from outside as one thing that fails for one reason."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

__all__ = ["first_of", "one_failure"]


def first_of(failure: BaseException) -> BaseException:
    """The first failure in a group of them, however deep; a failure alone is that."""
    while isinstance(failure, BaseExceptionGroup):
        failure = cast("BaseExceptionGroup[BaseException]", failure).exceptions[0]
    return failure


@asynccontextmanager
async def one_failure() -> AsyncGenerator[None]:
    """What ended a group of tasks, as it is and with its cause: the first of several."""
    try:
        yield
    except BaseExceptionGroup as group:
        first = first_of(group)
        raise first from first.__cause__
