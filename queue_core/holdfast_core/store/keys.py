"""Idempotency keys of toggles. (Those of jobs stand with the jobs.)"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Insert, and_, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import idempotency_keys
from holdfast_core.db.types import Now
from holdfast_core.store.metrics import COUNTS, InFlight, in_flight_from

__all__ = ["KEPT_SECONDS", "Kept", "find_key", "keeping", "remove_old_keys"]

#: How long a key is known (CONTRACT section 3).
KEPT_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What the first request under a key came to."""

    body: str
    version: int
    warning: str | None


_old = idempotency_keys.c.created_at <= Now(-KEPT_SECONDS, stable=True)

# What is known under a key, and what runs now: who asks for the one needs the other.
_FIND = select(
    COUNTS, idempotency_keys.c.body, idempotency_keys.c.version, idempotency_keys.c.warning
).select_from(COUNTS.outerjoin(idempotency_keys, and_(idempotency_keys.c.key == bindparam("wanted"), ~_old)))

_INSERT: Final[dict[str, Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

# Keys that are known no more.
_REMOVE_OLD = delete(idempotency_keys).where(_old)


def find_key(connection: Connection, key: str) -> tuple[Kept | None, InFlight]:
    """What the first request under this key came to, if it was within the last day, and exact counts of what runs."""
    row = connection.execute(_FIND, {"wanted": key}).one()
    kept = None if row.body is None else Kept(body=row.body, version=row.version, warning=row.warning)
    return kept, in_flight_from(row)


def keeping(dialect: str, key: str, kept: Kept) -> Insert:
    """The statement that remembers what a request came to, in the place of what is known no more."""
    values = {"body": kept.body, "version": kept.version, "warning": kept.warning, "created_at": Now()}
    statement: Any = _INSERT[dialect](idempotency_keys).values(key=key, **values)
    upsert: Insert = statement.on_conflict_do_update(
        index_elements=[idempotency_keys.c.key],
        set_={name: statement.excluded[name] for name in values},
        where=_old,
    )
    return upsert


def remove_old_keys(connection: Connection) -> None:
    """Forget keys that are older than a day."""
    connection.execute(_REMOVE_OLD)
