"""A toggle whose answer is lost is asked for again under its key, so that it is neither doubled nor left unknown."""

import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import uuid4

from holdfast_worker.terminal.output import say

__all__ = ["new_key", "surely"]

_T = TypeVar("_T")

#: Calls in all; the server itself tries for 5 s in each.
TRIES: Final = 3


def new_key() -> str:
    """A key for one toggle of this invocation."""
    return f"cli-{uuid4()}"


def surely(call: Callable[[], _T]) -> _T:
    """What `call` answers. It is repeated while nobody knows whether it was carried out."""
    from holdfast_core.errors import PauseNotConfirmed
    from holdfast_worker.failures import ServerUnreachable

    for _ in range(TRIES - 1):
        try:
            return call()
        except PauseNotConfirmed as error:
            say(f"Not confirmed yet: {error} Asking again under the same key.")
            time.sleep(error.retry_after or 1)
        except ServerUnreachable as error:
            if not error.sent:
                raise
            say(f"{error} Asking again under the same key.")
            time.sleep(1)
    return call()
