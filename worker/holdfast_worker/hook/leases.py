"""The leases of an agent that pulls its jobs by itself, kept while its hook waits."""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from holdfast_core.errors import Conflict, HoldfastError, NotFound
from holdfast_core.schemas import Job
from holdfast_core.states import JobPhase, JobStatus
from holdfast_worker.client import Client
from holdfast_worker.hook.answers import Denied

__all__ = ["Leases"]

#: Heartbeats within one lease.
BEATS_A_LEASE: Final = 3
#: Between two tries where the server does not answer.
ASK_AGAIN_SECONDS: Final = 1.0


class Leases:
    """The running jobs that a worker id holds. Without an id there are none to keep.

    `lease_seconds`: how long a heartbeat is good for; a claim that has longer keeps that. `ahead`: by how much the
    server's clock is ahead of ours.
    """

    def __init__(
        self, client: Client, worker_id: str | None, lease_seconds: int, *, ahead: timedelta
    ) -> None:
        self._client = client
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._ahead = ahead
        self._held: dict[UUID, int] | None = {} if worker_id is None else None
        self._next_beat = float("-inf")
        #: Why leases could not be kept; None where they could.
        self.trouble: str | None = None
        #: What became of a job: the agent is to stop working on it.
        self.verdict: Denied | None = None

    def park(self, checkpoint: str) -> float:
        """Say that the jobs are parked, if that is due. Returns when it is due next, on time.monotonic()."""
        if self._worker_id is None:
            return float("inf")
        now = time.monotonic()
        if now >= self._next_beat:
            every = self._lease_seconds / BEATS_A_LEASE
            said = self._say(JobPhase.PARKED, checkpoint)
            self._next_beat = now + (every if said else min(every, ASK_AGAIN_SECONDS))
        return self._next_beat

    def go_on(self, checkpoint: str) -> None:
        """Say that the jobs are not parked any more."""
        if self._held:
            self._say(JobPhase.RUNNING, checkpoint)

    def _say(self, phase: JobPhase, checkpoint: str) -> bool:
        """Whether the server took all of it."""
        try:
            if self._held is None:
                self._held = self._find()
            for job_id in self._held:
                self._beat(job_id, phase, checkpoint)
        except HoldfastError as error:
            self.trouble = f"Holdfast could not keep the leases of {self._worker_id}. {error}"
            return False
        self.trouble = None
        return True

    def _find(self) -> dict[UUID, int]:
        page = self._client.jobs(status=JobStatus.RUNNING, claimed_by=self._worker_id, limit=200)
        return {job.id: self._length_for(job) for job in page.items}

    def _length_for(self, job: Job) -> int:
        """A heartbeat sets the lease anew: one that is longer is not to be cut."""
        if job.lease_expires_at is None:
            return self._lease_seconds
        left = job.lease_expires_at - (datetime.now(UTC) + self._ahead)
        return max(self._lease_seconds, math.ceil(left.total_seconds()))

    def _beat(self, job_id: UUID, phase: JobPhase, checkpoint: str) -> None:
        assert self._worker_id is not None
        assert self._held is not None
        try:
            answer = self._client.heartbeat(
                job_id, self._worker_id, self._held[job_id], phase=phase, checkpoint=checkpoint
            )
        except (Conflict, NotFound) as error:
            self.verdict = Denied(f"The claim of the job {job_id} is over; stop working on it. {error}")
            return
        if answer.cancel_requested_at is not None:
            why = f" ({answer.cancel_reason})" if answer.cancel_reason else ""
            self.verdict = Denied(
                f"The job {job_id} is to be cancelled{why}; stop working on it and acknowledge that."
            )
