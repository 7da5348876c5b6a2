"""A pause that its maker ends, and never anybody else's.

It is made, undone and ended under keys of its own and by its version: a lost answer is asked for again and tells what
became of the request, and what somebody else has made of the pause meanwhile is theirs.
"""

import time
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.surely import surely

if TYPE_CHECKING:
    from holdfast_core.schemas import ControlSnapshot
    from holdfast_worker.client import Client

__all__ = ["OwnPause"]

#: How long a server that is away, restarted by the maintenance or not, may take to answer a resume.
BACK_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.5
MAX_REASON: Final = 1_000
WAY_OUT: Final = "`holdfast status` shows it, `holdfast resume --reason …` ends it."


class OwnPause:
    """One pause; `version` is its version in the system it was seen to follow, `before`, plus one."""

    def __init__(self, client: "Client", mode: str, reason: str, before: int) -> None:
        self._client = client
        self._mode = mode
        self._reason = reason
        self._before = before
        self._keys = (f"maintain-{uuid4()}", f"maintain-{uuid4()}")
        #: Whether it may be there; what was refused, or never sent, is not.
        self._maybe = False
        self._version: int | None = None

    def make(self) -> "ControlSnapshot":
        """Pause. Raises VersionConflict where somebody else was faster."""
        from holdfast_core.errors import HoldfastError, Unavailable
        from holdfast_worker.failures import ServerUnreachable, UnexpectedAnswer

        self._maybe = True
        try:
            return self._ask()
        except HoldfastError as error:
            self._maybe = isinstance(error, Unavailable | UnexpectedAnswer)
            if isinstance(error, ServerUnreachable):
                self._maybe = error.sent
            raise

    def disown(self) -> None:
        """Somebody has changed it: it is theirs."""
        self._maybe = False

    def undo(self) -> None:
        """End it, if it was made and nobody has changed it. Says what came of it, and raises no HoldfastError."""
        from holdfast_core.errors import Conflict, HoldfastError

        if not self._maybe:
            return
        try:
            if self._version is None:
                self._ask()  # its answer was lost: under the same key it tells whether it is there
            self._resume("maintenance not begun", force=True)
        except Conflict:
            say("Somebody else has changed the pause meanwhile; it is left as it is.")
        except HoldfastError as error:
            say(f"WORKERS STAY PAUSED: the pause could not be undone. {error} {WAY_OUT}")
        except KeyboardInterrupt:
            say(f"WORKERS STAY PAUSED: undoing the pause was interrupted. {WAY_OUT}")
            raise
        else:
            say("Undone: workers claim again.")

    def end(self) -> "ControlSnapshot":
        """Resume, also where the server is only just coming back. Raises what the server refuses, NotPaused,
        VersionConflict and IdempotencyStale where somebody was faster, and Unavailable after a minute of it."""
        # In quiesce jobs are parked, and resuming with them is what the mode is for.
        return self._resume("maintenance done", force=self._mode == "quiesce")

    def _ask(self) -> "ControlSnapshot":
        made = surely(
            lambda key: self._client.pause(
                self._mode, self._reason, expected_version=self._before, idempotency_key=key
            ),
            self._keys[0],
        )
        self._version = made.system.version
        return made

    def _resume(self, what: str, *, force: bool) -> "ControlSnapshot":
        from holdfast_core.errors import Unavailable
        from holdfast_worker.failures import UntrustedServer

        deadline = time.monotonic() + BACK_SECONDS
        told = False
        while True:
            try:
                return self._client.resume(
                    f"{what}: {self._reason}"[:MAX_REASON],
                    force=force,
                    expected_version=self._version,
                    idempotency_key=self._keys[1],
                )
            except UntrustedServer:
                raise
            except Unavailable as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    say(f"{error} Waiting for the server, to resume.")
                    told = True
                time.sleep(RETRY_SECONDS)
