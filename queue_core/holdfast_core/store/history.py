"""The last days by the minute."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import jobs, metrics_history
from holdfast_core.db.types import UTC_TIME, columns
from holdfast_core.schemas import MinuteMetrics
from holdfast_core.states import TERMINAL

__all__ = ["KEPT_DAYS", "ended", "is_recorded", "minutes", "record"]

KEPT_DAYS: Final = 7

# Whether a minute is there.
_IS_RECORDED = select(metrics_history.c.minute).where(
    metrics_history.c.minute == bindparam("at", type_=UTC_TIME)
)

# Who comes second finds the minute recorded.
_RECORD: Final = {
    "postgresql": postgresql.insert(metrics_history).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(metrics_history).on_conflict_do_nothing(),
}

_REMOVE_OLD = delete(metrics_history).where(metrics_history.c.minute < bindparam("before", type_=UTC_TIME))

# What ended in a minute, by how; walks the index of finished jobs.
_ENDED = (
    select(jobs.c.status, func.count().label("count"))
    .where(
        jobs.c.finished_at.is_not(None),
        jobs.c.finished_at >= bindparam("since", type_=UTC_TIME),
        jobs.c.finished_at < bindparam("until", type_=UTC_TIME),
    )
    .group_by(jobs.c.status)
)

_MINUTES = (
    select(metrics_history)
    .where(metrics_history.c.minute > bindparam("after", type_=UTC_TIME))
    .order_by(metrics_history.c.minute)
)


def is_recorded(connection: Connection, minute: datetime) -> bool:
    """Whether somebody has recorded this minute."""
    return connection.execute(_IS_RECORDED, {"at": minute}).first() is not None


def ended(connection: Connection, minute: datetime) -> dict[str, int]:
    """How many jobs ended within a minute, by their status."""
    arguments = {"since": minute, "until": minute + timedelta(minutes=1)}
    found = dict.fromkeys((status.value for status in TERMINAL), 0)
    for status, count in connection.execute(_ENDED, arguments):
        found[status] = count
    return found


def record(connection: Connection, row: MinuteMetrics) -> None:
    """Write a minute down, unless it is there, and forget those of long ago."""
    connection.execute(_RECORD[connection.dialect.name], row.model_dump(by_alias=False))
    connection.execute(_REMOVE_OLD, {"before": row.minute - timedelta(days=KEPT_DAYS)})


def minutes(connection: Connection, *, after: datetime) -> list[MinuteMetrics]:
    """The minutes behind a time, oldest first."""
    return [
        MinuteMetrics.model_validate(columns(row)) for row in connection.execute(_MINUTES, {"after": after})
    ]
