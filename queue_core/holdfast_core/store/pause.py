"""The row of the pause and the audit log."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Insert, Row, and_, bindparam, func, insert, literal_column, select, update

from holdfast_core.db.prepared import Stored, run
from holdfast_core.db.tables import control_events, pause_state
from holdfast_core.db.types import UTC_TIME, Now, columns
from holdfast_core.gate import close_door
from holdfast_core.schemas import ControlEvent, HistoryQuery, System

__all__ = [
    "append_event",
    "changes_between",
    "close",
    "events_after",
    "history",
    "latest_events",
    "limit_passed",
    "lock_system",
    "made_at",
    "moment",
    "newest_event",
    "read_system",
    "system_from",
    "write_change",
]

LATEST: Final = 5

# The pause as it is.
_READ = select(pause_state)

# The pause, with its row locked, so that toggles take turns.
_LOCK = select(pause_state).with_for_update()

# The database's time, and the newest event's, so that the log's order is the order of its making even
# where the clock was set back.
_MOMENT: Any = select(
    Now().label("now"), select(func.max(control_events.c.created_at)).scalar_subquery().label("last")
)

# The newest events that changed or confirmed something.
_LATEST = (
    select(control_events)
    .where(control_events.c.outcome != "refused")
    .order_by(control_events.c.created_at.desc())
    .limit(LATEST)
)

# When the event with this id was made.
_MADE_AT = select(control_events.c.created_at).where(control_events.c.id == bindparam("id"))

# The newest event, whatever came of it.
_NEWEST = select(control_events).order_by(control_events.c.created_at.desc()).limit(1)

# What made the versions between two, in their order.
_CHANGES = (
    select(control_events)
    .where(
        control_events.c.outcome == "changed",
        control_events.c.version > bindparam("low"),
        control_events.c.version < bindparam("high"),
    )
    .order_by(control_events.c.version)
)

# Whether the pause has a time limit that has passed.
_LIMIT_PASSED = select(
    and_(pause_state.c.paused, pause_state.c.resume_at.is_not(None), pause_state.c.resume_at <= Now())
)

_WRITE = update(pause_state).where(pause_state.c.id == literal_column("1"))


def system_from(row: Row[Any] | Stored, prefix: str = "") -> System:
    """The `system` of a row that holds the pause's columns, their names with `prefix`."""
    of = columns(row)
    return System(
        workers_paused=of[f"{prefix}paused"],
        mode=of[f"{prefix}mode"],
        reason=of[f"{prefix}reason"],
        version=of[f"{prefix}version"],
        requested_by_user_id=of[f"{prefix}requested_by_user_id"],
        requested_by=of[f"{prefix}requested_by"],
        requested_at=of[f"{prefix}requested_at"],
        updated_at=of[f"{prefix}updated_at"],
        resume_at=of[f"{prefix}resume_at"],
    )


def read_system(connection: Connection) -> System:
    """The pause as this transaction sees it."""
    (row,) = run(connection, _READ)
    return system_from(row)


def lock_system(connection: Connection) -> System:
    """The pause, locked against other toggles until this transaction ends."""
    return system_from(connection.execute(_LOCK).one())


def limit_passed(connection: Connection) -> bool:
    """Whether the pause has a time limit that has passed, by the database's clock."""
    return bool(connection.execute(_LIMIT_PASSED).scalar_one())


def moment(connection: Connection) -> datetime:
    """A time for the next event: the database's now, and later than every event before."""
    return _later_than_all(connection.execute(_MOMENT).one())


def close(connection: Connection) -> tuple[str, datetime]:
    """Close the door (`holdfast_core.gate`): what it gave, and a moment behind it. Raises PauseNotConfirmed."""
    row = close_door(connection, _MOMENT)
    return row.door, _later_than_all(row)


def _later_than_all(row: Any) -> datetime:
    now: datetime = row.now
    last: datetime | None = row.last
    return now if last is None else max(now, last + timedelta(microseconds=1))


def write_change(
    connection: Connection,
    system: System,
    event: ControlEvent,
    *,
    door: str | None,
    also: Sequence[Insert] = (),
) -> None:
    """Put `system` in place of what was, with the line in the audit log that tells of it. `door` is what `close` gave,
    None to keep what is there. `also`: what else is to be written with it."""
    values: dict[str, Any] = {
        "paused": system.workers_paused,
        "mode": system.mode,
        "reason": system.reason,
        "version": system.version,
        "requested_by_user_id": system.requested_by_user_id,
        "requested_by": system.requested_by,
        "requested_at": system.requested_at,
        "updated_at": system.updated_at,
        "resume_at": system.resume_at,
    }
    if door is not None:
        values["door"] = door
    write, append = _WRITE.values(values), insert(control_events).values(event.model_dump(by_alias=False))
    if connection.dialect.name == "sqlite":
        for statement in (write, append, *also):
            connection.execute(statement)
    else:  # in one round trip: claims wait meanwhile
        together = [write, *also]
        connection.execute(append.add_cte(*(one.cte(f"with_{place}") for place, one in enumerate(together))))


def append_event(connection: Connection, event: ControlEvent) -> None:
    """Add one line to the audit log."""
    connection.execute(insert(control_events), event.model_dump(by_alias=False))


def latest_events(connection: Connection) -> list[ControlEvent]:
    """The five newest events, newest first, refused ones left out."""
    return [_event_from(row) for row in connection.execute(_LATEST)]


def made_at(connection: Connection, event_id: UUID) -> datetime | None:
    """When the event with this id was made; None where there is none."""
    at: datetime | None = connection.execute(_MADE_AT, {"id": event_id}).scalar_one_or_none()
    return at


def newest_event(connection: Connection) -> ControlEvent | None:
    """The newest event of the audit log, refused ones included."""
    row = connection.execute(_NEWEST).one_or_none()
    return None if row is None else _event_from(row)


def events_after(connection: Connection, at: datetime | None, *, limit: int) -> list[ControlEvent]:
    """The events behind a time (None: all), oldest first. No two have the same, so nothing is missed."""
    wanted = select(control_events).order_by(control_events.c.created_at).limit(limit)
    if at is not None:
        wanted = wanted.where(control_events.c.created_at > bindparam("at", at, type_=UTC_TIME))
    return [_event_from(row) for row in connection.execute(wanted)]


def changes_between(connection: Connection, low: int, high: int) -> list[ControlEvent]:
    """The events that made the versions above `low` and below `high`, in their order."""
    return [_event_from(row) for row in connection.execute(_CHANGES, {"low": low, "high": high})]


def history(connection: Connection, query: HistoryQuery) -> tuple[list[ControlEvent], UUID | None]:
    """A page of the log, newest first, and the id to ask with for the next one."""
    wanted = select(control_events).order_by(control_events.c.created_at.desc()).limit(query.limit + 1)
    if query.before is not None:
        before = made_at(connection, query.before)
        if before is None:
            return [], None
        wanted = wanted.where(control_events.c.created_at < bindparam("before", before, type_=UTC_TIME))
    if query.outcome is not None:
        wanted = wanted.where(control_events.c.outcome == query.outcome)
    if query.action is not None:
        wanted = wanted.where(control_events.c.action == query.action)
    events = [_event_from(row) for row in connection.execute(wanted)]
    page = events[: query.limit]
    return page, page[-1].id if len(events) > query.limit else None


def _event_from(row: Row[Any]) -> ControlEvent:
    return ControlEvent.model_validate(columns(row))
