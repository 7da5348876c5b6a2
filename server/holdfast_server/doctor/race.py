"""Claimers against pauses, through the real services: whether a claim ever commits after a pause was answered.

Two sets of services over one database play two servers, each with connections and a memory of its own. Claimers
claim through both as fast as they can, while pauses are made through one. Once a pause has been answered and every
claimer has been told of it, what was claimed is compared with the pause in two ways: by what the pause itself found
claimed behind the closed door, and by when each job started.
"""

import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from anyio import Event, create_task_group, current_time, fail_after, sleep

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.schemas import (
    ClaimRequest,
    EnqueueRequest,
    Job,
    ReleaseRequest,
    Snapshot,
    WorkerPauseRequest,
    parse_request,
)
from holdfast_core.services import Services

__all__ = ["Outcome", "run_race"]

PAUSES: Final = 20
SECONDS: Final = 3.0
CLAIMERS_EACH: Final = 4
#: More than the claimers can take between two pauses; afterwards they are put back.
JOBS: Final = 200
#: How long claims may go on before a pause, at most.
RUN_SECONDS: Final = 0.02
#: How long the claimers may take to learn of a pause.
LEARN_SECONDS: Final = 10.0
LEASE_SECONDS: Final = 600
LOOK_SECONDS: Final = 0.005


@dataclass
class Outcome:
    """`late`: pauses after whose answer a claim committed. `busy`: pauses that met claims."""

    pauses: int = 0
    claims: int = 0
    busy: int = 0
    late: int = 0


@dataclass
class _Claimer:
    services: Services
    name: str
    held: list[Job] = field(default_factory=list[Job])
    #: The version of the pause that it was told of last.
    told: int = 0

    async def run(self, changed: "_Signal", started: list[datetime]) -> None:
        """Claim until told of a pause, hold on to what was got until the next resume, then go on."""
        wanted, _ = parse_request(ClaimRequest, {"workerId": self.name, "leaseSeconds": LEASE_SECONDS})
        while True:
            answer = await self.services.claims.claim(LOCAL_OPERATOR, wanted)
            if answer.job is not None:
                assert answer.job.started_at is not None
                started.append(answer.job.started_at)
                self.held.append(answer.job)
            elif answer.system.workers_paused:
                self.told = answer.system.version
                changed.set()
                with self.services.watch.hub.subscribe("system") as changes:
                    while self.services.watch.known_version == self.told:
                        await changes.wait(LOOK_SECONDS)
            else:
                await sleep(LOOK_SECONDS)  # all are held; the next pause puts them back

    async def put_back(self) -> None:
        """Give back what it holds."""
        while self.held:
            job = self.held.pop()
            said = {"workerId": self.name, "leaseToken": job.lease_token}
            await self.services.outcomes.release(
                LOCAL_OPERATOR, str(job.id), parse_request(ReleaseRequest, said)[0]
            )


class _Signal:
    """Something happened: look again."""

    def __init__(self) -> None:
        self._event = Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = Event()


async def run_race(one: Services, other: Services) -> Outcome:
    """Race for a few seconds, over a database that holds nothing else.

    Raises HoldfastError where the store fails, TimeoutError where a claimer never learns of a pause.
    """
    outcome = Outcome()
    started: list[datetime] = []
    #: From when to when the database was paused.
    paused: list[tuple[datetime, datetime]] = []
    changed = _Signal()
    claimers = [
        _Claimer(services, f"doctor-{server}-{number}")
        for server, services in enumerate((one, other))
        for number in range(CLAIMERS_EACH)
    ]
    await _fill(one)
    async with create_task_group() as tasks:
        for claimer in claimers:
            tasks.start_soon(claimer.run, changed, started)
        until = current_time() + SECONDS
        while outcome.pauses < PAUSES and current_time() < until:
            before = len(started)
            await sleep(random.uniform(RUN_SECONDS / 10, RUN_SECONDS))  # noqa: S311 (no secret)
            snapshot = await _toggle(one, "pause")
            with fail_after(LEARN_SECONDS):
                while any(claimer.told != snapshot.system.version for claimer in claimers):
                    await changed.wait()
            outcome.pauses += 1
            outcome.busy += len(started) > before
            outcome.late += await one.watch.inspect() > 0
            async with create_task_group() as putting_back:
                for claimer in claimers:
                    putting_back.start_soon(claimer.put_back)
            resumed = await _toggle(one, "resume")
            paused.append((snapshot.system.updated_at, resumed.system.updated_at))
        tasks.cancel_scope.cancel()
    outcome.claims = len(started)
    by_time = sum(any(begin < start < end for start in started) for begin, end in paused)
    outcome.late = max(outcome.late, by_time)
    return outcome


async def _fill(services: Services) -> None:
    request, _ = parse_request(EnqueueRequest, {"type": "doctor"})

    async def fill(count: int) -> None:
        for _ in range(count):
            await services.jobs.enqueue(LOCAL_OPERATOR, request)

    async with create_task_group() as tasks:
        for _ in range(CLAIMERS_EACH):
            tasks.start_soon(fill, JOBS // CLAIMERS_EACH)


async def _toggle(services: Services, action: str) -> Snapshot:
    said: dict[str, Any] = {"action": action, "reason": "holdfast doctor"}
    if action == "pause":
        said["mode"] = "drain"
    return await services.pause.control(LOCAL_OPERATOR, parse_request(WorkerPauseRequest, said)[0])
