"""Jobs that workers have turned down a moment ago: they are not offered to them again at once."""

from typing import Final
from uuid import UUID

from holdfast_core.clock import Clock

__all__ = ["MOST_REFUSED", "REFUSED_SECONDS", "Refusals"]

#: How long a job that a worker has turned down, or left unanswered, is not offered to it.
REFUSED_SECONDS: Final = 30.0
#: Jobs that one worker may have turned down within that time; with so many it is offered nothing at all.
MOST_REFUSED: Final = 256
#: Workers that are remembered before those are looked for whose time is over.
WORKERS_REMEMBERED: Final = 1_000


class Refusals:
    """Who has turned down what. Outlives the sessions of this process, since a worker may come back in a new one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: By worker: when each job may be offered again, the soonest first.
        self._until: dict[str, dict[UUID, float]] = {}

    def add(self, worker_id: str, job_id: UUID) -> None:
        """This worker does not want this job."""
        if len(self._until) >= WORKERS_REMEMBERED:
            for other in list(self._until):
                self._forget(other)
        jobs = self._until.setdefault(worker_id, {})
        jobs.pop(job_id, None)  # so that the order is that of the times
        jobs[job_id] = self._clock.monotonic() + REFUSED_SECONDS

    def of(self, worker_id: str) -> tuple[tuple[UUID, ...], float]:
        """What is not to be offered to this worker, and for how many seconds at least that does not change."""
        self._forget(worker_id)
        jobs = self._until.get(worker_id)
        if not jobs:
            return (), REFUSED_SECONDS
        return tuple(sorted(jobs)), next(iter(jobs.values())) - self._clock.monotonic()

    def _forget(self, worker_id: str) -> None:
        now = self._clock.monotonic()
        jobs = self._until.get(worker_id, {})
        while jobs and jobs[first := next(iter(jobs))] <= now:
            del jobs[first]
        if not jobs:
            self._until.pop(worker_id, None)
