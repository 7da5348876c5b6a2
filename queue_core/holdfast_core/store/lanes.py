"""Lanes: one for each kind of job (its type, and the capabilities that it requires).

A claim looks into the lanes that it matches, each in its own order. So it never walks past jobs that it cannot
take: 300,000 jobs of another type cost it nothing, where one index over all would cost it 40 ms.
"""

import hashlib
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    String,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB

from holdfast_core.db.tables import lanes
from holdfast_core.db.types import JSON_LIST

__all__ = ["add_lanes", "lane_key", "matching"]

#: Values of one statement, far below what either database takes.
BATCH: Final = 500


def lane_key(job_type: str, required: list[str]) -> str:
    """What names a lane. `required` is sorted and without repeats, as requests hold it; names have no spaces."""
    return hashlib.sha256(" ".join([job_type, *required]).encode()).hexdigest()


# Make lanes, unless they are there.
_ADD: Final = {
    "postgresql": postgresql.insert(lanes).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(lanes).on_conflict_do_nothing(),
}

# The ids of lanes by their keys.
_FIND = select(lanes.c.key, lanes.c.id).where(lanes.c.key.in_(bindparam("keys", expanding=True)))


def add_lanes(connection: Connection, kinds: dict[str, tuple[str, list[str]]]) -> dict[str, int]:
    """The lanes for these kinds (by `lane_key`: type and required capabilities), made where they are missing."""
    found: dict[str, int] = {}
    keys = sorted(
        kinds
    )  # in order, so that two who make the same lanes do not wait for each other in a circle
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        found |= _found(connection, batch)
        missing = [key for key in batch if key not in found]
        if missing:
            rows = [
                {"key": key, "type": kinds[key][0], "required_capabilities": kinds[key][1]} for key in missing
            ]
            connection.execute(_ADD[connection.dialect.name], rows)
            found |= _found(connection, missing)
    return found


def _found(connection: Connection, keys: list[str]) -> dict[str, int]:
    return {row.key: row.id for row in connection.execute(_FIND, {"keys": keys})}


@cache
def matching(dialect: str, *, by_type: bool) -> ColumnElement[bool]:
    """The condition that a worker with `:capabilities`, limited to `:types` if `by_type`, may take a lane's jobs."""
    conditions: list[Any] = []
    if dialect == "postgresql":
        offered = bindparam("capabilities", type_=JSONB())
        conditions.append(cast(lanes.c.required_capabilities, JSONB).contained_by(offered))
        if by_type:
            conditions.append(lanes.c.type == any_(bindparam("types", type_=ARRAY(String()))))
        return and_(*conditions)
    required = func.json_each(lanes.c.required_capabilities).table_valued("value", name="required")
    having = func.json_each(bindparam("capabilities", type_=JSON_LIST)).table_valued("value", name="offered")
    missing = select(literal(1)).where(required.c.value.not_in(select(having.c.value)))
    conditions.append(or_(func.json_array_length(lanes.c.required_capabilities) == 0, not_(missing.exists())))
    if by_type:
        types = func.json_each(bindparam("types", type_=JSON_LIST)).table_valued("value", name="types")
        conditions.append(lanes.c.type.in_(select(types.c.value)))
    return and_(*conditions)
