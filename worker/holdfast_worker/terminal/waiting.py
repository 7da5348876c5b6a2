"""Waiting for a drain, a park, a resume or a change, and showing how far it is.

The server's wait is a bounded long poll; this repeats it until it is reached, until time is up, or until
somebody else changes the pause. A server that goes away meanwhile is waited for: restarting it is what
pauses are made for. It must have answered once, though.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, assert_never

from holdfast_worker.terminal.drain import DrainView
from holdfast_worker.terminal.exits import Exit
from holdfast_worker.terminal.output import say

if TYPE_CHECKING:
    from holdfast_core.schemas import Snapshot, WaitSnapshot
    from holdfast_worker.client import Client

__all__ = ["Goal", "Outcome", "wait_until"]

Goal = Literal["drained", "parked", "running", "version"]

#: One poll where progress is shown: the bar moves once a second at least.
_SHOWN_POLL_SECONDS: Final = 1.0
#: One poll where there is nothing to show.
_SILENT_POLL_SECONDS: Final = 20.0
#: Between attempts at a server that is away.
_RETRY_SECONDS: Final = 0.5
#: So long must only stale jobs remain before a wait gives up on them: a worker that was held up for a
#: moment heartbeats within this time, and its job runs on.
_STALE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a wait ended; `message` is for people, and empty where it was reached."""

    exit: Exit
    message: str
    body: bytes
    snapshot: "Snapshot"


def wait_until(
    client: "Client",
    goal: Goal,
    *,
    timeout_seconds: float,
    since_version: int | None = None,
    pinned: "Snapshot | None" = None,
) -> Outcome:
    """Wait for `goal`. `drained` and `parked` hold on to one version of the pause: `pinned`'s, or the first seen.

    Raises ServerUnreachable where the server does not answer at the start, or is still away at the end.
    """
    start = pinned or client.status()
    wait = _Wait(client, goal, time.monotonic() + timeout_seconds, start, client.last_answer)
    if goal in ("drained", "parked"):
        if not start.system.workers_paused:
            return wait.ended(Exit.REFUSED, "Workers are not paused, so nothing drains. Pause them first.")
        if goal == "parked" and start.system.mode == "drain":
            return wait.ended(
                Exit.REFUSED,
                "The pause is a drain, in which nothing parks. Wait for drained, or pause in quiesce.",
            )
        with DrainView(goal) as view:
            return wait.until_settled(view, start.system.version)
    version = start.system.version if since_version is None else since_version
    return wait.until_reached(version if goal == "version" else None)


class _Wait:
    def __init__(
        self, client: "Client", goal: Goal, deadline: float, snapshot: "Snapshot", body: bytes
    ) -> None:
        self._client = client
        self._goal: Goal = goal
        self._deadline = deadline
        self._snapshot = snapshot
        self._body = body
        self._told_away = False

    def ended(self, code: Exit, message: str = "") -> Outcome:
        return Outcome(code, message, self._body, self._snapshot)

    def until_settled(self, view: "DrainView", version: int) -> Outcome:
        """Drained or parked, under the pause of this version and no other."""
        view.show(self._snapshot)
        only_stale_since: float | None = None
        while True:
            answer = self._poll(_SHOWN_POLL_SECONDS, None)
            if answer is None:
                return self._timed_out()
            view.show(answer)
            if answer.system.version != version:
                return self.ended(Exit.SUPERSEDED, _superseded(answer))
            if answer.reached:
                return self.ended(Exit.DONE)
            if not _only_stale(answer):
                only_stale_since = None
            elif only_stale_since is None:
                only_stale_since = time.monotonic()
            elif time.monotonic() - only_stale_since >= _STALE_SECONDS:
                return self.ended(Exit.STALE, _stale(answer.metrics.stale_running))

    def until_reached(self, since_version: int | None) -> Outcome:
        """Running, or a version above `since_version`: whatever changes meanwhile is no matter."""
        seconds = 0.0
        while (answer := self._poll(seconds, since_version)) is not None:
            if answer.reached:
                return self.ended(Exit.DONE)
            if not seconds:
                until = "a resume" if since_version is None else f"a version above {since_version}"
                say(f"Waiting for {until}; now it is version {answer.system.version}.")
            seconds = _SILENT_POLL_SECONDS
        return self._timed_out()

    def _poll(self, seconds: float, since_version: int | None) -> "WaitSnapshot | None":
        """One answer of the server; None when time is up. The last poll is one that does not wait."""
        from holdfast_core.errors import Unavailable

        while True:
            left = self._deadline - time.monotonic()
            if left <= 0 and self._body and not self._told_away:
                return None
            try:
                # After an absence the first answer is asked for at once, to be able to say that it is over.
                patience = 0.0 if self._told_away else max(0.0, min(left, seconds))
                answer = self._client.wait(self._goal, since_version=since_version, timeout_seconds=patience)
            except Unavailable as error:
                if left <= 0:
                    raise
                if not self._told_away:
                    say(f"{error} Still waiting.")
                    self._told_away = True
                time.sleep(_RETRY_SECONDS)
                continue
            if self._told_away:
                say("The server answers again.")
                self._told_away = False
            self._snapshot, self._body = answer, self._client.last_answer
            return answer

    def _timed_out(self) -> Outcome:
        metrics = self._snapshot.metrics
        left = f"{metrics.running} running ({metrics.parked} parked), {metrics.stale_running} stale"
        match self._goal:
            case "drained" | "parked":
                message = f"Not {self._goal} in time: {left}. The pause stays; wait again, or resume."
            case "running":
                message = "Not resumed in time."
            case "version":
                message = f"Not changed in time: still version {self._snapshot.system.version}."
            case _:
                assert_never(self._goal)
        return self.ended(Exit.TIMED_OUT, message)


def _only_stale(snapshot: "Snapshot") -> bool:
    """Nothing moves any more but by hand: what is left is stale (or parked and waiting for it)."""
    metrics = snapshot.metrics
    return metrics.stale_running > 0 and metrics.running == metrics.parked


def _stale(count: int) -> str:
    jobs = "1 job is" if count == 1 else f"{count} jobs are"
    return (
        f"Nothing runs, but {jobs} stale: the lease has run out and nobody heartbeats."
        " `holdfast jobs --status running` lists them, `holdfast requeue --stale --reason …` puts them back."
    )


def _superseded(snapshot: "Snapshot") -> str:
    system = snapshot.system
    who = system.requested_by or "somebody"
    if not system.workers_paused:
        return f"The pause is over: {who} resumed the workers meanwhile (version {system.version})."
    return f"Another pause now: {who} changed it meanwhile (version {system.version}, {system.mode}: {system.reason})."
