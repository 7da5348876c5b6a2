"""How much one caller may ask of this process, and how often anybody may guess at a credential.

Buckets that fill by the second, in memory: each process counts for itself.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from time import monotonic
from typing import Final

from starlette.types import Scope

from holdfast_core.errors import TooManyRequests

__all__ = ["Attempts", "Limits", "Place", "address_of"]

#: Failed attempts of one address: so many at once, and one more in each of these seconds.
MOST_FAILED: Final = 20
FAILED_SECONDS: Final = 3.0
#: Callers and addresses that are kept in mind; the one heard of longest ago makes room.
REMEMBERED: Final = 20_000


class _Buckets:
    """One bucket for each name: it holds `size`, and gets `rate` back in each second."""

    def __init__(self, size: float, rate: float) -> None:
        self._size = size
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def left(self, name: str, now: float | None = None) -> float:
        now = monotonic() if now is None else now
        left, at = self._left.get(name, (self._size, now))
        return min(self._size, left + (now - at) * self._rate)

    def take(self, name: str, *, least: float = float("-inf")) -> float:
        """Take one, unless fewer than `least` are left. What was left before."""
        now = monotonic()
        left = self.left(name, now)
        if left >= least:
            self._left[name] = (left - 1.0, now)
            self._left.move_to_end(name)
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        return left


class Limits:
    """What one caller may ask for: `rate` requests a second (twice that at once), `connections` open ones. 0: any."""

    def __init__(self, rate: int, connections: int) -> None:
        self._rate = rate
        self._connections = connections
        self._asked = _Buckets(2.0 * rate, rate)
        self._open: dict[str, int] = {}

    def one_more(self, principal: str) -> "Place":
        """Room for a request of this caller, to be entered while it runs. Raises TooManyRequests."""
        if self._rate:
            left = self._asked.take(principal, least=1.0)
            if left < 1.0:
                raise TooManyRequests(
                    f"More than {self._rate:,} requests a second came from you. Ask less often, or let claims wait"
                    " (waitSeconds).",
                    retry_after=max(1, ceil((1.0 - left) / self._rate)),
                )
        if self._connections and self._open.get(principal, 0) >= self._connections:
            raise TooManyRequests(
                f"{self._connections:,} requests of yours are open here already. Let some end first.",
                retry_after=5,
            )
        return Place(self._open, principal)


class Place:
    """One of a caller's open requests. A class, since a generator's context would cost several times as much."""

    __slots__ = ("_open", "_principal")

    def __init__(self, taken: dict[str, int], principal: str) -> None:
        self._open = taken
        self._principal = principal

    def __enter__(self) -> None:
        self._open[self._principal] = self._open.get(self._principal, 0) + 1

    def __exit__(self, *_: object) -> None:
        left = self._open[self._principal] - 1
        if left:
            self._open[self._principal] = left
        else:
            del self._open[self._principal]


class Attempts:
    """Failed logins and unknown tokens, by the address that they came from."""

    def __init__(self) -> None:
        self._failed = _Buckets(MOST_FAILED, 1.0 / FAILED_SECONDS)

    def refuse_many(self, address: str) -> None:
        """Raises TooManyRequests where too many from there have failed."""
        if self._failed.left(address) < 1.0:
            raise TooManyRequests(
                "Too many attempts from your address have failed. Wait a little.",
                retry_after=ceil(FAILED_SECONDS),
            )

    def failed(self, address: str) -> None:
        """One more has failed."""
        self._failed.take(address)


def address_of(scope: Scope) -> str:
    """Where a request comes from: an address, of IPv6 the network that one subscriber has."""
    client = scope.get("client")
    if not client:
        return "unknown"
    try:
        address = ip_address(client[0])
    except ValueError:
        return str(client[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return str(address)
