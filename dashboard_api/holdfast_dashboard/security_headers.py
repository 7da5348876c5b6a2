"""The header fields that every answer has, unless it has its own of that name."""

from collections.abc import Sequence
from typing import Final

__all__ = ["OF_ANSWERS", "secured"]

Headers = Sequence[tuple[bytes, bytes]]

_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
        b" frame-ancestors 'none'",
    ),
)
OF_ANSWERS: Final = (*_SECURITY, (b"cache-control", b"no-store"))
#: Of a file that is ours a browser may keep a copy, and asks each time whether it is still the one.
_OF_ASSETS: Final = (*_SECURITY, (b"cache-control", b"no-cache"))
_NAMES: Final = frozenset(name for name, _ in OF_ANSWERS)


def secured(given: Headers, *, asset: bool = False) -> list[tuple[bytes, bytes]]:
    """The fields of an answer, with those that it lacks. `asset`: whether it is a file of ours."""
    ours = _OF_ASSETS if asset else OF_ANSWERS
    present = {name for name, _ in given}
    if present.isdisjoint(_NAMES):
        return [*given, *ours]
    return [*given, *(field for field in ours if field[0] not in present)]
