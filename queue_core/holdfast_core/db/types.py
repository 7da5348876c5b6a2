"""Column types and expressions that mean the same on both databases.

Times: PostgreSQL's `timestamptz`; on SQLite text in RFC 3339 with six digits and `Z`, which sorts as time
does and can be read by a person. (SQLAlchemy's own DateTime drops the offset on SQLite without converting.)
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    String,
    Text,
    TypeDecorator,
    UnaryExpression,
    Uuid,
    bindparam,
    literal,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

__all__ = [
    "JSON_LIST",
    "JSON_LIST_OR_NULL",
    "NOW_BOUND",
    "SQLITE_NOW",
    "UTC_TIME",
    "UUID_TEXT",
    "Now",
    "columns",
    "from_text",
    "time_parameter",
    "to_text",
]

#: The function that every SQLite connection of ours carries: the transaction's time plus some seconds.
SQLITE_NOW: Final = "holdfast_now"
#: For the compiler: make a parameter of each time that can be one (`time_parameter` tells which they are). To call
#: back from within a statement costs more than the rest of it where another thread is at work.
NOW_BOUND: Final = "now_bound"
_NOW_PLUS: Final = "now_plus_"
_NOW_MINUS: Final = "now_minus_"


def columns(row: Any) -> dict[str, Any]:
    """The values of a row, or of a mapping, by their names (`_mapping` is SQLAlchemy's documented way to them)."""
    return dict(cast("Mapping[str, Any]", row if isinstance(row, dict) else row._mapping))


def to_text(moment: datetime) -> str:
    """RFC 3339 in UTC with six digits. Raises ValueError for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be stored")
    # Six times as quick as strftime, which says the same.
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> datetime:
    """The aware time that `to_text` wrote."""
    return datetime.fromisoformat(text)


class _UtcTime(TypeDecorator[datetime]):
    """Aware times, in UTC out of the database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return to_text(value) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return from_text(value) if isinstance(value, str) else value.astimezone(UTC)


class _UuidText(TypeDecorator[UUID]):
    """A UUID; on SQLite its usual text with dashes, so that an auditor can read and paste it."""

    impl = Uuid(as_uuid=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(36) if dialect.name == "sqlite" else Uuid(as_uuid=True))

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        if value is None:
            return None
        return UUID(value) if isinstance(value, str) else UUID(int=value.int)


UTC_TIME: Final = _UtcTime()
UUID_TEXT: Final = _UuidText()
#: A list of names that is also searched, so jsonb where there is one.
JSON_LIST: Final = JSON().with_variant(JSONB(), "postgresql")
#: The same where there may be none.
JSON_LIST_OR_NULL: Final = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Now(ColumnElement[datetime]):
    """The database's clock, plus some seconds.

    On PostgreSQL `clock_timestamp()`, or with `stable=True` `statement_timestamp()`, which an index
    condition can use. On SQLite the host's clock, read once at the transaction's start.
    """

    inherit_cache = True
    type = UTC_TIME  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]

    # What makes two of these the same to SQLAlchemy's statement cache.
    _traverse_internals = [  # noqa: RUF012
        ("plus", InternalTraversal.dp_clauseelement),
        ("stable", InternalTraversal.dp_boolean),
    ]

    def __init__(self, plus: ColumnElement[float] | float | None = None, *, stable: bool = False) -> None:
        self.plus = literal(plus, Float()) if isinstance(plus, int | float) else plus
        self.stable = stable


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: SQLCompiler, **kw: Any) -> str:
    clock = "statement_timestamp()" if element.stable else "clock_timestamp()"
    if element.plus is None:
        return clock
    return f"({clock} + make_interval(secs => {compiler.process(element.plus, **kw)}))"


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: SQLCompiler, **kw: Any) -> str:
    if kw.get(NOW_BOUND):
        name = _time_parameter(element.plus)
        if name is not None:
            return compiler.process(bindparam(name, type_=String()), **kw)
    plus = "0" if element.plus is None else compiler.process(element.plus, **kw)
    return f"{SQLITE_NOW}({plus})"


def _time_parameter(plus: ColumnElement[Any] | None) -> str | None:
    """What to call the parameter that is now plus this; None where it takes more than a parameter or its negation."""
    if plus is None:
        return _NOW_PLUS
    sign, of = _NOW_PLUS, plus
    if isinstance(plus, UnaryExpression) and plus.operator is operators.neg:
        sign, of = _NOW_MINUS, plus.element
    return f"{sign}{of.key}" if isinstance(of, BindParameter) and not of.unique else None


def time_parameter(name: str) -> tuple[str, float] | None:
    """Of a parameter that is a time (see NOW_BOUND): the parameter that holds the seconds, "" for none, and their
    sign. None for any other."""
    for prefix, sign in ((_NOW_PLUS, 1.0), (_NOW_MINUS, -1.0)):
        if name.startswith(prefix):
            return name.removeprefix(prefix), sign
    return None
