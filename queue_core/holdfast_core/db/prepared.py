"""Hot statements, without what SQLAlchemy does anew at each execution.

On SQLite a statement of ours takes 10 µs and SQLAlchemy's execution 150 more, and one thread writes for the
whole process, so this decides how much can be claimed. What depends on the statement alone (its text, the order of
its parameters, the conversions of values) is worked out once, from SQLAlchemy's own compiled form of it, so that
each statement is still written once for both databases. On PostgreSQL statements go straight to asyncpg where they
may (`holdfast_core.db.direct`), and are executed as usual in transactions.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.types import TypeEngine

from holdfast_core.db.types import NOW_BOUND, UTC_TIME, UUID_TEXT, columns, from_text, time_parameter

__all__ = ["Hot", "Rows", "Stored", "fetch", "first", "later", "run"]

#: A row by the names of its columns.
Stored = Mapping[str, Any]
#: Statements that are made once, at their modules' level or in a cached function, and name their parameters: none
#: that SQLAlchemy would expand at each execution.
Hot = Executable

#: More than there are.
STATEMENTS: Final = 256

Convert = Callable[[Any], Any]


class Moment(Protocol):
    """The time of a connection's transaction, or of the turn in it."""

    def plus(self, seconds: float) -> str:
        """The time so many seconds later, as it is stored."""
        ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    sql: str
    #: Each parameter in its place: its name, the value where none is given, and the conversion to SQLite.
    parameters: tuple[tuple[str, Any, Convert | None], ...]
    #: Those that are times: its place, the name of its seconds ("" for none), and their sign.
    times: tuple[tuple[int, str, float], ...]
    names: tuple[str, ...]
    #: Each column that is not taken as it is: its name, and the conversion from SQLite.
    conversions: tuple[tuple[str, Convert], ...]

    def bind(self, values: Mapping[str, Any], moment: Moment) -> list[Any]:
        bound = [
            values.get(name, default) if convert is None else convert(values.get(name, default))
            for name, default, convert in self.parameters
        ]
        for place, name, sign in self.times:
            bound[place] = moment.plus(sign * values[name] if name else 0.0)
        return bound


class Rows:
    """What a statement found, not yet converted: for those who would not do so while others wait for the lock."""

    def __init__(self, prepared: _Prepared | None = None, found: Sequence[Any] = ()) -> None:
        self._prepared = prepared
        self._found = list(found)

    def __len__(self) -> int:
        return len(self._found)

    def stored(self) -> list[Stored]:
        """The rows by the names of their columns."""
        prepared = self._prepared
        if prepared is None:
            return self._found
        rows: list[Stored] = []
        for values in self._found:
            row = dict(zip(prepared.names, values, strict=True))
            for name, convert in prepared.conversions:
                if row[name] is not None:
                    row[name] = convert(row[name])
            rows.append(row)
        return rows

    def by_id(self) -> Mapping[UUID, Stored]:
        """The same by their column `id`."""
        return {row["id"]: row for row in self.stored()}


def fetch(connection: Connection, statement: Hot, values: Mapping[str, Any] | None = None) -> Rows:
    """Execute a statement and fetch its rows. Raises SQLAlchemy's errors, as `connection.execute` does."""
    values = values or {}
    if connection.dialect.name != "sqlite":
        # Here, so that who has SQLite alone does not load asyncpg.
        from holdfast_core.db import direct

        if direct.is_direct(connection):
            return Rows(None, direct.fetch(connection, statement, values))
        return Rows(None, [columns(row) for row in connection.execute(statement, values)])
    prepared = _prepare(statement, connection.dialect)
    bound = prepared.bind(values, connection.info["moment"])
    driver: Any = connection.connection.driver_connection
    try:
        return Rows(prepared, driver.execute(prepared.sql, bound).fetchall())
    except sqlite3.Error as error:
        raise DBAPIError.instance(
            prepared.sql, bound, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
        ) from error


def run(connection: Connection, statement: Hot, values: Mapping[str, Any] | None = None) -> list[Stored]:
    """The same, converted at once."""
    return fetch(connection, statement, values).stored()


def first(connection: Connection, statement: Hot, values: Mapping[str, Any] | None = None) -> Stored | None:
    """The same, where there is one row at most."""
    rows = run(connection, statement, values)
    return rows[0] if rows else None


def later(connection: Connection, seconds: float) -> str:
    """SQLite: the time of the connection's turn plus so many seconds, as it is stored."""
    moment: Moment = connection.info["moment"]
    return moment.plus(seconds)


@lru_cache(maxsize=STATEMENTS)
def _prepare(statement: Hot, dialect: Dialect) -> _Prepared:
    assert isinstance(statement, ReturnsRows)
    compiled = statement.compile(dialect=dialect, compile_kwargs={NOW_BOUND: True})
    assert isinstance(compiled, SQLCompiler)
    assert not compiled.post_compile_params, "it would have to be expanded at each execution"

    def binding(kind: TypeEngine[Any]) -> Convert | None:
        return kind.dialect_impl(dialect).bind_processor(dialect)

    def reading(kind: TypeEngine[Any]) -> Convert | None:
        # Ours are a call less than what SQLAlchemy wraps them in.
        if isinstance(kind, type(UTC_TIME)):
            return from_text
        if isinstance(kind, type(UUID_TEXT)):
            return UUID
        return kind.dialect_impl(dialect).result_processor(dialect, None)

    names = tuple(compiled.positiontup or ())
    found = [(column.name, reading(column.type)) for column in statement.exported_columns]
    return _Prepared(
        str(compiled),
        tuple((name, compiled.params[name], binding(compiled.binds[name].type)) for name in names),
        tuple(
            (place, *seconds)
            for place, name in enumerate(names)
            if (seconds := time_parameter(name)) is not None
        ),
        tuple(name for name, _ in found),
        tuple((name, convert) for name, convert in found if convert is not None),
    )
