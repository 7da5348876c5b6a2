"""The header fields of a request, taken apart once for all the layers that ask for them."""

from collections.abc import Sequence
from itertools import chain
from typing import Final

from starlette.types import Scope

__all__ = ["Fields", "fields_of"]

_KEY: Final = "holdfast.fields"


class Fields:
    """By their names, which ASGI has in lower case. As cheap as can be, since every request has some."""

    __slots__ = ("_each", "_last")

    def __init__(self, each: Sequence[tuple[bytes, bytes]]) -> None:
        self._each = each
        self._last = dict(each)

    def __contains__(self, name: bytes) -> bool:
        return name in self._last

    def __len__(self) -> int:
        """How many lines they are."""
        return len(self._each)

    @property
    def size(self) -> int:
        """The bytes of all names and values."""
        return sum(map(len, chain.from_iterable(self._each)))

    def all(self, name: bytes) -> list[str]:
        """The values of this name, in their order."""
        if name not in self._last:
            return []
        if len(self._last) == len(self._each):  # nothing is repeated
            return [self._last[name].decode("latin-1")]
        return [value.decode("latin-1") for given, value in self._each if given == name]

    def get(self, name: bytes, default: str = "") -> str:
        """The first value of this name."""
        found = self.all(name)
        return found[0] if found else default


def fields_of(scope: Scope) -> Fields:
    """Those of this request or WebSocket, taken apart by whoever asks first."""
    fields: Fields | None = scope.get(_KEY)
    if fields is None:
        fields = scope[_KEY] = Fields(scope["headers"])
    return fields
