"""One door to the store for the services: run a piece of work in one transaction, on either database.

The work is a plain function over a SQLAlchemy connection, so that the statements are written once. On
PostgreSQL it runs on the event loop (SQLAlchemy's greenlet); on SQLite in the writer's or a reader's
thread, one hop for the whole transaction (statement by statement through a thread costs ten times as much).
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import Enum
from typing import Literal, Protocol, TypeVar

from anyio import CancelScope
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from holdfast_core.errors import StoreUnavailable

__all__ = ["Database", "Lane", "Work", "store_unavailable", "uncancelled"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Work = Callable[[Connection], T]


class Lane(Enum):
    """Which kind of session a write runs on."""

    #: What takes a job or moves one unasked. PostgreSQL: one statement, autocommit, READ COMMITTED,
    #: short time-outs, because such a session holds the door open.
    GATED = "gated"
    #: What a holder or a person asks for. Never waits for the gate.
    PLAIN = "plain"
    #: The same in one statement, or in some that need no common transaction. PostgreSQL: autocommit, which
    #: saves two round trips of three.
    SINGLE = "single"
    #: Pause and resume. Goes ahead of other writers of this process.
    CONTROL = "control"


class Database(Protocol):
    """The store's engine. Work that fails leaves nothing; a commit is never cut by a cancellation."""

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]: ...

    @property
    def outages(self) -> int:
        """How often a call of this process found the store away."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which writes nothing; each of its statements sees one snapshot. Raises StoreUnavailable."""
        ...

    async def write(self, work: Work[T], *, lane: Lane = Lane.PLAIN) -> T:
        """Run `work` in one transaction and commit it. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Give all connections back."""
        ...


@contextmanager
def uncancelled() -> Generator[None]:
    """Hold off cancellation: in the middle of a commit it would leave the outcome unknown to us."""
    with CancelScope(shield=True):
        yield


def store_unavailable(error: BaseException) -> StoreUnavailable | None:
    """The error to answer with where `error` says that the store cannot be used now; else None (a bug).

    asyncpg raises InternalClientError and plain OSError on cut connections, SQLAlchemy wraps some.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OperationalError | InterfaceError | PoolTimeout | OSError | TimeoutError):
            return StoreUnavailable(_explain(error))
        if isinstance(found, DBAPIError) and found.connection_invalidated:
            return StoreUnavailable(_explain(error))
        if type(found).__module__.startswith("asyncpg") and _is_lost(found):
            return StoreUnavailable(_explain(error))
        found = found.__cause__ or (found.orig if isinstance(found, DBAPIError) else None)
    return None


def _is_lost(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or ""
    # 08 connection, 28 authorisation, 3D000 no such database, 53 out of resources, 57 operator intervention
    # and time-outs, 25 session ended by a time-out, 55P03 lock not available, 40 serialisation and deadlock,
    # 58 system error
    return (
        type(error).__name__ in {"InternalClientError", "InterfaceError"}
        or state[:2] in {"08", "28", "53", "57", "58", "40"}
        or state in {"3D000", "55P03", "25P03", "25P04", "25006"}
        # The code stands for much else, too; only these words say that the database is closed to us.
        or (state == "55000" and "accepting connections" in str(error))
    )


def _explain(error: BaseException) -> str:
    text = str(error.orig if isinstance(error, DBAPIError) and error.orig is not None else error).casefold()
    if "disk is full" in text or "no space left" in text:
        return "The database's disk is full. Nothing was written; free some space and repeat."
    if "readonly" in text or "read-only" in text:
        return "The database is read-only. Nothing was written; make it writable and repeat."
    if "locked" in text:
        return "The database is locked by another program. Nothing was written; repeat in a moment."
    return "The database does not answer. Nothing is promised about this request; repeat it in a moment."
