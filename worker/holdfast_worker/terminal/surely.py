"""A toggle whose answer is lost is asked for again under its key, so that it is neither doubled nor left unknown."""

import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import uuid4

from holdfast_worker.terminal.output import say

__all__ = ["surely"]

_T = TypeVar("_T")

#: Calls in all; the server itself tries for 5 s in each.
TRIES: Final = 3
#: How long to wait between two, whatever the server or a gateway asks for, in seconds.
LEAST_WAIT: Final = 1
LONGEST_WAIT: Final = 5


def surely(call: Callable[[str], _T], key: str | None = None) -> _T:
    """What `call` answers, which is given an idempotency key: `key`, or one made for this.

    It is repeated while nobody knows whether it was carried out. Where that stays so, the key is told.
    """
    from holdfast_core.errors import PauseNotConfirmed
    from holdfast_worker.failures import ServerUnreachable

    key = f"cli-{uuid4()}" if key is None else key
    lost: ServerUnreachable | None = None
    for left in reversed(range(TRIES)):
        try:
            return call(key)
        except PauseNotConfirmed as error:
            if not left:
                _tell_key(key)
                raise
            say(f"Not confirmed yet: {error} Asking again under the same key.")
            wait = error.retry_after or LEAST_WAIT
        except ServerUnreachable as error:
            # Where an earlier call got through, one that did not is no proof that nothing happened.
            lost = error if error.sent else lost
            if lost is None:
                raise
            if not left:
                _tell_key(key)
                raise lost from None
            say(f"{error} Asking again under the same key.")
            wait = LEAST_WAIT
        time.sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("the last call neither answered nor failed")


def _tell_key(key: str) -> None:
    say(f"To repeat it safely, repeat it with --idempotency-key '{key}'.")
