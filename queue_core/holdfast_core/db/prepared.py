"""Hot statements on SQLite, without what SQLAlchemy does anew at each execution.

There a statement of ours takes SQLite 10 µs and SQLAlchemy's execution 150 more, and one thread writes for the
whole process, so this decides how much can be claimed. What depends on the statement alone (its text, the order of
its parameters, the conversions of values) is worked out once, from SQLAlchemy's own compiled form of it, so that
each statement is still written once for both databases. On PostgreSQL, where the way to the server and back
outweighs it, statements are executed as usual.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.types import TypeEngine

from holdfast_core.db.types import columns

__all__ = ["Hot", "Stored", "first", "run"]

#: A row by the names of its columns.
Stored = Mapping[str, Any]
#: Statements that are made once, at their modules' level or in a cached function, and name their parameters: none
#: that SQLAlchemy would expand at each execution.
Hot = Executable

#: More than there are.
STATEMENTS: Final = 256

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Prepared:
    sql: str
    #: Each parameter in its place: its name, the value where none is given, and the conversion to SQLite.
    parameters: tuple[tuple[str, Any, Convert | None], ...]
    #: Each column: its name, and the conversion from SQLite.
    columns: tuple[tuple[str, Convert | None], ...]


def run(connection: Connection, statement: Hot, values: Mapping[str, Any] | None = None) -> list[Stored]:
    """Execute a statement and fetch its rows. Raises SQLAlchemy's errors, as `connection.execute` does."""
    values = values or {}
    if connection.dialect.name != "sqlite":
        # Here, so that who has SQLite alone does not load asyncpg.
        from holdfast_core.db.direct import fetch, is_direct

        if is_direct(connection):
            return list(fetch(connection, statement, values))
        return [columns(row) for row in connection.execute(statement, values)]
    prepared = _prepare(statement, connection.dialect)
    bound = [
        convert(values.get(name, default)) if convert is not None else values.get(name, default)
        for name, default, convert in prepared.parameters
    ]
    driver: Any = connection.connection.driver_connection
    try:
        found: list[tuple[Any, ...]] = driver.execute(prepared.sql, bound).fetchall()
    except sqlite3.Error as error:
        raise DBAPIError.instance(
            prepared.sql, bound, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
    return [
        {
            name: value if convert is None or value is None else convert(value)
            for (name, convert), value in zip(prepared.columns, row, strict=True)
        }
        for row in found
    ]


def first(connection: Connection, statement: Hot, values: Mapping[str, Any] | None = None) -> Stored | None:
    """The same, where there is one row at most."""
    rows = run(connection, statement, values)
    return rows[0] if rows else None


@lru_cache(maxsize=STATEMENTS)
def _prepare(statement: Hot, dialect: Dialect) -> _Prepared:
    assert isinstance(statement, ReturnsRows)
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    assert not compiled.post_compile_params, "it would have to be expanded at each execution"

    def binding(kind: TypeEngine[Any]) -> Convert | None:
        return kind.dialect_impl(dialect).bind_processor(dialect)

    def reading(kind: TypeEngine[Any]) -> Convert | None:
        return kind.dialect_impl(dialect).result_processor(dialect, None)

    return _Prepared(
        str(compiled),
        tuple(
            (name, compiled.params[name], binding(compiled.binds[name].type))
            for name in compiled.positiontup or ()
        ),
        tuple((column.name, reading(column.type)) for column in statement.exported_columns),
    )
