"""Workers: they say that they are there, and operators see the fleet."""

from holdfast_core.callers import Caller
from holdfast_core.db import Database
from holdfast_core.gate import GateCache
from holdfast_core.policy import Permission, admit, admit_worker
from holdfast_core.schemas import PresenceAnswer, PresenceRequest, Transport, WorkerList
from holdfast_core.services.presence import Presence
from holdfast_core.services.watch import PauseWatch
from holdfast_core.store.workers import Described, fleet

__all__ = ["WorkerService"]


class WorkerService:
    """Presence and the fleet."""

    def __init__(self, database: Database, cache: GateCache, watch: PauseWatch, presence: Presence) -> None:
        self._database = database
        self._cache = cache
        self._watch = watch
        self._presence = presence

    async def presence(
        self, caller: Caller, request: PresenceRequest, *, transport: Transport = "rest"
    ) -> PresenceAnswer:
        """An idle or locally paused worker is there; it is told of the pause."""
        admit_worker(
            caller,
            request.worker_id,
            "report as a worker",
            types=request.types,
            capabilities=request.worker_capabilities,
        )
        self._presence.seen(
            request.worker_id,
            transport,
            observed_version=request.observed_version,
            capabilities=request.worker_capabilities,
            auto_enabled=request.auto_enabled,
            described=_described(request),
        )
        system = self._cache.paused() or await self._watch.refresh()
        self._presence.answered(request.worker_id, system.version)
        return PresenceAnswer(system=system)

    async def list(self, caller: Caller) -> WorkerList:
        """All workers that are known, by id."""
        admit(caller, Permission.LOOK, "see workers")
        await self._presence.flush()  # what this process knows shows at once
        return WorkerList(items=await self._database.read(fleet))


def _described(request: PresenceRequest) -> Described | None:
    """What the worker says of itself; None where it says nothing."""
    said = Described(
        types=None if request.types is None else tuple(request.types),
        slots=request.slots,
        runtime=request.runtime,
        version=request.version,
    )
    return None if said == Described() else said
