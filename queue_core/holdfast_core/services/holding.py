"""The jobs of one push session: what their holder says of them, by the services that REST calls, too."""

from collections.abc import Sequence
from typing import TypeVar, assert_never
from uuid import UUID

from holdfast_core.callers import Caller
from holdfast_core.errors import JobNotFound, JobNotOwned, LeaseLost
from holdfast_core.schemas import (
    CancelAckRequest,
    CompleteRequest,
    FailRequest,
    LogRequest,
    ReleaseRequest,
    System,
    WorkerRequest,
)
from holdfast_core.schemas.sessions import (
    AcceptFrame,
    CancelFrame,
    CompleteAckFrame,
    CompleteFrame,
    FailAckFrame,
    FailFrame,
    HeldJob,
    HeldJobState,
    LeaseState,
    LogAckFrame,
    LogFrame,
    RejectFrame,
    ReleaseAckFrame,
    ReleaseFrame,
    ServerFrame,
    StoppedAckFrame,
    StoppedFrame,
)
from holdfast_core.services.leases import LeaseService
from holdfast_core.services.logs import LogService
from holdfast_core.services.outcomes import OutcomeService

__all__ = ["Holding", "OutcomeFrame"]

_R = TypeVar("_R", bound=WorkerRequest)
OutcomeFrame = CompleteFrame | FailFrame | ReleaseFrame | RejectFrame | StoppedFrame


class Holding:
    """What a worker holds, as far as its session knows."""

    def __init__(
        self,
        caller: Caller,
        worker_id: str,
        *,
        leases: LeaseService,
        outcomes: OutcomeService,
        logs: LogService,
    ) -> None:
        #: Jobs, each with the token of the claim by which the worker holds it.
        self.tokens: dict[UUID, str] = {}
        self._caller = caller
        self._worker_id = worker_id
        self._leases = leases
        self._outcomes = outcomes
        self._logs = logs
        #: Jobs that the worker was asked to stop.
        self._stopping: set[UUID] = set()

    async def renew(
        self, jobs: Sequence[HeldJob | HeldJobState | AcceptFrame], lease_seconds: int
    ) -> tuple[list[LeaseState], list[CancelFrame], System]:
        """Move the leases of these jobs: how each claim stands, which of them are to be stopped and were not told of
        before, and the pause. Raises StoreUnavailable: then none has moved."""
        beats = await self._leases.heartbeat_all(
            self._caller, self._worker_id, lease_seconds, [_state(job) for job in jobs]
        )
        states: list[LeaseState] = []
        cancels: list[CancelFrame] = []
        for said, job in zip(jobs, beats.jobs, strict=True):
            if job is None:
                self.forget(said.job_id, said.lease_token)
                states.append(LeaseState(job_id=said.job_id, lost=True))
                continue
            if self.tokens.get(said.job_id) != said.lease_token:
                self._stopping.discard(said.job_id)  # another claim of the same job
            self.tokens[said.job_id] = said.lease_token
            states.append(LeaseState(job_id=said.job_id, lease_expires_at=job.lease_expires_at))
            if job.cancel_requested_at is not None:
                cancels += self.cancel(job.id, said.lease_token, job.cancel_reason)
        return states, cancels, beats.system

    async def end(self, frame: OutcomeFrame) -> ServerFrame:
        """The worker ends its claim. Raises as the outcomes do over REST."""
        job_id = str(frame.job_id)
        try:
            match frame:
                case CompleteFrame():
                    complete = self._request(CompleteRequest, frame, resultSummary=frame.result_summary)
                    await self._outcomes.complete(self._caller, job_id, complete)
                    answer: type[ServerFrame] = CompleteAckFrame
                case FailFrame():
                    fail = self._request(
                        FailRequest, frame, errorMessage=frame.error_message, retryable=frame.retryable
                    )
                    await self._outcomes.fail(self._caller, job_id, fail)
                    answer = FailAckFrame
                case ReleaseFrame() | RejectFrame():
                    release = self._request(ReleaseRequest, frame, reason=frame.reason)
                    await self._outcomes.release(self._caller, job_id, release)
                    answer = ReleaseAckFrame
                case StoppedFrame():
                    stopped = self._request(CancelAckRequest, frame, message=frame.message)
                    await self._outcomes.cancel_ack(self._caller, job_id, stopped)
                    answer = StoppedAckFrame
                case _:
                    assert_never(frame)
        except (JobNotFound, JobNotOwned, LeaseLost):
            self.forget(frame.job_id, frame.lease_token)
            raise
        self.forget(frame.job_id, frame.lease_token)
        return answer.model_validate({"job_id": frame.job_id, "lease_token": frame.lease_token})

    async def log(self, frame: LogFrame) -> LogAckFrame:
        """One event for a job's log. Raises as over REST."""
        request = self._request(
            LogRequest, frame, level=frame.level, message=frame.message, payload=frame.payload
        )
        event = await self._logs.append(self._caller, str(frame.job_id), request)
        return LogAckFrame(job_id=frame.job_id, lease_token=frame.lease_token, sequence=event.sequence)

    def cancel(self, job_id: UUID, lease_token: str, reason: str | None) -> list[CancelFrame]:
        """Somebody wants this job to be stopped: what the worker is to be told, once for each claim."""
        if self.tokens.get(job_id) != lease_token or job_id in self._stopping:
            return []
        self._stopping.add(job_id)
        return [CancelFrame(job_id=job_id, lease_token=lease_token, reason=reason)]

    def forget(self, job_id: UUID, lease_token: str) -> None:
        """The worker does not hold this claim any more."""
        if self.tokens.get(job_id) == lease_token:
            del self.tokens[job_id]
            self._stopping.discard(job_id)

    def _request(self, model: type[_R], frame: OutcomeFrame | LogFrame, **body: object) -> _R:
        """The request that this frame stands for, as REST would have brought it."""
        given = {name: value for name, value in body.items() if value is not None}
        return model.model_validate({"workerId": self._worker_id, "leaseToken": frame.lease_token, **given})


def _state(job: HeldJob | HeldJobState | AcceptFrame) -> HeldJobState:
    if isinstance(job, HeldJobState):
        return job
    return HeldJobState.model_validate({"jobId": job.job_id, "leaseToken": job.lease_token})
