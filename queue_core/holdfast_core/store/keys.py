"""Idempotency keys of toggles. (Those of jobs stand with the jobs.)"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import idempotency_keys
from holdfast_core.db.types import Now

__all__ = ["KEPT_SECONDS", "Kept", "find_key", "keep_key", "remove_old_keys"]

#: How long a key is known (CONTRACT section 3).
KEPT_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What the first request under a key came to."""

    body: str
    version: int
    warning: str | None


_old = idempotency_keys.c.created_at <= Now(-KEPT_SECONDS, stable=True)

# What is known under a key.
_FIND = select(idempotency_keys).where(idempotency_keys.c.key == bindparam("wanted"), ~_old)


def _keep(insert_: Any) -> Any:
    # In the place of one that is known no more.
    statement = insert_(idempotency_keys).values(created_at=Now())
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[idempotency_keys.c.key],
        set_={name: new[name] for name in ("body", "version", "warning", "created_at")},
        where=_old,
    )


_KEEP: Final = {"postgresql": _keep(postgresql.insert), "sqlite": _keep(sqlite.insert)}

# Keys that are known no more.
_REMOVE_OLD = delete(idempotency_keys).where(_old)


def find_key(connection: Connection, key: str) -> Kept | None:
    """What the first request under this key came to, if it was within the last day."""
    row = connection.execute(_FIND, {"wanted": key}).one_or_none()
    return None if row is None else Kept(body=row.body, version=row.version, warning=row.warning)


def keep_key(connection: Connection, key: str, kept: Kept) -> None:
    """Remember what a request came to."""
    connection.execute(
        _KEEP[connection.dialect.name],
        {"key": key, "body": kept.body, "version": kept.version, "warning": kept.warning},
    )


def remove_old_keys(connection: Connection) -> None:
    """Forget keys that are older than a day."""
    connection.execute(_REMOVE_OLD)
