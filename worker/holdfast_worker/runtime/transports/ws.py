"""Push sessions: the server tells of a pause, an offer and a cancellation at once (CONTRACT section 6)."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote
from uuid import UUID

import structlog
from anyio import CancelScope, Event, create_task_group, get_cancelled_exc_class, move_on_after, sleep
from anyio.lowlevel import checkpoint_if_cancelled
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from holdfast_core.errors import (
    Conflict,
    HoldfastError,
    InternalError,
    LeaseLost,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from holdfast_core.schemas import Artifact, Job, LogLevel
from holdfast_core.schemas.sessions import (
    SESSION_REVOKED,
    SESSION_SUPERSEDED,
    SUBPROTOCOL,
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
    HelloFrame,
    LogAckFrame,
    LogFrame,
    OfferFrame,
    ReadyFrame,
    RejectFrame,
    ReleaseAckFrame,
    ReleaseFrame,
    ServerFrame,
    StoppedAckFrame,
    StoppedFrame,
    SystemFrame,
    WelcomeFrame,
    WorkerFrame,
)
from holdfast_core.states import JobPhase
from holdfast_worker.failures import ServerUnreachable, error_of, failure_of
from holdfast_worker.runtime.backoff import Backoff
from holdfast_worker.runtime.grouping import one_failure
from holdfast_worker.runtime.hold import LOCALLY_PAUSED, Hold
from holdfast_worker.runtime.transports.base import Beat, Held, Identity
from holdfast_worker.runtime.transports.http import HttpTransport
from holdfast_worker.runtime.transports.session import PushSession
from holdfast_worker.wire import CONNECT_SECONDS, Address, cause, untrusted

__all__ = ["SupersededSession", "WsTransport"]

log = structlog.get_logger(__name__)

_A = TypeVar("_A", bound=ServerFrame)
_W = TypeVar("_W", bound=WorkerFrame)

#: An offer brings a job with its payload.
MAX_SERVER_FRAME_BYTES: Final = 16 * 1024 * 1024
#: A server that does not speak WebSockets at this address is asked again after this.
REFUSED_SECONDS: Final = 60.0
#: A session that lasted so long was a good one: the next is tried for at once.
LASTED_SECONDS: Final = 10.0
#: How long a claim waits for the session to come about.
SESSION_SECONDS: Final = 2.0
#: How long a claim that was given up may take to hand back what it got.
HAND_BACK_SECONDS: Final = 5.0


class SupersededSession(HoldfastError):
    """Another worker has connected under the same id. This one ends, or the two would take turns for ever."""

    code = "session_superseded"
    title = "Session superseded"


class _Claim:
    """A slot that waits for an offer."""

    def __init__(self) -> None:
        self.event = Event()
        self.offer: Job | None = None


class WsTransport:
    """A worker's push session, which comes back by itself."""

    name: Literal["ws"] = "ws"

    def __init__(
        self, address: Address, identity: Identity, hold: Hold, *, http: HttpTransport | None = None
    ) -> None:
        """`http`: for what has no frame. Raises ValueError where the certificates to be trusted cannot be read."""
        self._address = address
        self._identity = identity
        self._hold = hold
        self._own_http = http is None
        self._http = http or HttpTransport(address, identity, hold)
        self._tls = address.trusted() if address.is_tls else None
        self._session: PushSession | None = None
        self._up = Event()
        self._heard_at = float("-inf")
        self._claims: deque[_Claim] = deque()
        #: What the server thinks that we would take; only a difference is told.
        self._announced = 0
        self._held: dict[UUID, str] = {}
        self._cancelled: set[tuple[UUID, str]] = set()
        self._late: deque[Job] = deque()
        self._late_event = Event()
        #: Jobs whose acceptance was never answered: nobody works on them here.
        self._unclear: list[Held] = []
        #: Why there is no session: to be told once.
        self.trouble: str | None = None
        self._cancel_heard: Callable[[UUID], None] | None = None
        #: What the server does not admit, of this worker as it is: said before it closes the session.
        self._not_admitted: HoldfastError | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    @property
    def pushes(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    @property
    def idle_seconds(self) -> float:
        """How long ago the server was last heard of in answer to this worker."""
        return time.monotonic() - self._heard_at

    def tell_cancels_to(self, heard: Callable[[UUID], None]) -> None:
        """Call this with the id of a job that is to be cancelled."""
        self._cancel_heard = heard

    async def run(self) -> None:
        """Keep a session, until cancelled. Raises NotAuthenticated, NotAllowed or SupersededSession."""
        async with one_failure(), create_task_group() as tasks:
            if self._own_http:
                tasks.start_soon(self._http.run)
            await self._keep()

    async def _keep(self) -> None:
        delays = Backoff()
        while True:
            began = time.monotonic()
            delay: float | None = None
            try:
                await self._one_session()
            except ConnectionClosed as error:
                self._raise_if_final(error)
                self.trouble = f"the session was closed ({cause(error)})"
            except InvalidStatus as error:
                delay = self._refused(error)
            except (OSError, TimeoutError, WebSocketException, InvalidHandshake) as error:
                if (failure := untrusted(self._address.shown, error)) is not None:
                    log.error("server_not_trusted", detail=failure.detail)
                self.trouble = cause(error) or type(error).__name__
            except (InternalError, TooManyRequests, Unavailable) as error:
                # Also what a server answers to a hello while its store is away, or when it fails.
                if isinstance(error.__cause__, ConnectionClosed):
                    self._raise_if_final(error.__cause__)
                self.trouble = error.detail
            if time.monotonic() - began >= LASTED_SECONDS:
                delays.reset()
            await sleep(delays.next() if delay is None else delay)

    def _raise_if_final(self, error: ConnectionClosed) -> None:
        code = None if error.rcvd is None else error.rcvd.code
        if code == CloseCode.POLICY_VIOLATION and self._not_admitted is not None:
            raise self._not_admitted from None
        if code == SESSION_REVOKED:
            raise NotAuthenticated("The worker's token has ended: it has expired, or was revoked.") from None
        if code == SESSION_SUPERSEDED:
            raise SupersededSession(
                f"Another worker has connected under the id {self._identity.worker_id!r}. Give one of them another"
                " --worker-id."
            ) from None

    def _refused(self, error: InvalidStatus) -> float | None:
        """The server answers, but not with a session. Returns when to ask again, None for soon."""
        response = error.response
        failure = failure_of(
            self._address.shown, response.status_code, response.headers, bytes(response.body or b"")
        )
        if isinstance(failure, NotAuthenticated | NotAllowed):
            raise failure from None
        self.trouble = f"the server answers with status {response.status_code}"
        if isinstance(failure, TooManyRequests):
            return failure.retry_after
        return None if response.status_code >= 500 and response.status_code != 501 else REFUSED_SECONDS

    async def _one_session(self) -> None:
        address = self._address
        self._not_admitted = None
        base = address.base.replace("http", "ws", 1)
        headers = {name: value for name, value in address.headers.items() if name == "Authorization"}
        async with connect(
            f"{base}/api/queue/workers/{quote(self._identity.worker_id, safe='')}/connect",
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            additional_headers=headers,
            user_agent_header=address.headers["User-Agent"],
            ssl=self._tls,
            proxy=True if address.through_proxies else None,
            open_timeout=CONNECT_SECONDS,
            max_size=MAX_SERVER_FRAME_BYTES,
            compression=None,
        ) as connection:
            session = PushSession(connection, address.shown, self._heard)
            async with one_failure(), create_task_group() as tasks:
                tasks.start_soon(session.run)
                welcome = await self._hello(session)
                async with self._standing(session):
                    tasks.start_soon(self._tidy)
                    tasks.start_soon(self._reject_late)
                    await session.beat(welcome.heartbeat_seconds, self._presence)

    async def _hello(self, session: PushSession) -> WelcomeFrame:
        asked_at = time.monotonic()
        hello = self._frame(
            HelloFrame,
            capabilities=self._capabilities(),
            leaseSeconds=self._identity.lease_seconds,
            observedVersion=self._hold.version,
            jobs=[{"jobId": job, "leaseToken": token} for job, token in self._held.items()],
        )
        welcome = await session.ask(hello, WelcomeFrame)
        self._learn(welcome, asked_at)
        return welcome

    @asynccontextmanager
    async def _standing(self, session: PushSession) -> AsyncGenerator[None]:
        self._session = session
        self._announced = 0
        self.trouble = None
        self._up.set()
        log.info("session_open", url=self._address.shown)
        try:
            yield
        finally:
            self._session = None
            self._up = Event()
            self._wake_claims()
            log.info("session_over", url=self._address.shown)

    async def _tidy(self) -> None:
        """Once there is a session again: say what slots wait, and give back what nobody works on."""
        await self._say_ready()
        while self._unclear:
            held = self._unclear[-1]
            with suppress(Conflict, NotFound):  # then it is not ours to give back any more
                await self.release(held, "its acceptance was not answered")
            self._unclear.remove(held)

    # What the server says by itself

    def _heard(self, frame: ServerFrame) -> None:
        match frame:
            case SystemFrame():
                self._learn(frame, time.monotonic())
            case OfferFrame():
                self._hold.learn(frame.system, asked_at=time.monotonic())
                self._offered(frame.job)
            case CancelFrame():
                self._cancelled.add((frame.job_id, frame.lease_token))
                if self._cancel_heard is not None and self._held.get(frame.job_id) == frame.lease_token:
                    self._cancel_heard(frame.job_id)
            case ErrorFrame():
                log.warning("frame_refused", code=frame.code, detail=frame.message)
                if frame.code in {NotAllowed.code, NotAuthenticated.code}:
                    self._not_admitted = error_of(frame.code, frame.message)
            case _:
                pass  # the late answer to a call that has given up

    def _learn(self, frame: WelcomeFrame | SystemFrame | HeartbeatAckFrame, asked_at: float) -> None:
        self._heard_at = time.monotonic()
        self._hold.learn(frame.system, asked_at=asked_at)
        if self._hold.system_paused:
            self._wake_claims()

    def _offered(self, job: Job) -> None:
        self._announced = max(0, self._announced - 1)
        wanted = self._hold.takes_work and not self._hold.system_paused
        waiting = next((claim for claim in self._claims if wanted and not claim.event.is_set()), None)
        if waiting is None:
            self._late.append(job)
            self._late_event.set()
        else:
            waiting.offer = job
            waiting.event.set()

    def _wake_claims(self) -> None:
        for claim in self._claims:
            claim.event.set()

    async def _reject_late(self) -> None:
        """Offers that nobody waits for any more go back."""
        while True:
            await self._late_event.wait()
            self._late_event = Event()
            while self._late:
                await self._reject(self._late.popleft())

    # A slot's claim

    async def claim(self, *, wait_seconds: float) -> tuple[Job, float] | None:
        """Be ready for one more job, and accept the offer that comes; None where none does."""
        if not self._hold.takes_work:
            return None
        await self._there()
        if self._hold.system_paused:
            return None
        claim = _Claim()
        self._claims.append(claim)
        try:
            with move_on_after(wait_seconds):
                await self._say_ready()
                await claim.event.wait()
        except get_cancelled_exc_class():
            self._claims.remove(claim)
            with move_on_after(HAND_BACK_SECONDS, shield=True), suppress(HoldfastError):
                await (self._say_ready() if claim.offer is None else self._reject(claim.offer))
            raise
        except HoldfastError:
            self._claims.remove(claim)
            raise
        self._claims.remove(claim)
        if claim.offer is None:
            await self._say_ready()
            return None
        return await self._accept(claim.offer)

    async def _there(self) -> PushSession:
        """The session, once there is one. Raises ServerUnreachable."""
        if self._session is None:
            with move_on_after(SESSION_SECONDS):
                await self._up.wait()
        if self._session is None:
            raise ServerUnreachable(
                f"There is no push session with {self._address.shown} ({self.trouble or 'not yet'}).",
                sent=False,
            )
        return self._session

    async def _say_ready(self) -> None:
        """Tell how many slots wait, where that is not what the server thinks."""
        waiting = sum(not claim.event.is_set() for claim in self._claims) if self._hold.takes_work else 0
        if self._session is not None and waiting != self._announced:
            self._announced = waiting
            await self._session.tell(self._frame(ReadyFrame, slots=waiting))

    async def _accept(self, job: Job) -> tuple[Job, float] | None:
        held = Held(job.id, job.lease_token or "")
        asked_at = time.monotonic()
        with CancelScope(shield=True):
            try:
                await self._of_job(AcceptFrame, AcceptedFrame, held)
            except LeaseLost:
                return None  # the system was paused, or the offer came too late
            except ServerUnreachable as error:
                if error.sent:
                    self._unclear.append(held)
                raise
        self._held[held.job_id] = held.lease_token
        try:
            await checkpoint_if_cancelled()
        except get_cancelled_exc_class():
            with move_on_after(HAND_BACK_SECONDS, shield=True), suppress(HoldfastError):
                await self.release(held, "the claim was given up")
            raise
        return job, asked_at

    async def _reject(self, job: Job) -> None:
        held = Held(job.id, job.lease_token or "")
        reason = LOCALLY_PAUSED if self._hold.locally_paused else "nobody waits for a job any more"
        with suppress(Conflict, NotFound):  # then it is not ours to give back any more
            await self._of_job(RejectFrame, ReleaseAckFrame, held, reason=reason)
        self._announced = 0  # a refusal ends the readiness
        await self._say_ready()

    # What a holder says

    async def heartbeat(
        self, held: Held, *, phase: JobPhase, checkpoint: str | None, progress: Mapping[str, Any] | None
    ) -> Beat:
        """Move the lease and say what the job does."""
        job = {
            "jobId": held.job_id,
            "leaseToken": held.lease_token,
            "phase": phase,
            "checkpoint": checkpoint,
            "progress": None if progress is None else dict(progress),
        }
        ack = await self._beat({name: value for name, value in job.items() if value is not None})
        if any(lease.lost for lease in ack.leases if lease.job_id == held.job_id):
            self._forget(held)
            raise LeaseLost("The claim is over. Stop working on the job.")
        self._held[held.job_id] = held.lease_token
        return Beat((held.job_id, held.lease_token) in self._cancelled)

    async def complete(self, held: Held, summary: str | None) -> None:
        """The job succeeded."""
        await self._end(CompleteFrame, CompleteAckFrame, held, resultSummary=summary)

    async def fail(self, held: Held, message: str, *, retryable: bool) -> None:
        """The job failed."""
        await self._end(FailFrame, FailAckFrame, held, errorMessage=message, retryable=retryable)

    async def release(self, held: Held, reason: str) -> None:
        """The job goes back."""
        await self._end(ReleaseFrame, ReleaseAckFrame, held, reason=reason)

    async def stopped(self, held: Held, message: str | None) -> None:
        """The job was stopped."""
        await self._end(StoppedFrame, StoppedAckFrame, held, message=message)

    async def log(self, held: Held, level: LogLevel, message: str, payload: Mapping[str, Any] | None) -> None:
        """Add to the job's log."""
        said = None if payload is None else dict(payload)
        await self._of_job(LogFrame, LogAckFrame, held, level=level, message=message, payload=said)

    async def upload(self, held: Held, name: str, content: bytes, content_type: str | None) -> Artifact:
        """Keep a file with the job, over REST: there is no frame for it."""
        return await self._http.upload(held, name, content, content_type)

    async def presence(self) -> None:
        """Say that the worker is there."""
        await self._beat()

    # Frames

    async def _beat(self, *jobs: Mapping[str, Any]) -> HeartbeatAckFrame:
        session = await self._there()
        asked_at = time.monotonic()
        ack = await session.ask(self._presence(*jobs), HeartbeatAckFrame)
        self._learn(ack, asked_at)
        return ack

    def _presence(self, *jobs: Mapping[str, Any]) -> HeartbeatFrame:
        return self._frame(
            HeartbeatFrame,
            capabilities=self._capabilities(),
            observedVersion=self._hold.version,
            jobs=[dict(job) for job in jobs],
        )

    def _capabilities(self) -> dict[str, Any]:
        return {
            **self._identity.described,
            "capabilities": list(self._identity.capabilities),
            "autoEnabled": not self._hold.locally_paused,
        }

    async def _end(self, frame: type[_W], wanted: type[_A], held: Held, **fields: object) -> None:
        await self._of_job(frame, wanted, held, **fields)
        self._forget(held)

    def _forget(self, held: Held) -> None:
        self._cancelled.discard((held.job_id, held.lease_token))
        if self._held.get(held.job_id) == held.lease_token:
            del self._held[held.job_id]

    async def _of_job(self, frame: type[_W], wanted: type[_A], held: Held, **fields: object) -> _A:
        session = await self._there()
        try:
            return await session.ask(
                self._frame(frame, jobId=held.job_id, leaseToken=held.lease_token, **fields), wanted
            )
        except (Conflict, NotFound):
            self._forget(held)
            raise

    @staticmethod
    def _frame(frame: type[_W], **fields: object) -> _W:
        return frame.model_validate({name: value for name, value in fields.items() if value is not None})
