"""Hot statements on PostgreSQL, straight through asyncpg.

Where many requests share a statement, what SQLAlchemy does at each execution (its context, its cursor, a result with a
row class) costs as much again as asyncpg and the server together. So the statements of batches are compiled by
SQLAlchemy once, and executed on its connection's own driver. In autocommit only: a transaction is SQLAlchemy's to
begin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import asyncpg
from sqlalchemy import ARRAY, ClauseElement, Connection, Dialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine
from sqlalchemy.util.concurrency import await_

__all__ = ["fetch", "is_direct"]

#: More than there are.
STATEMENTS: Final = 256

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Prepared:
    sql: str
    #: Each parameter in its place: its name, the value where none is given, and the conversion to asyncpg.
    parameters: tuple[tuple[str, Any, Convert | None], ...]


def is_direct(connection: Connection) -> bool:
    """Whether statements may go straight to the driver here: in autocommit."""
    adapter: Any = connection.connection.dbapi_connection
    return bool(adapter.autocommit)


def fetch(connection: Connection, statement: Executable, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a statement, by the names of their columns. asyncpg gives every value as we have it: times with their
    zone, ids as UUIDs, JSON read by the engine's reader. Raises SQLAlchemy's IntegrityError, and asyncpg's own
    errors."""
    prepared = _prepare(statement, connection.dialect)
    bound = [
        values.get(name, default) if convert is None else convert(values.get(name, default))
        for name, default, convert in prepared.parameters
    ]
    driver: Any = connection.connection.driver_connection
    try:
        found = await_(driver.fetch(prepared.sql, *bound))
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(prepared.sql, None, error, hide_parameters=True) from error
    except BaseException as error:
        # The pool must not hand out a connection that is gone, or in the middle of something.
        if driver.is_closed() and isinstance(error, Exception):
            connection.exec_driver_sql(
                "SELECT 1"
            )  # SQLAlchemy sees for itself, and lets go of all that are as old
        elif not isinstance(error, asyncpg.PostgresError):
            connection.invalidate(error)
        raise
    return [dict(row) for row in found]


@lru_cache(maxsize=STATEMENTS)
def _prepare(statement: Executable, dialect: Dialect) -> _Prepared:
    assert isinstance(statement, ClauseElement)
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    assert not compiled.post_compile_params, "it would have to be expanded at each execution"

    def binding(kind: TypeEngine[Any]) -> Convert | None:
        # asyncpg takes lists as they are; SQLAlchemy would look at each item. There are none of JSON: that is text.
        if isinstance(kind, ARRAY):
            return None
        return kind.dialect_impl(dialect).bind_processor(dialect)

    return _Prepared(
        str(compiled),
        tuple(
            (name, compiled.params[name], binding(compiled.binds[name].type))
            for name in compiled.positiontup or ()
        ),
    )
