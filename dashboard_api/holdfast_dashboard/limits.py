"""How much one caller may ask of this process, and how often anybody may guess at a credential.

Buckets that fill by the second, in memory: each process counts for itself.
"""

from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from time import monotonic
from typing import Final

from starlette.types import Scope

from holdfast_core.errors import TooManyRequests

__all__ = ["Attempts", "Limits", "address_of"]

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

    def left(self, name: str) -> float:
        left, at = self._left.get(name, (self._size, 0.0))
        return min(self._size, left + (monotonic() - at) * self._rate)

    def take(self, name: str) -> None:
        self._left[name] = (self.left(name) - 1.0, monotonic())
        self._left.move_to_end(name)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)


class Limits:
    """What one caller may ask for: `rate` requests a second (twice that at once), `connections` open ones. 0: any."""

    def __init__(self, rate: int, connections: int) -> None:
        self._rate = rate
        self._connections = connections
        self._asked = _Buckets(2.0 * rate, rate)
        self._open: Counter[str] = Counter()

    @contextmanager
    def one_more(self, principal: str) -> Generator[None]:
        """Room for a request of this caller, while it runs. Raises TooManyRequests."""
        if self._rate:
            left = self._asked.left(principal)
            if left < 1.0:
                raise TooManyRequests(
                    f"More than {self._rate:,} requests a second came from you. Ask less often, or let claims wait"
                    " (waitSeconds).",
                    retry_after=max(1, ceil((1.0 - left) / self._rate)),
                )
            self._asked.take(principal)
        if self._connections and self._open[principal] >= self._connections:
            raise TooManyRequests(
                f"{self._connections:,} requests of yours are open here already. Let some end first.",
                retry_after=5,
            )
        self._open[principal] += 1
        try:
            yield
        finally:
            self._open[principal] -= 1
            if not self._open[principal]:
                del self._open[principal]


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
