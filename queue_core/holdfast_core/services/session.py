"""One push session: its frames in their order, each answered by what the services say."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar, assert_never
from uuid import UUID

from anyio import BrokenResourceError, ClosedResourceError, WouldBlock
from anyio.streams.memory import MemoryObjectSendStream

from holdfast_core.callers import Caller
from holdfast_core.clock import Clock
from holdfast_core.errors import HoldfastError, InvalidRequest, LeaseLost
from holdfast_core.schemas import (
    CancelAckRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatRequest,
    LogRequest,
    ReleaseRequest,
    System,
    WorkerRequest,
)
from holdfast_core.schemas.sessions import (
    AcceptedFrame,
    AcceptFrame,
    CancelFrame,
    CompleteAckFrame,
    CompleteFrame,
    ErrorFrame,
    FailAckFrame,
    FailFrame,
    HeartbeatAckFrame,
    HeartbeatFrame,
    HeldJob,
    HeldJobState,
    HelloFrame,
    LeaseState,
    LogAckFrame,
    LogFrame,
    ReadyFrame,
    RejectFrame,
    ReleaseAckFrame,
    ReleaseFrame,
    ServerFrame,
    StoppedAckFrame,
    StoppedFrame,
    SystemFrame,
    WelcomeFrame,
    WorkerCapabilities,
    WorkerFrame,
    parse_worker_frame,
)
from holdfast_core.services.claims import ClaimService
from holdfast_core.services.counters import Counters
from holdfast_core.services.leases import HEARTBEATS_A_LEASE, LeaseService, OutcomeService
from holdfast_core.services.logs import LogService
from holdfast_core.services.offers import Offers
from holdfast_core.services.presence import Presence
from holdfast_core.store.workers import Described

__all__ = ["Closed", "Outgoing", "Session"]

#: Frames of a session that may be malformed before it is closed.
MAX_MALFORMED: Final = 20
#: A worker is to be heard of at least this often, in seconds.
MOST_HEARTBEAT_SECONDS: Final = 10.0
#: WebSocket close codes (RFC 6455).
POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013


@dataclass(frozen=True)
class Closed:
    """The end of a session, from our side."""

    code: int
    reason: str


Outgoing = ServerFrame | Closed

_R = TypeVar("_R", bound=WorkerRequest)
_OfJob = HeldJob | AcceptFrame | CompleteFrame | FailFrame | ReleaseFrame | StoppedFrame | LogFrame


class Session:
    """A worker's session. `handle` takes its frames one after the other."""

    def __init__(
        self,
        caller: Caller,
        worker_id: str,
        *,
        claims: ClaimService,
        leases: LeaseService,
        outcomes: OutcomeService,
        logs: LogService,
        presence: Presence,
        counters: Counters,
        clock: Clock,
        avoided: dict[tuple[str, UUID], float],
        sending: MemoryObjectSendStream[Outgoing],
        begin: Callable[["Session"], Awaitable[System]],
    ) -> None:
        self.worker_id = worker_id
        #: Of this session, once it has said hello.
        self.id: UUID
        #: The jobs that it holds, with the tokens of their claims.
        self.held: dict[UUID, str] = {}
        #: Nothing is sent any more.
        self.over = False
        #: How often the worker is to be heard of.
        self.heartbeat_seconds = MOST_HEARTBEAT_SECONDS
        self.offers = Offers(caller, worker_id, claims, outcomes, counters, clock, avoided, self.send)
        self._caller = caller
        self._leases = leases
        self._outcomes = outcomes
        self._logs = logs
        self._presence = presence
        self._sending = sending
        self._begin = begin
        self._told: System | None = None
        self._cancels: set[tuple[UUID, str]] = set()
        self._capabilities = WorkerCapabilities.model_validate({})
        self._lease_seconds = 0
        self._malformed = 0

    # What the server says by itself

    def send(self, frame: ServerFrame) -> None:
        """Put it into the order. A worker that does not read is closed."""
        if self.over:
            return
        try:
            self._sending.send_nowait(frame)
        except WouldBlock:
            self.over = True
            self._sending.close()  # the edge sends what is there, and closes
        except (BrokenResourceError, ClosedResourceError):
            self.over = True

    def close(self, closed: Closed) -> None:
        """End it, after what is in the order already."""
        if not self.over:
            try:
                self._sending.send_nowait(closed)
            except (WouldBlock, BrokenResourceError, ClosedResourceError):
                self._sending.close()
            self.over = True

    def tell(self, system: System, *, fell: bool = False) -> None:
        """The pause has changed: each version once, in order, and no offer behind a pause. `fell`: the version is a
        lower one, and is to be believed."""
        if self._told is not None and (system.version > self._told.version or fell):
            self._told = system
            self.send(SystemFrame(system=system))
            self.offers.learn(system)

    def tell_cancel(self, frame: CancelFrame) -> None:
        """Somebody wants a job of this worker to be cancelled; told once for each claim."""
        if (frame.job_id, frame.lease_token) not in self._cancels:
            self._cancels.add((frame.job_id, frame.lease_token))
            self.send(frame)

    # What the worker says

    async def handle(self, raw: str) -> None:
        """One frame, to its answer."""
        try:
            frame, ignored = parse_worker_frame(raw)
        except InvalidRequest as error:
            self.send(ErrorFrame(code=error.code, message=error.detail))
            self._malformed += 1
            if self._malformed >= MAX_MALFORMED:
                self.close(Closed(POLICY_VIOLATION, "too many malformed frames"))
            return
        if self._told is None and not isinstance(frame, HelloFrame):
            self.close(Closed(POLICY_VIOLATION, "the first frame of a session is hello"))
            return
        try:
            answer = await self._answer(frame)
        except HoldfastError as error:
            answer = ErrorFrame(
                code=error.code,
                message=error.detail,
                job_id=getattr(frame, "job_id", None),
                lease_token=getattr(frame, "lease_token", None),
            )
            if isinstance(error, LeaseLost) and answer.job_id is not None:
                self._forget(answer.job_id, answer.lease_token or "")
        if answer is not None:
            self.send(answer.model_copy(update={"ref": frame.ref, "ignored_fields": ignored or None}))
        if isinstance(frame, HelloFrame) and self._told is not None:
            self.offers.learn(self._told)

    async def _answer(self, frame: WorkerFrame) -> ServerFrame | None:
        match frame:
            case HelloFrame():
                return await self._hello(frame)
            case HeartbeatFrame():
                return await self._heartbeat(frame)
            case ReadyFrame():
                self._seen()
                self.offers.ready(frame.slots)
                return None
            case AcceptFrame():
                return await self._accept(frame)
            case RejectFrame():
                self._seen()
                if not self.offers.rejected(frame.job_id, frame.lease_token, frame.reason):
                    raise LeaseLost("This offer is not open any more.")
                return ReleaseAckFrame(job_id=frame.job_id, lease_token=frame.lease_token)
            case CompleteFrame() | FailFrame() | ReleaseFrame() | StoppedFrame():
                return await self._outcome(frame)
            case LogFrame():
                request = self._request(
                    LogRequest, frame, level=frame.level, message=frame.message, payload=frame.payload
                )
                event = await self._logs.append(self._caller, str(frame.job_id), request)
                return LogAckFrame(
                    job_id=frame.job_id, lease_token=frame.lease_token, sequence=event.sequence
                )
            case _:
                raise AssertionError(f"no such frame: {frame!r}")

    async def _hello(self, frame: HelloFrame) -> WelcomeFrame:
        if self._told is not None:
            raise InvalidRequest("hello was said already in this session.")
        self._lease_seconds = frame.lease_seconds
        self.heartbeat_seconds = min(MOST_HEARTBEAT_SECONDS, frame.lease_seconds / HEARTBEATS_A_LEASE)
        self._describe(frame.capabilities, frame.observed_version)
        states = [await self._renew(_state(j.job_id, j.lease_token)) for j in frame.jobs]
        system = await self._begin(self)
        self._told = system
        self._presence.answered(self.worker_id, system.version)
        return WelcomeFrame(system=system, heartbeat_seconds=self.heartbeat_seconds, leases=states)

    async def _heartbeat(self, frame: HeartbeatFrame) -> HeartbeatAckFrame:
        self._describe(frame.capabilities or self._capabilities, frame.observed_version)
        states = [await self._renew(job) for job in frame.jobs]
        assert self._told is not None
        self._presence.answered(self.worker_id, self._told.version)
        return HeartbeatAckFrame(system=self._told, leases=states)

    async def _renew(self, job: HeldJobState) -> LeaseState:
        request = self._request(
            HeartbeatRequest,
            job,
            leaseSeconds=self._lease_seconds,
            phase=job.phase,
            checkpoint=job.checkpoint,
            progress=job.progress,
            compact=True,
        )
        try:
            answer = await self._leases.heartbeat(self._caller, str(job.job_id), request, transport="ws")
        except HoldfastError as error:
            if error.status in {404, 409}:
                self._forget(job.job_id, job.lease_token)
                return LeaseState(job_id=job.job_id, lost=True)
            raise
        self.held[job.job_id] = job.lease_token
        if answer.cancel_requested_at is not None:
            self.tell_cancel(
                CancelFrame(job_id=job.job_id, lease_token=job.lease_token, reason=answer.cancel_reason)
            )
        return LeaseState(job_id=job.job_id, lease_expires_at=answer.lease_expires_at)

    async def _accept(self, frame: AcceptFrame) -> AcceptedFrame:
        self._seen()
        if not self.offers.accepted(frame.job_id, frame.lease_token):
            raise LeaseLost("This offer is not open any more. Do not begin the job.")
        state = await self._renew(_state(frame.job_id, frame.lease_token))
        if state.lease_expires_at is None:
            raise LeaseLost("The claim is over. Do not begin the job.")
        return AcceptedFrame(
            job_id=frame.job_id, lease_token=frame.lease_token, lease_expires_at=state.lease_expires_at
        )

    async def _outcome(self, frame: CompleteFrame | FailFrame | ReleaseFrame | StoppedFrame) -> ServerFrame:
        job_id = str(frame.job_id)
        job = {"job_id": frame.job_id, "lease_token": frame.lease_token}
        match frame:
            case CompleteFrame():
                complete = self._request(CompleteRequest, frame, resultSummary=frame.result_summary)
                await self._outcomes.complete(self._caller, job_id, complete)
                answer: ServerFrame = CompleteAckFrame.model_validate(job)
            case FailFrame():
                fail = self._request(
                    FailRequest, frame, errorMessage=frame.error_message, retryable=frame.retryable
                )
                await self._outcomes.fail(self._caller, job_id, fail)
                answer = FailAckFrame.model_validate(job)
            case ReleaseFrame():
                release = self._request(ReleaseRequest, frame, reason=frame.reason)
                await self._outcomes.release(self._caller, job_id, release)
                answer = ReleaseAckFrame.model_validate(job)
            case StoppedFrame():
                stopped = self._request(CancelAckRequest, frame, message=frame.message)
                await self._outcomes.cancel_ack(self._caller, job_id, stopped)
                answer = StoppedAckFrame.model_validate(job)
            case _:
                assert_never(frame)
        self._forget(frame.job_id, frame.lease_token)
        return answer

    def _request(self, model: type[_R], held: _OfJob, **body: object) -> _R:
        """The request that this frame stands for, as REST would have brought it."""
        mine = {"workerId": self.worker_id, "leaseToken": held.lease_token}
        return model.model_validate(
            {**mine, **{name: value for name, value in body.items() if value is not None}}
        )

    def _describe(self, capabilities: WorkerCapabilities, observed_version: int | None) -> None:
        self._capabilities = capabilities
        self._presence.seen(
            self.worker_id,
            "ws",
            every=self.heartbeat_seconds,
            observed_version=observed_version,
            capabilities=capabilities.capabilities,
            auto_enabled=capabilities.auto_enabled,
            described=Described(
                None if capabilities.types is None else tuple(capabilities.types),
                capabilities.slots,
                capabilities.runtime,
                capabilities.version,
            ),
        )
        self.offers.describe(capabilities, self._lease_seconds)

    def _seen(self) -> None:
        self._presence.seen(self.worker_id, "ws")

    def _forget(self, job_id: UUID, lease_token: str) -> None:
        if self.held.get(job_id) == lease_token:
            del self.held[job_id]


def _state(job_id: UUID, lease_token: str) -> HeldJobState:
    return HeldJobState.model_validate({"jobId": job_id, "leaseToken": lease_token})
