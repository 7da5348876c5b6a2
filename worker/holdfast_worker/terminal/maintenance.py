"""A command that runs while workers are paused, and what becomes of the pause in each case.

The pause is undone as long as the command has not begun, ended after it has succeeded, and stays where it has failed:
then nobody knows what state the maintenance left behind.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from holdfast_worker.terminal.exits import Exit, stop
from holdfast_worker.terminal.foreground import Foreground
from holdfast_worker.terminal.output import say
from holdfast_worker.terminal.own_pause import WAY_OUT, OwnPause

if TYPE_CHECKING:
    from holdfast_core.schemas import Snapshot
    from holdfast_worker.client import Client
    from holdfast_worker.terminal.waiting import Goal, Outcome

__all__ = ["Maintenance"]


class Maintenance:
    """One run of `holdfast maintain`."""

    def __init__(
        self, client: "Client", reason: str, mode: Literal["drain", "quiesce"], seconds: float
    ) -> None:
        self._client = client
        self._reason = reason
        self._mode = mode
        self._seconds = seconds
        #: The pause that is made here; None where it was there before.
        self._pause: OwnPause | None = None
        self._foreground = Foreground()

    def run(self, command: Sequence[str], environment: Mapping[str, str], *, within: bool) -> None:
        """Do all of it; returns where all went well, and ends the process with the right code elsewhere."""
        with self._foreground:
            try:
                before = self._client.status()
                self._wait(self._within(before) if within else self._paused(before))
                code = self._run(command, environment)
            except BaseException:
                if self._foreground.begun:  # it ended, and a signal came before anything could be made of it
                    say(f"WORKERS STAY PAUSED. {WAY_OUT}")
                elif self._pause is not None:
                    self._pause.undo()
                raise
            if code != 0:
                how = f"with {code}" if code > 0 else f"by signal {-code}"
                stop(Exit.FAILED, f"The command ended {how}. WORKERS STAY PAUSED. {WAY_OUT}")
            if self._pause is None:
                say("The command succeeded. The pause, which was there before, stays.")
            else:
                self._end(self._pause)

    def _within(self, before: "Snapshot") -> "Snapshot":
        if not before.system.workers_paused:
            stop(Exit.REFUSED, "Workers are not paused. Leave out --within to pause them for the command.")
        return before

    def _paused(self, before: "Snapshot") -> "Snapshot":
        system = before.system
        if system.workers_paused:
            stop(
                Exit.REFUSED,
                f"Workers are paused already: {system.reason} (version {system.version}). Nothing was run;"
                " --within runs the command under that pause.",
            )
        self._pause = OwnPause(self._client, self._mode, self._reason, system.version)
        paused = self._pause.make()
        say(f"Paused: no claim is handed out until a resume (version {paused.system.version}).")
        return paused

    def _wait(self, paused: "Snapshot") -> None:
        """Until it is safe to run the command; ends the process where that does not come."""
        from holdfast_worker.terminal.waiting import wait_until

        goal: Goal = "parked" if paused.system.mode == "quiesce" else "drained"
        outcome = wait_until(self._client, goal, timeout_seconds=self._seconds, pinned=paused)
        if outcome.exit is Exit.SUPERSEDED and self._pause is not None:
            self._pause.disown()
        if outcome.exit is not Exit.DONE:
            stop(outcome.exit, f"{_why(outcome)} Nothing was run.")

    def _run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        say(f"Running: {shlex.join(command)}")
        try:
            return self._foreground.run(command, environment)
        except OSError as error:
            stop(Exit.FAILED, f"{command[0]} cannot be run: {error.strerror}.")

    def _end(self, pause: OwnPause) -> None:
        from holdfast_core.errors import IdempotencyStale, NotPaused, VersionConflict

        try:
            ended = pause.end()
        except (NotPaused, VersionConflict, IdempotencyStale) as error:
            stop(
                Exit.SUPERSEDED,
                f"The command succeeded, but somebody changed the pause meanwhile; it is left as it is. {error}",
            )
        except BaseException:
            say(f"The command succeeded, but WORKERS STAY PAUSED: they could not be resumed. {WAY_OUT}")
            raise
        if ended.warning:
            say(f"Warning: {ended.warning}")
        say(f"The command succeeded. Resumed (version {ended.system.version}).")


def _why(outcome: "Outcome") -> str:
    """Why the wait ended; the pause does not stay, as it does behind `holdfast pause --wait`."""
    if outcome.exit is not Exit.TIMED_OUT:
        return outcome.message
    metrics = outcome.snapshot.metrics
    return f"Not ready in time: {metrics.running} running ({metrics.parked} parked), {metrics.stale_running} stale."
