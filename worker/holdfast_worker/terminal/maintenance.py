"""A command that runs while workers are paused, and what becomes of the pause in each case.

The pause is undone as long as the command has not begun, ended after it has succeeded, and stays where it has failed:
then nobody knows what state the maintenance left behind. Whatever is done carries the version of the pause that was
made here, so that it never ends anybody else's.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.surely import surely

if TYPE_CHECKING:
    from holdfast_core.schemas import ControlSnapshot, Snapshot
    from holdfast_worker.client import Client
    from holdfast_worker.terminal.waiting import Goal, Outcome

__all__ = ["Maintenance"]

#: How long a server that the command has restarted may take to answer again.
BACK_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.5
MAX_REASON: Final = 1_000

Handler = Callable[[int, FrameType | None], Any]


class Maintenance:
    """One run of `holdfast maintain`."""

    def __init__(
        self, client: "Client", reason: str, mode: Literal["drain", "quiesce"], seconds: float
    ) -> None:
        self._client = client
        self._reason = reason
        self._mode = mode
        self._seconds = seconds
        #: The version of the pause that is, or is about to be, made here.
        self._version: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], *, within: bool) -> None:
        """Do all of it; returns where all went well, and ends the process with the right code elsewhere."""
        with _handling(self._signalled):
            try:
                before = self._client.status()
                if within:
                    self._wait_within(before)
                else:
                    self._pause_and_wait(before)
                self._start(command)
            except BaseException:
                # Nothing has been run, so nobody is to stay paused for it.
                if self._process is None and self._version is not None:
                    self._undo(self._version)
                raise
            assert self._process is not None
            code = self._process.wait()
        if code != 0:
            how = f"with {code}" if code > 0 else f"by signal {-code}"
            stop(
                Exit.FAILED,
                f"The command ended {how}. WORKERS STAY PAUSED. Once it is mended: `holdfast resume --reason …`.",
            )
        if self._version is None:
            say("The command succeeded. The pause, which was there before, stays.")
        else:
            self._resume(self._version)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        """Before the command a signal ends it all. Later Ctrl-C reaches the command by itself, being of the terminal's
        foreground, and the others are handed on; it is waited for, since how it ends decides about the pause."""
        if self._process is None:
            raise KeyboardInterrupt
        if number != signal.SIGINT:
            self._process.send_signal(number)

    def _start(self, command: Sequence[str]) -> None:
        say(f"Running: {' '.join(command)}")
        try:
            # The command is what the person asked for.
            self._process = subprocess.Popen(  # noqa: S603
                command, env=os.environ | {"HOLDFAST_URL": self._client.url}
            )
        except OSError as error:
            stop(Exit.FAILED, f"{command[0]} cannot be run: {error.strerror}.")

    def _wait_within(self, before: "Snapshot") -> None:
        """Wait under a pause that was there before."""
        if not before.system.workers_paused:
            stop(Exit.REFUSED, "Workers are not paused. Leave out --within to pause them for the command.")
        self._wait(before)

    def _pause_and_wait(self, before: "Snapshot") -> None:
        if before.system.workers_paused:
            stop(
                Exit.REFUSED,
                f"Workers are paused already: {before.system.reason} (version {before.system.version}). Nothing was"
                " run; --within runs the command under that pause.",
            )
        self._version = before.system.version + 1
        paused = surely(
            lambda key: self._client.pause(
                self._mode, self._reason, expected_version=before.system.version, idempotency_key=key
            )
        )
        say(f"Paused: no claim is handed out until a resume (version {self._version}).")
        self._wait(paused)

    def _wait(self, paused: "Snapshot") -> None:
        """Until it is safe to run the command; ends the process where that does not come."""
        from holdfast_worker.terminal.waiting import wait_until

        goal: Goal = "parked" if paused.system.mode == "quiesce" else "drained"
        outcome = wait_until(self._client, goal, timeout_seconds=self._seconds, pinned=paused)
        if outcome.exit is not Exit.DONE:
            stop(outcome.exit, f"{_why(outcome)} Nothing was run.")

    def _undo(self, version: int) -> None:
        """End the pause that was made here, if it was made and is still that one."""
        from holdfast_core.errors import Conflict, HoldfastError

        try:
            system = self._client.status().system
            if not (
                system.workers_paused and system.version == version and system.reason == self._reason.strip()
            ):
                return
            self._client.resume(
                _cut(f"maintenance not begun: {self._reason}"), force=True, expected_version=version
            )
        except Conflict:
            return  # somebody was faster, and it is theirs now
        except HoldfastError as error:
            say(f"WORKERS MAY STAY PAUSED: the pause could not be undone. {error}")
            say("See `holdfast status`; `holdfast resume --reason …` ends it.")
            return
        say("Undone: workers claim again.")

    def _resume(self, version: int) -> None:
        """End the pause after the command, also where that has restarted the server."""
        from holdfast_core.errors import HoldfastError, NotPaused, Unavailable, VersionConflict

        deadline = time.monotonic() + BACK_SECONDS
        told = False
        while True:
            try:
                snapshot: ControlSnapshot = surely(
                    lambda key: self._client.resume(
                        _cut(f"maintenance done: {self._reason}"),
                        expected_version=version,
                        idempotency_key=key,
                    )
                )
                break
            except (NotPaused, VersionConflict) as error:
                stop(
                    Exit.SUPERSEDED,
                    f"The command succeeded, but somebody changed the pause meanwhile; it is left as it is. {error}",
                )
            except Unavailable as error:
                if time.monotonic() >= deadline:
                    _stays(version)
                    raise
                if not told:
                    say(f"{error} Waiting for the server, to resume.")
                    told = True
                time.sleep(RETRY_SECONDS)
            except (HoldfastError, KeyboardInterrupt):
                _stays(version)
                raise
        if snapshot.warning:
            say(f"Warning: {snapshot.warning}")
        say(f"The command succeeded. Resumed (version {snapshot.system.version}).")


def _stays(version: int) -> None:
    say(
        f"The command succeeded, but WORKERS STAY PAUSED (version {version})."
        " `holdfast resume --reason …` ends the pause."
    )


def _why(outcome: "Outcome") -> str:
    """Why the wait ended; the pause does not stay, as it does behind `holdfast pause --wait`."""
    if outcome.exit is not Exit.TIMED_OUT:
        return outcome.message
    metrics = outcome.snapshot.metrics
    return f"Not ready in time: {metrics.running} running ({metrics.parked} parked), {metrics.stale_running} stale."


def _cut(reason: str) -> str:
    return reason[:MAX_REASON]


@contextmanager
def _handling(handler: Handler) -> Generator[None]:
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), handler) for name in names}
    try:
        yield
    finally:
        for name, earlier in before.items():
            signal.signal(getattr(signal, name), earlier)
