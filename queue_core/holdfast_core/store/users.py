"""Users: whoever acted, so that the audit log names a person and an id."""

from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import users
from holdfast_core.db.types import Now

__all__ = ["ensure_user"]


def _ensure(dialect: str) -> Any:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(users).values(created_at=Now()).on_conflict_do_nothing(index_elements=[users.c.id])


# A user, unless it is there.
_ENSURE: Final = {dialect: _ensure(dialect) for dialect in ("postgresql", "sqlite")}


def ensure_user(connection: Connection, user_id: UUID, name: str) -> None:
    """Make sure that the row behind a caller exists; a name that is there stays."""
    connection.execute(_ENSURE[connection.dialect.name], {"id": user_id, "name": name})
