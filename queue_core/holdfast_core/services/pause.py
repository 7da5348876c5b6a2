"""Pause, resume, status, wait and the audit log (CONTRACT sections 2 and 3)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, assert_never
from uuid import UUID

import structlog
from anyio import sleep
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.errors import (
    HoldfastError,
    NotAllowed,
    NotPaused,
    PauseNotConfirmed,
    ResumeNotDrained,
    StoreUnavailable,
    VersionConflict,
)
from holdfast_core.gate import close_door
from holdfast_core.ids import uuid7
from holdfast_core.schemas import (
    ControlEvent,
    ControlEventPage,
    EventOutcome,
    HistoryQuery,
    Snapshot,
    System,
    WaitQuery,
    WaitSnapshot,
    WorkerPauseRequest,
)
from holdfast_core.services.snapshots import Snapshots, is_parked, is_safe
from holdfast_core.services.watch import PauseWatch
from holdfast_core.settings import Settings
from holdfast_core.states import PauseAction, PauseMode
from holdfast_core.store import pause as store
from holdfast_core.store.metrics import InFlight, in_flight

__all__ = ["PauseService"]

log = structlog.get_logger(__name__)

CONTROL: Final = "worker_pause"
#: The poll behind the announcements while somebody waits for a drain, in seconds.
WAIT_POLL: Final = 1.0
#: A drain that stands still is told of this often, in seconds: clients give up on a silent call.
WAIT_TELL: Final = 5.0
#: The least time between two looks, so that a burst of outcomes costs no more.
WAIT_REST: Final = 0.05


@dataclass(frozen=True)
class _Decision:
    """What a toggle came to; committed whichever way it went."""

    system: System
    outcome: EventOutcome
    refusal: HoldfastError | None = None
    warning: str | None = None


class PauseService:
    """The switch."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        watch: PauseWatch,
        snapshots: Snapshots,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._watch = watch
        self._snapshots = snapshots
        self._settings = settings
        self._clock = clock

    async def status(self, caller: Caller) -> Snapshot:
        """The pause, the counts, the workers and the newest events."""
        return await self._snapshots.take()

    async def control(self, caller: Caller, request: WorkerPauseRequest) -> Snapshot:
        """Pause or resume, and answer with the snapshot after it.

        Once this has returned from a pause, no claim commits in any process until a resume. Raises
        NotAllowed, VersionConflict, NotPaused or ResumeNotDrained, each of which is in the audit log, or
        PauseNotConfirmed, which promises nothing.
        """
        asked_at = self._clock.monotonic()
        try:
            decision = await self._database.write(
                lambda connection: self._decide(connection, caller, request), lane=Lane.CONTROL
            )
            self._watch.learn(decision.system, asked_at=asked_at)
            if decision.outcome == "changed":
                self._bus.announce("system")
                if request.action is PauseAction.RESUME:
                    self._bus.announce("jobs")
            log.info(
                "pause_requested",
                outcome=decision.outcome,
                action=request.action,
                pause_version=decision.system.version,
                mode=decision.system.mode,
                reason=request.reason,
                actor=caller.name,
                code=None if decision.refusal is None else decision.refusal.code,
            )
            if decision.refusal is not None:
                raise decision.refusal
            snapshot = await self._snapshots.take()
        except StoreUnavailable as error:
            raise PauseNotConfirmed(
                f"{error.detail} Nothing is promised about this {request.action}: read the status, or repeat."
            ) from error
        # The system that this request made, even where the next toggle came before our look around.
        return snapshot.model_copy(update={"system": decision.system, "warning": decision.warning})

    def _decide(self, connection: Connection, caller: Caller, request: WorkerPauseRequest) -> _Decision:
        """One toggle, under the lock of the pause's row."""
        system = store.lock_system(connection)
        decision = self._refused(caller, system, request)
        if decision is None:
            match request.action:
                case PauseAction.PAUSE:
                    return self._pause(connection, caller, system, request)
                case PauseAction.RESUME:
                    return self._resume(connection, caller, system, request)
                case _:
                    assert_never(request.action)
        return self._refuse(connection, caller, system, request, decision)

    def _refused(self, caller: Caller, system: System, request: WorkerPauseRequest) -> HoldfastError | None:
        if not caller.may_toggle:
            return NotAllowed(f"{caller.name} may not {request.action} the workers: an operator can.")
        if request.expected_version is not None and request.expected_version != system.version:
            return VersionConflict(
                f"The pause is at version {system.version}, not {request.expected_version}: somebody has"
                " changed it. Look at `system`, then ask again with its version.",
                system=system,
            )
        if request.action is PauseAction.RESUME and not system.workers_paused:
            return NotPaused("Workers are not paused, so there is nothing to resume.", system=system)
        return None

    def _pause(
        self, connection: Connection, caller: Caller, before: System, request: WorkerPauseRequest
    ) -> _Decision:
        counts = in_flight(connection)
        if before.workers_paused and (before.mode, before.reason, before.resume_at) == (
            request.mode,
            request.reason,
            None,
        ):
            self._record(connection, caller, before, request, "unchanged", counts=counts, mode=before.mode)
            return _Decision(before, "unchanged")
        # A change of mode or reason needs no door: no claim passes while paused, whatever the mode.
        door = None if before.workers_paused else close_door(connection)
        now = store.moment(connection)
        after = System(
            workers_paused=True,
            mode=request.mode,
            reason=request.reason,
            version=before.version + 1,
            requested_by_user_id=caller.user_id,
            requested_by=caller.name,
            requested_at=before.requested_at or now,
            updated_at=now,
        )
        store.write_system(connection, after, door=door)
        self._record(connection, caller, after, request, "changed", counts=counts, mode=after.mode)
        return _Decision(after, "changed")

    def _resume(
        self, connection: Connection, caller: Caller, before: System, request: WorkerPauseRequest
    ) -> _Decision:
        counts = in_flight(connection)
        force = bool(request.force_resume)
        if (
            self._settings.require_force_resume
            and before.mode is PauseMode.DRAIN
            and not counts.drained
            and not force
        ):
            refusal = ResumeNotDrained(
                f"The drain has not ended: {_what_remains(counts)}. Wait for it, or say forceResume to accept"
                " the risk.",
                system=before,
            )
            return self._refuse(connection, caller, before, request, refusal, counts=counts)
        now = store.moment(connection)
        after = System(
            workers_paused=False,
            version=before.version + 1,
            requested_by_user_id=caller.user_id,
            requested_by=caller.name,
            updated_at=now,
        )
        store.write_system(connection, after, door=None)
        self._record(connection, caller, after, request, "changed", counts=counts, mode=before.mode)
        warning = None if counts.drained else f"Resumed before the drain ended: {_what_remains(counts)}."
        return _Decision(after, "changed", warning=warning)

    def _refuse(
        self,
        connection: Connection,
        caller: Caller,
        system: System,
        request: WorkerPauseRequest,
        refusal: HoldfastError,
        *,
        counts: InFlight | None = None,
    ) -> _Decision:
        self._record(
            connection,
            caller,
            system,
            request,
            "refused",
            counts=counts,
            mode=request.mode,
            code=refusal.code,
        )
        return _Decision(system, "refused", refusal=refusal)

    def _record(
        self,
        connection: Connection,
        caller: Caller,
        system: System,
        request: WorkerPauseRequest,
        outcome: EventOutcome,
        *,
        counts: InFlight | None,
        mode: PauseMode | None,
        code: str | None = None,
    ) -> UUID:
        """One line in the audit log, at a time that is later than all before it."""
        event = ControlEvent(
            id=uuid7(),
            control=CONTROL,
            action=request.action,
            outcome=outcome,
            code=code,
            mode=mode,
            reason=request.reason,
            actor_user_id=caller.user_id,
            actor=caller.name,
            version=system.version,
            force_resume=bool(request.force_resume),
            resume_at=None,
            running=None if counts is None else counts.running,
            stale_running=None if counts is None else counts.stale,
            created_at=system.updated_at if outcome == "changed" else store.moment(connection),
        )
        store.append_event(connection, event)
        return event.id

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


def _what_remains(counts: InFlight) -> str:
    """What still runs, in words: `3 jobs running (1 of them parked) and 1 stale`."""
    parts: list[str] = []
    if counts.running:
        parked = f" ({counts.parked} of them parked)" if counts.parked else ""
        parts.append(f"{counts.running} {'job' if counts.running == 1 else 'jobs'} still running{parked}")
    if counts.stale:
        parts.append(f"{counts.stale} stale")
    return " and ".join(parts)
