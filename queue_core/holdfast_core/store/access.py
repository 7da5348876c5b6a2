"""Credentials: tokens of people and of workers, and sessions of browsers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import (
    Connection,
    Float,
    Row,
    String,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from holdfast_core.db.tables import api_tokens, sessions, users, worker_tokens
from holdfast_core.db.types import Now
from holdfast_core.states import Role

__all__ = [
    "CredentialKind",
    "Found",
    "NewApiToken",
    "NewSession",
    "NewWorkerToken",
    "add_api_token",
    "add_session",
    "add_worker_token",
    "end_session",
    "end_sessions_of",
    "find",
    "list_tokens",
    "remove_old_sessions",
    "revoke",
    "revoke_of_user",
    "touch",
]

CredentialKind = Literal["api", "worker", "session"]

#: Ended sessions are of no use to anybody after this.
SESSION_KEPT_SECONDS: Final = 86_400.0
#: Tokens that a list shows.
MAX_LISTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Found:
    """A credential that is good now: whose it is, and what it admits. `seconds_left` None: no end."""

    kind: CredentialKind
    id: UUID
    secret_hash: str
    role: Role
    user_id: UUID | None
    name: str
    worker_id: str | None
    types: frozenset[str] | None
    capabilities: frozenset[str] | None
    expires_at: datetime | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class NewApiToken:
    """A token to be kept, of somebody who stands behind it."""

    id: UUID
    name: str
    token_hash: str
    created_by: str | None
    created_by_user_id: UUID | None
    lifetime_seconds: float | None
    user_id: UUID
    role: Role


@dataclass(frozen=True, slots=True)
class NewWorkerToken:
    """A worker's token to be kept."""

    id: UUID
    name: str
    token_hash: str
    created_by: str | None
    created_by_user_id: UUID | None
    lifetime_seconds: float | None
    worker_id: str
    types: list[str] | None
    capabilities: list[str] | None


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be kept; it ends with the token that was traded for it."""

    id: UUID
    secret_hash: str
    user_id: UUID
    role: Role
    token_id: UUID | None
    lifetime_seconds: float


def _ends(lifetime: str) -> Any:
    """The end of what lives so long from now; null where it has none."""
    given = bindparam(lifetime, type_=Float())
    return case((given.is_(null()), null()), else_=Now(given))


_good = {
    table: and_(table.c.revoked_at.is_(None), or_(table.c.expires_at.is_(None), table.c.expires_at > Now()))
    for table in (api_tokens, worker_tokens)
}

# API tokens that are good now, of users who are.
_FIND_API = (
    select(api_tokens, users.c.name.label("user_name"), Now().label("now"))
    .join(users, users.c.id == api_tokens.c.user_id)
    .where(
        api_tokens.c.id.in_(bindparam("ids", expanding=True)),
        _good[api_tokens],
        users.c.disabled_at.is_(None),
    )
)

# Workers' tokens that are good now.
_FIND_WORKER = select(worker_tokens, Now().label("now")).where(
    worker_tokens.c.id.in_(bindparam("ids", expanding=True)), _good[worker_tokens]
)

# Sessions that are good now: neither they, nor the token behind them, nor their user has ended.
_FIND_SESSION = (
    select(sessions, users.c.name.label("user_name"), Now().label("now"))
    .join(users, users.c.id == sessions.c.user_id)
    .outerjoin(api_tokens, api_tokens.c.id == sessions.c.token_id)
    .where(
        sessions.c.id.in_(bindparam("ids", expanding=True)),
        sessions.c.ended_at.is_(None),
        sessions.c.expires_at > Now(),
        users.c.disabled_at.is_(None),
        or_(sessions.c.token_id.is_(None), _good[api_tokens]),
    )
)

_ADD_API = insert(api_tokens).values(created_at=Now(), expires_at=_ends("lifetime_seconds"))
_ADD_WORKER = insert(worker_tokens).values(created_at=Now(), expires_at=_ends("lifetime_seconds"))
_ADD_SESSION = insert(sessions).values(
    created_at=Now(), expires_at=Now(bindparam("lifetime_seconds", type_=Float()))
)

# Every token that there is, of both kinds.
_LIST: Final = {
    "api": select(api_tokens, users.c.name.label("user_name"), literal("api", String()).label("kind")).join(
        users, users.c.id == api_tokens.c.user_id
    ),
    "worker": select(worker_tokens, literal("worker", String()).label("kind")),
}
_TABLES: Final = {"api": api_tokens, "worker": worker_tokens}

_REVOKE = {
    kind: update(table)
    .where(table.c.id == bindparam("wanted"))
    .values(revoked_at=func.coalesce(table.c.revoked_at, Now()))
    for kind, table in _TABLES.items()
}
_REVOKE_OF_USER = (
    update(api_tokens)
    .where(api_tokens.c.user_id == bindparam("wanted"), api_tokens.c.revoked_at.is_(None))
    .values(revoked_at=Now())
    .returning(api_tokens.c.id)
)
_TOUCH = {
    kind: update(table).where(table.c.id.in_(bindparam("ids", expanding=True))).values(last_used_at=Now())
    for kind, table in _TABLES.items()
}
_END_SESSION = (
    update(sessions)
    .where(sessions.c.id == bindparam("wanted"), sessions.c.ended_at.is_(None))
    .values(ended_at=Now())
)
_END_SESSIONS_OF = (
    update(sessions)
    .where(sessions.c.user_id == bindparam("wanted"), sessions.c.ended_at.is_(None))
    .values(ended_at=Now())
)
_REMOVE_OLD_SESSIONS = delete(sessions).where(
    sessions.c.expires_at <= Now(-SESSION_KEPT_SECONDS, stable=True)
)


def find(connection: Connection, kind: CredentialKind, ids: Sequence[UUID]) -> dict[UUID, Found]:
    """Those of these credentials that are good now."""
    statement = {"api": _FIND_API, "worker": _FIND_WORKER, "session": _FIND_SESSION}[kind]
    rows = connection.execute(statement, {"ids": list(ids)})
    return {row.id: _found(kind, row) for row in rows}


def _found(kind: CredentialKind, row: Row[Any]) -> Found:
    is_worker = kind == "worker"
    return Found(
        kind=kind,
        id=row.id,
        secret_hash=row.secret_hash if kind == "session" else row.token_hash,
        role=Role.WORKER if is_worker else Role(row.role),
        user_id=None if is_worker else row.user_id,
        name=row.worker_id if is_worker else row.user_name,
        worker_id=row.worker_id if is_worker else None,
        types=frozenset(row.types) if is_worker and row.types is not None else None,
        capabilities=frozenset(row.capabilities) if is_worker and row.capabilities is not None else None,
        expires_at=row.expires_at,
        seconds_left=None if row.expires_at is None else (row.expires_at - row.now).total_seconds(),
    )


def add_api_token(connection: Connection, new: NewApiToken) -> None:
    """Keep a token."""
    connection.execute(_ADD_API, _values(new))


def add_worker_token(connection: Connection, new: NewWorkerToken) -> None:
    """Keep a worker's token."""
    connection.execute(_ADD_WORKER, _values(new))


def add_session(connection: Connection, new: NewSession) -> None:
    """Keep a session."""
    connection.execute(_ADD_SESSION, _values(new))


def _values(new: NewApiToken | NewWorkerToken | NewSession) -> dict[str, Any]:
    values = {name: getattr(new, name) for name in type(new).__slots__}
    if "role" in values:
        values["role"] = str(values["role"])
    return values


def list_tokens(
    connection: Connection,
    kinds: Sequence[Literal["api", "worker"]],
    *,
    ended: bool,
    wanted: UUID | None = None,
) -> list[Row[Any]]:
    """Tokens of these kinds, newest first; `ended`: also those that are good no more. `wanted`: this one alone."""
    rows: list[Row[Any]] = []
    for kind in kinds:
        table = _TABLES[kind]
        statement = _LIST[kind].order_by(table.c.created_at.desc(), table.c.id.desc()).limit(MAX_LISTED)
        if not ended:
            statement = statement.where(_good[table])
        if wanted is not None:
            statement = statement.where(table.c.id == wanted)
        rows += connection.execute(statement).all()
    return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)


def revoke(connection: Connection, kind: Literal["api", "worker"], token_id: UUID) -> bool:
    """Revoke a token, once and for all. Returns whether there is such a one."""
    return bool(connection.execute(_REVOKE[kind], {"wanted": token_id}).rowcount)


def revoke_of_user(connection: Connection, user_id: UUID) -> int:
    """Revoke all tokens of a user; returns how many were good until now."""
    return len(connection.execute(_REVOKE_OF_USER, {"wanted": user_id}).all())


def touch(connection: Connection, kind: Literal["api", "worker"], ids: Sequence[UUID]) -> None:
    """These were used just now."""
    connection.execute(_TOUCH[kind], {"ids": list(ids)})


def end_session(connection: Connection, session_id: UUID) -> None:
    """The session is over."""
    connection.execute(_END_SESSION, {"wanted": session_id})


def end_sessions_of(connection: Connection, user_id: UUID) -> int:
    """All sessions of a user are over; returns how many."""
    return connection.execute(_END_SESSIONS_OF, {"wanted": user_id}).rowcount


def remove_old_sessions(connection: Connection) -> None:
    """Forget sessions that ended long ago."""
    connection.execute(_REMOVE_OLD_SESSIONS)
