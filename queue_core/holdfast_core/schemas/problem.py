"""The one error shape (RFC 9457), made in one place for every transport."""

from typing import Final

from pydantic import Field

from holdfast_core.errors import HoldfastError
from holdfast_core.schemas.base import Answer
from holdfast_core.schemas.system import System

__all__ = ["PROBLEM_TYPE_BASE", "Problem", "ProblemField"]

#: Where each code is explained; a relative reference, resolved against the server's own address.
PROBLEM_TYPE_BASE: Final = "/problems/"


class ProblemField(Answer):
    """One refused field."""

    field: str
    message: str


class Problem(Answer):
    """application/problem+json. `code` is stable and meant for programs; `detail` names the way out."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    system: System | None = None
    version: int | None = Field(
        default=None, description="What an earlier request with the same key had made of the pause."
    )
    errors: list[ProblemField] | None = Field(default=None, description="Each field that was refused.")

    @classmethod
    def of(cls, error: HoldfastError) -> "Problem":
        """The problem that tells a client of `error`."""
        return cls(
            type=PROBLEM_TYPE_BASE + error.code,
            title=error.title,
            status=error.status,
            code=error.code,
            detail=error.detail,
            system=error.system,
            version=error.version,
            errors=[ProblemField(field=e.field, message=e.message) for e in error.errors] or None,
        )
