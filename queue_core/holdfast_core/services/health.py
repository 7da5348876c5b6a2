"""Whether this process can do its work."""

from dataclasses import dataclass
from typing import Final

from anyio import fail_after

from holdfast_core.errors import HoldfastError
from holdfast_core.gate import GateCache
from holdfast_core.services.watch import PauseWatch

__all__ = ["HealthService", "Readiness"]

LOOK_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """`degraded`: the database is away, but paused claims are still answered from memory."""

    ok: bool
    degraded: bool
    detail: str


class HealthService:
    """Readiness, for load balancers and supervisors."""

    def __init__(self, cache: GateCache, watch: PauseWatch) -> None:
        self._cache = cache
        self._watch = watch

    async def ready(self) -> Readiness:
        """Look at the database, for a few seconds at most. Never raises."""
        try:
            with fail_after(LOOK_SECONDS):
                await self._watch.refresh()
        except (HoldfastError, TimeoutError) as error:
            detail = error.detail if isinstance(error, HoldfastError) else "The database does not answer."
            paused = self._cache.paused() is not None
            return Readiness(ok=paused, degraded=paused, detail=detail)
        return Readiness(ok=True, degraded=False, detail="The database answers.")
