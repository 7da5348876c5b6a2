"""Values that a statement is given: one for the one request that it is for, or those of several.

A statement's SET clause is written once, over a function that gives a value by its name: `bound` for one request, for
many `listed` (PostgreSQL: an array for each name) or `asked` (SQLite: an object of JSON for each request). One
parameter for them all, so that it is one statement, prepared once, however many requests there are.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, ColumnElement, String, bindparam, func, literal_column, select, type_coerce
from sqlalchemy.types import TypeEngine

__all__ = ["Given", "asked", "asking", "bound", "listed"]

#: Gives the value of a request by its name and type.
Given = Callable[[str, TypeEngine[Any]], ColumnElement[Any]]


def bound(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    """The value itself."""
    return bindparam(name, type_=kind)


def listed(place: ColumnElement[int]) -> Given:
    """PostgreSQL: the values are arrays, and a row's request is the one at `place`, from 1."""

    def given(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
        # A sub-select, since a parameter with its type cannot be subscripted as it is written.
        return select(bindparam(name, type_=ARRAY(kind))).scalar_subquery()[place]

    return given


_ASKED: Final = func.json_each(bindparam("asked", type_=String())).table_valued("value", name="asked")


def asked(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    """SQLite: of the request that is joined with the row, by an id that is given in this way, too. It comes as JSON has
    it, so times and ids are given as they are stored."""
    return type_coerce(func.json_extract(_ASKED.c.value, literal_column(f"'$.{name}'", String())), kind)


def asking(requests: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The parameter of a statement over `asked`."""
    return {"asked": json.dumps(requests)}
