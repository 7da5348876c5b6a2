"""Following a stream of the server's events over the times in which the server is away."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from holdfast_worker.terminal.output import say

if TYPE_CHECKING:
    from holdfast_worker.events import ServerEvent

__all__ = ["following"]

#: How long to wait before coming back, at first and at most, in seconds.
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 15.0


def following(
    opened: Callable[[str | None], Iterator["ServerEvent"]], tell: Callable[[str], None] = say
) -> Generator["ServerEvent"]:
    """The events of a stream that has no end. `opened` opens it behind the event of an id; None: at its beginning.

    Where it breaks off it is opened again, with back-off, and `tell` is told so in words (by default on stderr); what
    waiting does not mend is raised. It waits from the start, so ask the server something before: one that never
    answered is not restarting.
    """
    from holdfast_core.errors import Unavailable
    from holdfast_worker.failures import UntrustedServer

    last_id: str | None = None
    away = False
    wait = FIRST_WAIT
    while True:
        cause, patience = "The server has ended the stream.", 0
        try:
            for event in opened(last_id):
                if away:
                    tell("Connected again.")
                away, wait = False, FIRST_WAIT
                if event.event == "error":  # the server's last words; it ends the stream behind them
                    cause = f"The server: {_detail_of(event)}"
                    continue
                last_id = event.id or last_id
                yield event
        except UntrustedServer:
            raise
        except Unavailable as error:
            cause, patience = str(error), error.retry_after or 0
        if not away:
            tell(f"{cause} Waiting for it to come back.")
            away = True
        time.sleep(min(max(wait, patience), LONGEST_WAIT))
        wait = min(wait * 2, LONGEST_WAIT)


def _detail_of(event: "ServerEvent") -> str:
    from holdfast_core.errors import HoldfastError
    from holdfast_core.schemas import Problem

    with suppress(HoldfastError):
        return event.read(Problem).detail
    return "something failed."
