"""What a check comes to."""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Check", "Status", "ok", "problem", "size", "warning"]

Status = Literal["ok", "warning", "problem"]

_MIB: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `advice` is the way out, and None where all is well.

    `warning`: it works, but not as well, or not as surely, as it could. `problem`: it does not work.
    """

    name: str
    status: Status
    found: str
    advice: str | None = None


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name, "ok", found)


def warning(name: str, found: str, advice: str) -> Check:
    """It works, but."""
    return Check(name, "warning", found, advice)


def problem(name: str, found: str, advice: str) -> Check:
    """It does not work."""
    return Check(name, "problem", found, advice)


def size(count: int) -> str:
    """A number of bytes as people say it."""
    return f"{count / _MIB:.1f} MiB" if count < 1024 * _MIB else f"{count / _MIB / 1024:.1f} GiB"
