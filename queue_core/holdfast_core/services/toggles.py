"""One toggle of the pause: what it comes to, written in one transaction together with its line in the audit log."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never

from sqlalchemy import Connection, Insert

from holdfast_core.callers import Caller
from holdfast_core.errors import (
    FieldError,
    HoldfastError,
    IdempotencyStale,
    InvalidRequest,
    NotAllowed,
    NotPaused,
    ResumeNotDrained,
    VersionConflict,
)
from holdfast_core.ids import uuid7
from holdfast_core.policy import Permission, may, scope_of
from holdfast_core.schemas import (
    MAX_LIMIT_SECONDS,
    MIN_LIMIT_SECONDS,
    ControlEvent,
    EventOutcome,
    System,
    WorkerPauseRequest,
)
from holdfast_core.services.keys import body_hash, key_hash, key_reused
from holdfast_core.settings import Settings
from holdfast_core.states import PauseAction, PauseMode
from holdfast_core.store import pause as store
from holdfast_core.store.keys import Kept, find_key, keeping
from holdfast_core.store.metrics import InFlight, in_flight

__all__ = ["TIMER", "Decision", "Toggles"]

CONTROL: Final = "worker_pause"
#: Who ends a pause at its time limit, and why.
TIMER: Final = Caller(None, "timer", frozenset())
LIMIT_REASON: Final = "The pause's time limit was reached."


@dataclass(frozen=True)
class Decision:
    """What a toggle came to; committed whichever way it went."""

    system: System
    outcome: EventOutcome
    refusal: HoldfastError | None = None
    warning: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Named:
    """The idempotency key of a toggle, and its body, as they are kept."""

    key: str
    body: str


class Toggles:
    """Decides toggles. Each call runs in a transaction, and takes the lock of the pause's row first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def decide(
        self, connection: Connection, caller: Caller, request: WorkerPauseRequest, key: str | None
    ) -> Decision:
        """One toggle, under the lock of the pause's row. So a repeat that comes while the first is under way waits
        for it."""
        system = store.lock_system(connection)
        if not may(caller.roles, Permission.TOGGLE):
            refusal = NotAllowed(
                f"{caller.name} may not {request.action} the workers: an operator can.",
                scope=scope_of(Permission.TOGGLE),
            )
            return self._refuse(connection, caller, system, request, refusal)
        if key is None:
            return self._act(connection, caller, system, request, in_flight(connection), None)
        named = _Named(key_hash(caller, CONTROL, key), body_hash(request))
        kept, counts = find_key(connection, named.key)
        if kept is not None:
            return _replay(kept, named.body, system)
        return self._act(connection, caller, system, request, counts, named)

    def end_at_limit(self, connection: Connection) -> Decision | None:
        """Resume where the time limit has passed, drained or not; else None."""
        system = store.lock_system(connection)
        if not store.limit_passed(connection):
            return None
        request = WorkerPauseRequest.model_construct(action=PauseAction.RESUME, reason=LIMIT_REASON)
        return self._resume(connection, TIMER, system, request, in_flight(connection), None)

    def _act(
        self,
        connection: Connection,
        caller: Caller,
        system: System,
        request: WorkerPauseRequest,
        counts: InFlight,
        named: _Named | None,
    ) -> Decision:
        resume_at = _resume_at(connection, request)
        refusal = self._refused(system, request)
        if refusal is not None:
            return self._refuse(connection, caller, system, request, refusal, resume_at=resume_at)
        match request.action:
            case PauseAction.PAUSE:
                return self._pause(connection, caller, system, request, resume_at, counts, named)
            case PauseAction.RESUME:
                return self._resume(connection, caller, system, request, counts, named)
            case _:
                assert_never(request.action)

    def _refused(self, system: System, request: WorkerPauseRequest) -> HoldfastError | None:
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
        self,
        connection: Connection,
        caller: Caller,
        before: System,
        request: WorkerPauseRequest,
        resume_at: datetime | None,
        counts: InFlight,
        named: _Named | None,
    ) -> Decision:
        if before.workers_paused and (before.mode, before.reason, before.resume_at) == (
            request.mode,
            request.reason,
            resume_at,
        ):
            now = store.moment(connection)
            store.append_event(
                connection,
                _event(
                    caller,
                    before,
                    request,
                    "unchanged",
                    now,
                    counts=counts,
                    mode=before.mode,
                    resume_at=resume_at,
                ),
            )
            for statement in _keep(connection, named, before):
                connection.execute(statement)
            return Decision(before, "unchanged")
        # A change of mode or reason needs no door: no claim passes while paused, whatever the mode.
        door, now = (None, store.moment(connection)) if before.workers_paused else store.close(connection)
        after = System(
            workers_paused=True,
            mode=request.mode,
            reason=request.reason,
            version=before.version + 1,
            requested_by_user_id=caller.user_id,
            requested_by=caller.name,
            requested_at=before.requested_at or now,
            updated_at=now,
            resume_at=resume_at,
        )
        event = _event(
            caller, after, request, "changed", now, counts=counts, mode=after.mode, resume_at=resume_at
        )
        store.write_change(connection, after, event, door=door, also=_keep(connection, named, after))
        return Decision(after, "changed")

    def _resume(
        self,
        connection: Connection,
        caller: Caller,
        before: System,
        request: WorkerPauseRequest,
        counts: InFlight,
        named: _Named | None,
    ) -> Decision:
        force = bool(request.force_resume) or caller is TIMER
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
        event = _event(caller, after, request, "changed", now, counts=counts, mode=before.mode)
        warning = None if counts.drained else f"Resumed before the drain ended: {_what_remains(counts)}."
        store.write_change(connection, after, event, door=None, also=_keep(connection, named, after, warning))
        return Decision(after, "changed", warning=warning)

    def _refuse(
        self,
        connection: Connection,
        caller: Caller,
        system: System,
        request: WorkerPauseRequest,
        refusal: HoldfastError,
        *,
        counts: InFlight | None = None,
        resume_at: datetime | None = None,
    ) -> Decision:
        event = _event(
            caller,
            system,
            request,
            "refused",
            store.moment(connection),
            counts=counts,
            mode=request.mode,
            code=refusal.code,
            resume_at=resume_at,
        )
        store.append_event(connection, event)
        return Decision(system, "refused", refusal=refusal)


def _event(
    caller: Caller,
    system: System,
    request: WorkerPauseRequest,
    outcome: EventOutcome,
    at: datetime,
    *,
    counts: InFlight | None,
    mode: PauseMode | None,
    code: str | None = None,
    resume_at: datetime | None = None,
) -> ControlEvent:
    """A line for the audit log. `at`: a time that is later than all before it."""
    return ControlEvent(
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
        resume_at=resume_at,
        running=None if counts is None else counts.running,
        stale_running=None if counts is None else counts.stale,
        created_at=at,
    )


def _resume_at(connection: Connection, request: WorkerPauseRequest) -> datetime | None:
    """When the pause is to end, by the database's clock. Raises InvalidRequest for a time out of bounds."""
    if request.resume_after_seconds is None and request.resume_at is None:
        return None
    now = store.moment(connection)
    if request.resume_after_seconds is not None:
        return now + timedelta(seconds=request.resume_after_seconds)
    assert request.resume_at is not None
    ahead = (request.resume_at - now).total_seconds()
    if not MIN_LIMIT_SECONDS <= ahead <= MAX_LIMIT_SECONDS:
        raise InvalidRequest.of(
            FieldError(
                "resumeAt",
                f"must be between {MIN_LIMIT_SECONDS} seconds and {MAX_LIMIT_SECONDS // 86_400} days from now,"
                f" which is {now:%Y-%m-%dT%H:%M:%SZ}",
            )
        )
    return request.resume_at


def _keep(
    connection: Connection, named: _Named | None, system: System, warning: str | None = None
) -> list[Insert]:
    """What remembers under its key what a toggle came to."""
    if named is None:
        return []
    return [keeping(connection.dialect.name, named.key, Kept(named.body, system.version, warning))]


def _replay(kept: Kept, body: str, system: System) -> Decision:
    """The answer to a repeat. Raises KeyReused or IdempotencyStale."""
    if kept.body != body:
        raise key_reused()
    if kept.version != system.version:
        raise IdempotencyStale(
            f"The first request with this key left the pause at version {kept.version}; since then it has changed"
            f" to version {system.version}. Look at `system`, and ask with a new key if you still want to.",
            system=system,
            version=kept.version,
        )
    return Decision(system, "unchanged", warning=kept.warning, replayed=True)


def _what_remains(counts: InFlight) -> str:
    """What still runs, in words: `3 jobs running (1 of them parked) and 1 stale`."""
    parts: list[str] = []
    if counts.running:
        parked = f" ({counts.parked} of them parked)" if counts.parked else ""
        parts.append(f"{counts.running} {'job' if counts.running == 1 else 'jobs'} still running{parked}")
    if counts.stale:
        parts.append(f"{counts.stale} stale")
    return " and ".join(parts)
