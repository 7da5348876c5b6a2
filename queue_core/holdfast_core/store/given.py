"""Values that a statement is given: one for the one request that it is for, or an array of them for several.

A statement's SET clause is written once, over a function that gives a value by its name: `bound` for one request,
`listed` for many. Arrays, so that it is one statement, prepared once, however many requests there are.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, bindparam, select
from sqlalchemy.types import TypeEngine

__all__ = ["Given", "bound", "listed"]

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
