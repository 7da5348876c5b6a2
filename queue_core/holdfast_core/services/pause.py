"""Pause, resume, status, wait and the audit log (CONTRACT sections 2 and 3)."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, assert_never

import structlog
from anyio import create_task_group, sleep
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane, Work
from holdfast_core.errors import (
    HoldfastError,
    PauseNotConfirmed,
    StoreUnavailable,
)
from holdfast_core.policy import Permission, admit
from holdfast_core.schemas import (
    ControlEventPage,
    ControlSnapshot,
    HistoryQuery,
    Snapshot,
    System,
    WaitQuery,
    WaitSnapshot,
    WorkerPauseRequest,
)
from holdfast_core.services.counters import Counters
from holdfast_core.services.snapshots import Look, Snapshots, is_parked, is_safe, look_around
from holdfast_core.services.spans import span
from holdfast_core.services.toggles import Decision, Toggles
from holdfast_core.services.watch import PauseWatch
from holdfast_core.settings import Settings
from holdfast_core.states import PauseAction
from holdfast_core.store import pause as store
from holdfast_core.store.metrics import InFlight

__all__ = ["PauseService"]

log = structlog.get_logger(__name__)

#: How often each process looks at the limit: a pause ends within a second of it.
TIMER_SECONDS: Final = 0.4
#: The poll behind the announcements while somebody waits for a drain, in seconds.
WAIT_POLL: Final = 1.0
#: A drain that stands still is told of this often, in seconds: clients give up on a silent call.
WAIT_TELL: Final = 5.0
#: The least time between two looks, so that a burst of outcomes costs no more.
WAIT_REST: Final = 0.05


class PauseService:
    """The switch."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        watch: PauseWatch,
        snapshots: Snapshots,
        counters: Counters,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._watch = watch
        self._snapshots = snapshots
        self._counters = counters
        self._toggles = Toggles(settings)
        self._clock = clock

    async def status(self, caller: Caller) -> Snapshot:
        """The pause, the counts, the workers and the newest events."""
        admit(caller, Permission.STATUS, "see the pause")
        return await self._snapshots.take()

    async def control(
        self, caller: Caller, request: WorkerPauseRequest, *, key: str | None = None
    ) -> ControlSnapshot:
        """Pause or resume, and answer with the snapshot after it.

        Once this has returned from a pause, no claim commits in any process until a resume. `key`: a repeat
        under the same one changes nothing, and is answered while the pause is still what the first made it.
        Raises NotAllowed, VersionConflict, NotPaused or ResumeNotDrained, each of which is in the audit log;
        KeyReused, IdempotencyStale or InvalidRequest (of a time limit), which leave no trace; or
        PauseNotConfirmed, which promises nothing.
        """
        asked_at = self._clock.monotonic()
        try:
            with span("holdfast.toggle", action=request.action.value) as told:
                decision, look = await self._decide(
                    lambda connection: self._toggles.decide(connection, caller, request, key)
                )
                told.set_attribute("holdfast.outcome", decision.outcome)
                told.set_attribute("holdfast.pause_version", decision.system.version)
            log.info(
                "pause_requested",
                outcome="replayed" if decision.replayed else decision.outcome,
                action=request.action,
                pause_version=decision.system.version,
                mode=decision.system.mode,
                reason=request.reason,
                actor=caller.name,
                code=None if decision.refusal is None else decision.refusal.code,
            )
            try:
                if decision.refusal is not None:
                    raise decision.refusal
                if look is None:
                    snapshot = await self._snapshots.take()
                else:
                    snapshot = await self._snapshots.with_backlog(look)
            finally:
                # Last, since thousands may be told of it here, and who asked is not to wait behind them.
                self._tell(decision, request, asked_at)
        except StoreUnavailable as error:
            raise PauseNotConfirmed(
                f"{error.detail} Nothing is promised about this {request.action}: read the status, or repeat."
            ) from error
        # The system that this request made, even where the next toggle came before our look around.
        return ControlSnapshot(
            system=decision.system,
            metrics=snapshot.metrics,
            workers=snapshot.workers,
            audit=snapshot.audit,
            warning=decision.warning,
            replayed=decision.replayed,
        )

    def _tell(self, decision: Decision, request: WorkerPauseRequest, asked_at: float) -> None:
        """Everybody hears of it."""
        self._watch.learn(decision.system, asked_at=asked_at)
        if not decision.replayed:
            self._bus.announce("system")  # also of what changed nothing: the audit log is watched, too
        if decision.outcome == "changed":
            self._counters.add("pauses" if request.action is PauseAction.PAUSE else "resumes")
            if request.action is PauseAction.RESUME:
                self._bus.announce("jobs")

    async def _decide(self, decide: Work[Decision]) -> tuple[Decision, Look | None]:
        """Make a toggle, and count the backlog meanwhile. On SQLite the rest is looked at in the toggle's own turn:
        each time that the answer would wait for another thread, claimers are in the way. On PostgreSQL the door is not
        held closed for it: None."""
        failure: Exception | None = None
        made: tuple[Decision, Look | None] | None = None
        looks = self._database.dialect == "sqlite"

        def work(connection: Connection) -> tuple[Decision, Look | None]:
            return decide(connection), look_around(connection) if looks else None

        async def count_ahead() -> None:
            with suppress(StoreUnavailable):  # who needs the count will be told
                await self._snapshots.count_ahead()

        # What was written has to be told, also where nobody waits for the answer any more.
        async with create_task_group() as tasks:
            tasks.cancel_scope.shield = True
            tasks.start_soon(count_ahead)
            try:
                made = await self._database.write(work, lane=Lane.CONTROL)
            except Exception as error:  # as it is, not in a group
                failure = error
        if failure is not None:
            raise failure
        assert made is not None
        return made

    async def end_at_limit(self) -> bool:
        """Resume where the pause's time limit has passed, drained or not. Returns whether this call did it: of many
        processes that try, one does."""
        if self._watch.paused is None or not await self._database.read(store.limit_passed):
            return False
        asked_at = self._clock.monotonic()
        with span("holdfast.toggle", action=PauseAction.RESUME.value):
            decision = await self._database.write(self._toggles.end_at_limit, lane=Lane.CONTROL)
        if decision is None:
            await self._watch.refresh()
            return False
        self._watch.learn(decision.system, asked_at=asked_at)
        self._counters.add("resumes")
        self._bus.announce("system")
        self._bus.announce("jobs")
        log.info("pause_ended_at_limit", pause_version=decision.system.version, warning=decision.warning)
        return True

    async def run_timer(self) -> None:
        """End pauses at their time limits, until cancelled."""
        while True:
            try:
                await self.end_at_limit()
            except HoldfastError as error:
                log.warning("pause_limit_not_looked_at", cause=error.detail)
            await sleep(TIMER_SECONDS)

    async def wait(
        self,
        caller: Caller,
        query: WaitQuery,
        *,
        progress: Callable[[Snapshot], Awaitable[None]] | None = None,
    ) -> WaitSnapshot:
        """Wait until drained, parked, running, or past a version, at most `timeout_seconds`.

        `drained` and `parked` are about a pause: where there is none, or it ends meanwhile, the answer is
        `reached: false` at once. `progress` is told of each change of what runs, and of a drain that
        stands still now and then.
        """
        admit(caller, Permission.STATUS, "wait for the pause")
        deadline = self._clock.monotonic() + query.timeout_seconds
        since = query.since_version
        told: InFlight | None = None
        told_at = 0.0
        with self._bus.hub.subscribe("system", "running") as changes:
            while True:
                system, counts = await self._snapshots.in_flight()
                since = system.version if since is None else since
                reached = _reached(query, system, is_safe(system, counts), is_parked(system, counts), since)
                left = deadline - self._clock.monotonic()
                if reached is not None or left <= 0:
                    snapshot = await self._snapshots.take()
                    metrics = snapshot.metrics
                    # Judged anew from what the answer shows, so that the two never contradict each other.
                    reached = _reached(
                        query, snapshot.system, metrics.safe_to_upgrade, metrics.is_parked, since
                    )
                    return WaitSnapshot(**dict(snapshot), reached=bool(reached))
                if progress is not None and (
                    counts != told or self._clock.monotonic() - told_at >= WAIT_TELL
                ):
                    told, told_at = counts, self._clock.monotonic()
                    await progress(await self._snapshots.take())
                await changes.wait(min(left, WAIT_POLL))
                await sleep(min(left, WAIT_REST))

    async def history(self, caller: Caller, query: HistoryQuery) -> ControlEventPage:
        """A page of the audit log, newest first."""
        admit(caller, Permission.LOOK, "read the audit log")
        items, more = await self._database.read(lambda connection: store.history(connection, query))
        return ControlEventPage(items=items, next_before=more)


def _reached(query: WaitQuery, system: System, safe: bool, parked: bool, since: int) -> bool | None:
    """Whether what is waited for has come; None to go on waiting, False where it cannot come."""
    match query.for_:
        case "drained":
            return (safe or None) if system.workers_paused else False
        case "parked":
            return (parked or None) if system.workers_paused else False
        case "running":
            return not system.workers_paused or None
        case "version":
            return system.version > since or None
        case _:
            assert_never(query.for_)
