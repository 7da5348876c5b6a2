"""Heartbeats: how the holder of a job keeps it. None of this waits for the gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import Connection

from holdfast_core.callers import Caller
from holdfast_core.changes import ChangeBus
from holdfast_core.clock import Clock
from holdfast_core.db import Database, Lane
from holdfast_core.db.prepared import Stored
from holdfast_core.policy import admit_worker
from holdfast_core.schemas import (
    HeartbeatAnswer,
    HeartbeatRequest,
    Job,
    System,
    Transport,
)
from holdfast_core.schemas.sessions import HeldJobState
from holdfast_core.services.batches import Batches, Begun
from holdfast_core.services.counters import Counters
from holdfast_core.services.holders import why_not
from holdfast_core.services.jobs import job_uuid
from holdfast_core.services.presence import Presence
from holdfast_core.services.tokens import fence, hash_token
from holdfast_core.services.watch import PauseWatch
from holdfast_core.settings import Settings
from holdfast_core.store import leases as store
from holdfast_core.store.jobs import find, job_from, job_values
from holdfast_core.store.lease_batches import Holder, heartbeat_together, one_a_job
from holdfast_core.store.pause import read_system
from holdfast_core.store.sqlite_leases import heartbeat_in_turn

__all__ = ["HEARTBEATS_A_LEASE", "Beats", "LeaseService"]

log = structlog.get_logger(__name__)

#: How often a holder is expected to heartbeat within its lease.
HEARTBEATS_A_LEASE: Final = 3


@dataclass(frozen=True, slots=True)
class Beats:
    """What became of one heartbeat for several jobs: each of them as it is now (without its payload), or None where
    that claim is over; in the order in which they were named. `system` is from the same transaction."""

    jobs: list[Job | None]
    system: System


@dataclass(frozen=True, slots=True)
class _Beat:
    """One heartbeat, and who sends it."""

    holder: Holder
    request: HeartbeatRequest


#: The row of a job that had a heartbeat, and the pause.
_Beaten = tuple[Stored, System]


class LeaseService:
    """Keeps leases alive."""

    def __init__(
        self,
        database: Database,
        bus: ChangeBus,
        watch: PauseWatch,
        presence: Presence,
        counters: Counters,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._bus = bus
        self._counters = counters
        self._watch = watch
        self._presence = presence
        self._settings = settings
        self._clock = clock
        self._batches: Batches[None, _Beat, _Beaten] = Batches(self._alone, self._together)

    async def heartbeat(
        self, caller: Caller, job_id: str, request: HeartbeatRequest, *, transport: Transport = "rest"
    ) -> HeartbeatAnswer:
        """Extend the lease, also one that has run out while nobody took the job, paused or not.

        Raises JobNotFound, JobNotOwned, or LeaseLost: the claim is over, stop working on the job.
        """
        return await self.begin(caller, job_id, request, transport=transport).finish()

    def begin(
        self, caller: Caller, job_id: str, request: HeartbeatRequest, *, transport: Transport = "rest"
    ) -> Begun[HeartbeatAnswer]:
        """The same for who has no task to wait in. Raises what can be told at once."""
        admit_worker(caller, request.worker_id, "keep leases")
        found = job_uuid(job_id)
        token_hash = fence(self._settings, request.lease_token)
        self._presence.seen(
            request.worker_id,
            transport,
            every=request.lease_seconds / HEARTBEATS_A_LEASE,
            observed_version=request.observed_version,
        )
        asked_at = self._clock.monotonic()

        beat = _Beat(Holder(found, request.worker_id, token_hash), request)
        asking = self._batches.begin(None, beat)

        def answered(row: Stored, system: System) -> HeartbeatAnswer:
            answer = _answer(row, request, system)
            self._watch.learn(answer.system, asked_at=asked_at)
            self._presence.answered(request.worker_id, answer.system.version)
            self._counters.add("heartbeats")
            if request.phase is not None and answer.system.workers_paused:
                self._bus.announce("running")  # somebody may wait for the last one to park
            return answer

        def plain() -> HeartbeatAnswer | None:
            return None if asking.told is None else answered(*asking.told)

        async def finish() -> HeartbeatAnswer:
            return answered(*await self._batches.finish(asking))

        return Begun(asking.when_over, plain, finish)

    async def _alone(self, beat: _Beat) -> _Beaten:
        holder, request = beat.holder, beat.request

        def work(connection: Connection) -> _Beaten:
            row = store.heartbeat(connection, holder.job_id, request, holder.token_hash)
            if row is None:
                found = find(connection, holder.job_id)
                raise why_not(found, holder.job_id, holder.worker_id, holder.token_hash, None)
            return row, read_system(connection)

        return await self._database.write(work, lane=Lane.SINGLE)

    async def _together(self, beats: Sequence[_Beat]) -> list[_Beaten | None]:
        chosen = one_a_job([beat.holder for beat in beats])
        said = [(beats[number].holder, beats[number].request) for number in chosen.values()]
        if self._database.dialect == "sqlite":
            found, system = await self._database.write(
                lambda c: (heartbeat_in_turn(c, said), read_system(c)), lane=Lane.SINGLE
            )
            rows = found.by_id()
        else:
            rows, system = await self._database.write(
                lambda c: (heartbeat_together(c, said), read_system(c)), lane=Lane.SINGLE
            )
        return [
            (row, system)
            if chosen[beat.holder.job_id] == number and (row := rows.get(beat.holder.job_id)) is not None
            else None
            for number, beat in enumerate(beats)
        ]

    async def heartbeat_all(
        self, caller: Caller, worker_id: str, lease_seconds: int, held: Sequence[HeldJobState]
    ) -> Beats:
        """Extend the leases of several jobs of a worker, all in one transaction. Its presence is the caller's to
        tell. Raises StoreUnavailable: then none of them has moved."""
        admit_worker(caller, worker_id, "keep leases")
        requests = [_beat(worker_id, lease_seconds, job) for job in held]
        # In the order of their ids, so that no two writers wait for each other in a circle.
        order = sorted(range(len(held)), key=lambda number: held[number].job_id)
        asked_at = self._clock.monotonic()

        def work(connection: Connection) -> Beats:
            found: dict[int, Job] = {}
            for number in order:
                job, request = held[number], requests[number]
                row = store.heartbeat(connection, job.job_id, request, hash_token(job.lease_token))
                if row is not None:
                    found[number] = job_from(row, compact=True)
            return Beats([found.get(number) for number in range(len(held))], read_system(connection))

        lane = Lane.SINGLE if len(held) == 1 else Lane.PLAIN
        beats = await self._database.write(work, lane=lane)
        self._watch.learn(beats.system, asked_at=asked_at)
        self._counters.add("heartbeats", sum(job is not None for job in beats.jobs))
        if beats.system.workers_paused and any(job.phase is not None for job in held):
            self._bus.announce("running")
        return beats


def _answer(row: Stored, request: HeartbeatRequest, system: System) -> HeartbeatAnswer:
    return HeartbeatAnswer.model_validate({**job_values(row, compact=request.compact), "system": system})


def _beat(worker_id: str, lease_seconds: int, job: HeldJobState) -> HeartbeatRequest:
    return HeartbeatRequest.model_validate(
        {
            "workerId": worker_id,
            "leaseSeconds": lease_seconds,
            "phase": job.phase,
            "checkpoint": job.checkpoint,
            "progress": job.progress,
        }
    )
