"""Users: whoever acted, so that the audit log names a person and an id."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from holdfast_core.db.tables import users
from holdfast_core.db.types import Now
from holdfast_core.ids import uuid7

__all__ = ["LOCAL_ISSUER", "disabled_among", "ensure_user", "find_user", "user_of"]

#: Who vouches for the users of our own tokens.
LOCAL_ISSUER: Final = "local"


def _ensure(dialect: str) -> Any:
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(users).values(created_at=Now()).on_conflict_do_nothing()


_subject = (users.c.issuer == bindparam("issuer"), users.c.subject == bindparam("subject"))

# The user that an issuer calls so.
_FIND = select(users.c.id, users.c.name, users.c.disabled_at).where(*_subject)

# The issuer calls the user by another name now.
_RENAME = update(users).where(users.c.id == bindparam("wanted")).values(name=bindparam("new_name"))

# Users that may not act any more.
_DISABLED = select(users.c.id).where(
    users.c.id.in_(bindparam("ids", expanding=True)), users.c.disabled_at.is_not(None)
)

# A user, unless it is there.
_ENSURE: Final = {dialect: _ensure(dialect) for dialect in ("postgresql", "sqlite")}


def ensure_user(connection: Connection, user_id: UUID, name: str) -> None:
    """Make sure that the row behind a caller exists; a name that is there stays."""
    connection.execute(_ENSURE[connection.dialect.name], {"id": user_id, "name": name})


def user_of(connection: Connection, issuer: str, subject: str, name: str) -> UUID:
    """The id of the user for whom an issuer vouches under `subject`, made on first sight; its name follows."""
    known = {"issuer": issuer, "subject": subject}
    row = connection.execute(_FIND, known).one_or_none()
    if row is None:
        connection.execute(_ENSURE[connection.dialect.name], {"id": uuid7(), "name": name, **known})
        row = connection.execute(_FIND, known).one()
    if row.name != name:
        connection.execute(_RENAME, {"wanted": row.id, "new_name": name})
    found: UUID = row.id
    return found


def find_user(connection: Connection, issuer: str, subject: str) -> UUID | None:
    """The id of the user whom an issuer calls so."""
    row = connection.execute(_FIND, {"issuer": issuer, "subject": subject}).one_or_none()
    return None if row is None else row.id


def disabled_among(connection: Connection, ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of these users that may not act any more."""
    return frozenset(connection.execute(_DISABLED, {"ids": list(ids)}).scalars())
