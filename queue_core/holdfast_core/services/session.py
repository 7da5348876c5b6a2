"""One push session: its frames in their order, each answered by what the services say (CONTRACT section 6)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import structlog
from anyio import Event, current_time, move_on_after

from holdfast_core.errors import (
    FieldError,
    HoldfastError,
    InternalError,
    InvalidRequest,
    LeaseLost,
    NotAllowed,
)
from holdfast_core.schemas import System
from holdfast_core.schemas.sessions import (
    AcceptedFrame,
    AcceptFrame,
    CancelFrame,
    CompleteFrame,
    ErrorFrame,
    FailFrame,
    HeartbeatAckFrame,
    HeartbeatFrame,
    HeldJob,
    HeldJobState,
    HelloFrame,
    LeaseState,
    LogFrame,
    ReadyFrame,
    RejectFrame,
    ReleaseFrame,
    ServerFrame,
    StoppedFrame,
    WelcomeFrame,
    WorkerCapabilities,
    WorkerFrame,
    marks_of,
    parse_worker_frame,
)
from holdfast_core.services.counters import Counters
from holdfast_core.services.holding import Holding
from holdfast_core.services.offers import Offers
from holdfast_core.services.outbox import Closed, Outbox
from holdfast_core.services.presence import Presence
from holdfast_core.services.watch import PauseWatch
from holdfast_core.store.workers import Described

__all__ = ["HEARTBEAT_SECONDS", "HELLO_SECONDS", "MOST_MALFORMED", "SILENT_INTERVALS", "Session"]

log = structlog.get_logger(__name__)

#: How long a worker may take to say hello.
HELLO_SECONDS: Final = 10.0
#: How often a worker is to be heard of, at least, and for how many such intervals it may be silent.
HEARTBEAT_SECONDS: Final = 10.0
SILENT_INTERVALS: Final = 3
#: Frames of a session that may be malformed before it is closed.
MOST_MALFORMED: Final = 20
#: How old what an idle worker is told of the pause may be.
RECENT_SECONDS: Final = 2.0
#: How long an answer waits until the session has been told of the version that is known.
VERSION_SECONDS: Final = 2.0
#: A WebSocket close code (RFC 6455).
POLICY_VIOLATION: Final = 1008


class Session:
    """A worker's session. `handle` takes its frames, one after the other; the answers come out of `outbox`."""

    def __init__(
        self,
        worker_id: str,
        *,
        outbox: Outbox,
        offers: Offers,
        holding: Holding,
        presence: Presence,
        watch: PauseWatch,
        counters: Counters,
        begin: Callable[["Session"], Awaitable[System]],
    ) -> None:
        self.worker_id = worker_id
        self.outbox = outbox
        self.offers = offers
        self.holding = holding
        #: Of this session, once it has said hello.
        self.id: UUID | None = None
        self._presence = presence
        self._watch = watch
        self._counters = counters
        self._begin = begin
        self._opened_at = current_time()
        #: What the worker was told of last; None before the welcome.
        self._told: System | None = None
        self._told_more = Event()
        self._capabilities: WorkerCapabilities | None = None
        self._lease_seconds = 0
        self._malformed = 0

    @property
    def patience(self) -> float:
        """For how many seconds the worker may be silent from now on."""
        if self._told is None:
            return max(0.0, HELLO_SECONDS - (current_time() - self._opened_at))
        return SILENT_INTERVALS * HEARTBEAT_SECONDS

    def tell(self, system: System, text: str, *, fell: bool = False) -> None:
        """The pause has changed: each version once, in order, and no offer behind a pause. `text`: the frame that says
        so. `fell`: the version is a lower one, and is to be believed."""
        if self._told is not None and (fell or system.version > self._told.version):
            self._told = system
            self.outbox.send_text(text)
            self.offers.learn(system)
            told_more, self._told_more = self._told_more, Event()
            told_more.set()

    def cancel(self, job_id: UUID, reason: str | None) -> None:
        """Somebody wants a job of this worker to be stopped: it is told, once for each claim."""
        for frame in self.holding.cancel(job_id, self.holding.tokens.get(job_id, ""), reason):
            self.outbox.send(frame)

    async def handle(self, raw: str) -> None:
        """One frame, to its answer. Whatever is wrong with it is answered, too."""
        try:
            frame, ignored = parse_worker_frame(raw)
        except InvalidRequest as error:
            self.outbox.send(ErrorFrame(code=error.code, message=error.detail, **marks_of(raw)))
            self._malformed += 1
            if self._malformed >= MOST_MALFORMED:
                self.outbox.end(Closed(POLICY_VIOLATION, "too many malformed frames"))
            return
        try:
            frames = await self._answer(frame)
        except HoldfastError as error:
            frames = [_refusal(error, frame)]
            if isinstance(error, NotAllowed) and self._told is None:
                self.outbox.send(frames.pop().model_copy(update={"ref": frame.ref}))
                self.outbox.end(Closed(POLICY_VIOLATION, "not allowed: see the error before this"))
        except Exception:
            log.exception("frame_failed", worker_id=self.worker_id, frame=type(frame).__name__)
            frames = [
                _refusal(InternalError("Something went wrong here. The server's log has the details."), frame)
            ]
        for number, one in enumerate(frames):
            if number == 0:  # the answer; what follows is said besides
                one = one.model_copy(update={"ref": frame.ref, "ignored_fields": ignored or None})  # noqa: PLW2901
            self.outbox.send(one)
        if self._told is None and not isinstance(frame, HelloFrame):
            self.outbox.end(Closed(POLICY_VIOLATION, "the first frame of a session is hello"))
        elif self._told is not None and isinstance(frame, HelloFrame):
            self.offers.learn(self._told)  # behind the welcome

    async def _answer(self, frame: WorkerFrame) -> list[ServerFrame]:
        if isinstance(frame, HelloFrame):
            return await self._hello(frame)
        if self._told is None:
            raise InvalidRequest.of(FieldError("type", "should be hello: it is the first frame of a session"))
        if isinstance(frame, HeartbeatFrame):
            return await self._heartbeat(frame)
        self._presence.seen(self.worker_id, "ws")
        match frame:
            case ReadyFrame():
                self.offers.ready(frame.slots)
                return []
            case AcceptFrame():
                return await self._accept(frame)
            case RejectFrame():
                return [await self._reject(frame)]
            case CompleteFrame() | FailFrame() | ReleaseFrame() | StoppedFrame():
                return [await self.holding.end(frame)]
            case LogFrame():
                return [await self.holding.log(frame)]
            case _:
                raise AssertionError(f"no such frame: {type(frame).__name__}")

    async def _hello(self, frame: HelloFrame) -> list[ServerFrame]:
        if self._told is not None:
            raise InvalidRequest.of(FieldError("type", "hello was said already in this session"))
        self.offers.admit(frame.capabilities)
        self._lease_seconds = frame.lease_seconds
        states, cancels, _ = await self._renew(frame.jobs)
        system = await self._begin(self)
        # Nothing is awaited from here to the welcome, so no version falls between.
        self._told = system
        self._describe(frame.capabilities, frame.observed_version)
        self._presence.answered(self.worker_id, system.version)
        welcome = WelcomeFrame(system=system, heartbeat_seconds=HEARTBEAT_SECONDS, leases=states)
        return [welcome, *cancels]

    async def _heartbeat(self, frame: HeartbeatFrame) -> list[ServerFrame]:
        if frame.capabilities is not None:
            self.offers.admit(frame.capabilities)
        self._describe(frame.capabilities, frame.observed_version)
        states, cancels, system = await self._renew(frame.jobs)
        with move_on_after(VERSION_SECONDS):
            while self._told is not None and self._told.version < system.version:
                await self._told_more.wait()
        assert self._told is not None
        self._presence.answered(self.worker_id, self._told.version)
        return [HeartbeatAckFrame(system=self._told, leases=states), *cancels]

    async def _accept(self, frame: AcceptFrame) -> list[ServerFrame]:
        offered = self.offers.take(frame.job_id, frame.lease_token)
        if offered is None and self.holding.tokens.get(frame.job_id) != frame.lease_token:
            raise LeaseLost("This offer is not open any more. Do not begin the job.")
        begun = False
        try:
            (state,), cancels, system = await self._renew([frame])
            if state.lease_expires_at is None:
                raise LeaseLost("The claim is over. Do not begin the job.")
            if offered is not None and (system.workers_paused or self.outbox.over):
                raise LeaseLost("The offer went back before it was accepted. Do not begin the job.")
            begun = True
        finally:
            if offered is not None and not begun:
                self.holding.forget(frame.job_id, frame.lease_token)
                await self.offers.hand_back(offered, "offers_withdrawn", "it could not be accepted any more")
        if offered is not None:
            self._counters.add("offers_accepted")
        accepted = AcceptedFrame(
            job_id=frame.job_id, lease_token=frame.lease_token, lease_expires_at=state.lease_expires_at
        )
        return [accepted, *cancels]

    async def _reject(self, frame: RejectFrame) -> ServerFrame:
        offered = self.offers.take(frame.job_id, frame.lease_token)
        self.offers.refused(frame.job_id)
        released = False
        try:
            answer = await self.holding.end(frame)
            released = True
        finally:
            if offered is not None and not released:
                await self.offers.hand_back(offered, "offers_rejected", frame.reason or "rejected")
        if offered is not None:
            self._counters.add("offers_rejected")
        return answer

    async def _renew(
        self, jobs: Sequence[HeldJob | HeldJobState | AcceptFrame]
    ) -> tuple[list[LeaseState], list[CancelFrame], System]:
        if not jobs:
            return [], [], await self._watch.recent(RECENT_SECONDS)
        return await self.holding.renew(jobs, self._lease_seconds)

    def _describe(self, capabilities: WorkerCapabilities | None, observed_version: int | None) -> None:
        self._capabilities = capabilities or self._capabilities
        assert self._capabilities is not None
        able = self._capabilities
        self._presence.seen(
            self.worker_id,
            "ws",
            every=HEARTBEAT_SECONDS,
            observed_version=observed_version,
            capabilities=able.capabilities,
            auto_enabled=able.auto_enabled,
            described=Described(
                types=None if able.types is None else tuple(able.types),
                slots=able.slots,
                runtime=able.runtime,
                version=able.version,
            ),
        )
        if capabilities is not None:
            self.offers.describe(capabilities)


def _refusal(error: HoldfastError, frame: WorkerFrame) -> ErrorFrame:
    return ErrorFrame(
        code=error.code,
        message=error.detail,
        job_id=getattr(frame, "job_id", None),
        lease_token=getattr(frame, "lease_token", None),
    )
