"""Alerts: which of many processes tells of something, and whether it has been told.

They stand among the idempotency keys, which are kept for a day and then forgotten: what an alert is about is done once,
too. No key of a client looks like one of these, since theirs are hashes.
"""

from typing import Any, Final, Literal

from sqlalchemy import Connection, Float, String, and_, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import idempotency_keys, pause_state
from holdfast_core.db.types import Now

__all__ = ["pause_seconds", "take", "told"]

_TAKEN: Final = "taken"
_TOLD: Final = "told"

# Since when it is paused, by the database's clock.
_PAUSED_SINCE = select(pause_state.c.requested_at.label("since"), Now().label("now")).where(
    pause_state.c.paused
)


def _take(insert_: Any) -> Any:
    # By the first, or by whoever comes once the one that took it has had its time.
    statement = insert_(idempotency_keys).values(created_at=Now())
    return statement.on_conflict_do_update(
        index_elements=[idempotency_keys.c.key],
        set_={"created_at": statement.excluded.created_at},
        where=and_(
            idempotency_keys.c.body == _TAKEN,
            idempotency_keys.c.created_at <= Now(-bindparam("again_after", type_=Float())),
        ),
    ).returning(idempotency_keys.c.key)


_TAKE: Final = {"postgresql": _take(postgresql.insert), "sqlite": _take(sqlite.insert)}

# What is known of an alert.
_FIND = select(idempotency_keys.c.body).where(idempotency_keys.c.key == bindparam("wanted", type_=String()))

_TELL = (
    update(idempotency_keys)
    .where(idempotency_keys.c.key == bindparam("wanted", type_=String()))
    .values(body=_TOLD)
)


def pause_seconds(connection: Connection) -> float | None:
    """How long the pause has lasted; None where there is none."""
    row = connection.execute(_PAUSED_SINCE).one_or_none()
    return None if row is None else max(0.0, (row.now - row.since).total_seconds())


def take(
    connection: Connection, key: str, version: int, *, again_after: float
) -> Literal["taken", "busy", "told"]:
    """Take it upon oneself to tell of this. `busy`: another process has, less than `again_after` seconds ago."""
    arguments = {"key": key, "body": _TAKEN, "version": version, "again_after": again_after}
    if connection.execute(_TAKE[connection.dialect.name], arguments).first() is not None:
        return "taken"
    return "told" if connection.execute(_FIND, {"wanted": key}).scalar() == _TOLD else "busy"


def told(connection: Connection, key: str) -> None:
    """It has been told: nobody needs to do it again."""
    connection.execute(_TELL, {"wanted": key})
