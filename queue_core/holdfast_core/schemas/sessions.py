"""Push sessions: the frames that a worker and the server send each other over a WebSocket (CONTRACT section 6).

One JSON text frame each, tagged by `type`. A worker may put a `ref` into any frame; the answer to that frame
carries it back.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from holdfast_core.errors import FieldError, InvalidRequest
from holdfast_core.schemas.base import (
    MAX_EVENT_PAYLOAD_BYTES,
    MAX_PROGRESS_BYTES,
    MAX_TEXT,
    Answer,
    Capabilities,
    JsonObject,
    LongText,
    Name,
    RequestId,
    ShortText,
    Version,
    WorkerRequest,
    at_most_bytes,
    parse_request,
)
from holdfast_core.schemas.jobs import Job, LeaseSeconds, LeaseToken
from holdfast_core.schemas.logs import LogLevel
from holdfast_core.schemas.system import System
from holdfast_core.states import JobPhase

__all__ = [
    "MAX_FRAME_BYTES",
    "MAX_HELD",
    "MAX_SLOTS",
    "SERVER_FRAMES",
    "SESSION_REVOKED",
    "SESSION_SUPERSEDED",
    "SUBPROTOCOL",
    "WORKER_FRAMES",
    "AcceptFrame",
    "AcceptedFrame",
    "CancelFrame",
    "CompleteAckFrame",
    "CompleteFrame",
    "ErrorFrame",
    "FailAckFrame",
    "FailFrame",
    "HeartbeatAckFrame",
    "HeartbeatFrame",
    "HeldJob",
    "HeldJobState",
    "HelloFrame",
    "LeaseState",
    "LogAckFrame",
    "LogFrame",
    "OfferFrame",
    "ReadyFrame",
    "RejectFrame",
    "ReleaseAckFrame",
    "ReleaseFrame",
    "ServerFrame",
    "StoppedAckFrame",
    "StoppedFrame",
    "SystemFrame",
    "WelcomeFrame",
    "WorkerCapabilities",
    "WorkerFrame",
    "marks_of",
    "parse_server_frame",
    "parse_worker_frame",
]

SUBPROTOCOL: Final = "holdfast-worker-v1"
#: A frame of a worker may be this long.
MAX_FRAME_BYTES: Final = 1_048_576
#: Slots of one worker, and jobs that one frame may speak of.
MAX_SLOTS: Final = 1_024
MAX_HELD: Final = 1_024
#: Why the server closes a session: its token was revoked; the same worker id has opened another.
SESSION_REVOKED: Final = 4001
SESSION_SUPERSEDED: Final = 4002


class WorkerCapabilities(WorkerRequest):
    """What a worker is able and willing to do."""

    types: Annotated[list[Name], Field(max_length=64)] | None = Field(
        default=None, description="Only jobs of these types; null: any."
    )
    capabilities: Capabilities = Field(default_factory=list)
    auto_enabled: bool = Field(default=True, description="False while its operator has paused it locally.")
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = Field(
        default=1, description="Jobs that it runs at once, at most."
    )
    runtime: ShortText | None = Field(default=None, description="What it runs on, such as `python 3.11`.")
    version: ShortText | None = Field(default=None, description="The worker's own version.")


class HeldJob(WorkerRequest):
    """A job that the worker holds, and by which claim."""

    job_id: UUID
    lease_token: LeaseToken


class HeldJobState(HeldJob):
    """The same, with what it does right now."""

    phase: JobPhase | None = None
    checkpoint: ShortText | None = None
    progress: Annotated[JsonObject, AfterValidator(at_most_bytes(MAX_PROGRESS_BYTES))] | None = None


# What a worker says.


class WorkerFrame(WorkerRequest):
    """Base of what a worker sends."""

    ref: RequestId | None = Field(default=None, description="Comes back in the answer to this frame.")


class HelloFrame(WorkerFrame):
    """The first frame of a session. Takes up the jobs that the worker still holds."""

    type: Literal["hello"] = "hello"
    capabilities: WorkerCapabilities
    lease_seconds: LeaseSeconds
    observed_version: Version | None = None
    jobs: Annotated[list[HeldJob], Field(max_length=MAX_HELD)] = Field(default_factory=list[HeldJob])


class HeartbeatFrame(WorkerFrame):
    """The worker is there; moves the leases of the jobs that it names."""

    type: Literal["heartbeat"] = "heartbeat"
    capabilities: WorkerCapabilities | None = Field(default=None, description="Null: as before.")
    observed_version: Version | None = None
    jobs: Annotated[list[HeldJobState], Field(max_length=MAX_HELD)] = Field(
        default_factory=list[HeldJobState]
    )


class ReadyFrame(WorkerFrame):
    """How many more jobs the worker would take now; 0 takes the readiness back. Each offer uses one up."""

    type: Literal["readyForMore"] = "readyForMore"
    slots: Annotated[int, Field(ge=0, le=MAX_SLOTS)]


class AcceptFrame(WorkerFrame):
    """The worker takes an offered job. It begins only after `accepted`."""

    type: Literal["accept"] = "accept"
    job_id: UUID
    lease_token: LeaseToken


class RejectFrame(WorkerFrame):
    """The worker does not take an offered job, which goes back to its place."""

    type: Literal["reject"] = "reject"
    job_id: UUID
    lease_token: LeaseToken
    reason: LongText | None = None


class CompleteFrame(WorkerFrame):
    """The job succeeded."""

    type: Literal["complete"] = "complete"
    job_id: UUID
    lease_token: LeaseToken
    result_summary: LongText | None = None


class FailFrame(WorkerFrame):
    """The job failed; with `retryable` it comes back after a back-off while attempts are left."""

    type: Literal["fail"] = "fail"
    job_id: UUID
    lease_token: LeaseToken
    error_message: LongText
    retryable: bool = False


class ReleaseFrame(WorkerFrame):
    """The job goes back to its place; no attempt is used."""

    type: Literal["release"] = "release"
    job_id: UUID
    lease_token: LeaseToken
    reason: LongText | None = None


class StoppedFrame(WorkerFrame):
    """The worker has stopped a job, as `cancel` asked."""

    type: Literal["stopped"] = "stopped"
    job_id: UUID
    lease_token: LeaseToken
    message: LongText | None = None


class LogFrame(WorkerFrame):
    """One event for the log of a job."""

    type: Literal["log"] = "log"
    job_id: UUID
    lease_token: LeaseToken
    level: LogLevel = "info"
    message: Annotated[LongText, Field(min_length=1, description=f"1 to {MAX_TEXT:,} characters.")]
    payload: Annotated[JsonObject, AfterValidator(at_most_bytes(MAX_EVENT_PAYLOAD_BYTES))] | None = None


# What the server says.


class LeaseState(Answer):
    """How the claim of a job stands: until when its lease holds, or that it is lost."""

    job_id: UUID
    lease_expires_at: datetime | None = None
    lost: bool = False


class ServerFrame(Answer):
    """Base of what the server sends. `ref` and `ignoredFields` are those of the frame that this answers."""

    ref: str | None = None
    ignored_fields: list[str] | None = Field(
        default=None, description="Fields of the answered frame that this server does not know."
    )


class WelcomeFrame(ServerFrame):
    """The answer to `hello`."""

    type: Literal["welcome"] = "welcome"
    system: System
    heartbeat_seconds: float = Field(
        description="How often this server wants to hear of the worker, at least."
    )
    leases: list[LeaseState]


class SystemFrame(ServerFrame):
    """The pause has changed."""

    type: Literal["system"] = "system"
    system: System


class OfferFrame(ServerFrame):
    """A job, claimed for this worker. Its `leaseToken` is in it. To be accepted or rejected within 10 s."""

    type: Literal["offer"] = "offer"
    job: Job
    system: System


class AcceptedFrame(ServerFrame):
    """The answer to `accept`: begin."""

    type: Literal["accepted"] = "accepted"
    job_id: UUID
    lease_token: str
    lease_expires_at: datetime


class HeartbeatAckFrame(ServerFrame):
    """The answer to `heartbeat`."""

    type: Literal["heartbeatAck"] = "heartbeatAck"
    system: System
    leases: list[LeaseState]


class _JobAck(ServerFrame):
    job_id: UUID
    lease_token: str


class CompleteAckFrame(_JobAck):
    """The answer to `complete`."""

    type: Literal["completeAck"] = "completeAck"


class FailAckFrame(_JobAck):
    """The answer to `fail`."""

    type: Literal["failAck"] = "failAck"


class ReleaseAckFrame(_JobAck):
    """The answer to `release`, and to `reject`."""

    type: Literal["releaseAck"] = "releaseAck"


class StoppedAckFrame(_JobAck):
    """The answer to `stopped`."""

    type: Literal["stoppedAck"] = "stoppedAck"


class LogAckFrame(_JobAck):
    """The answer to `log`."""

    type: Literal["logAck"] = "logAck"
    sequence: int


class CancelFrame(ServerFrame):
    """Somebody asks to cancel a running job: stop it and say `stopped`. Told once for each claim and session."""

    type: Literal["cancel"] = "cancel"
    job_id: UUID
    lease_token: str
    reason: str | None = None


class ErrorFrame(ServerFrame):
    """A frame was refused; `code` is the one of the same refusal over REST."""

    type: Literal["error"] = "error"
    code: str
    message: str
    job_id: UUID | None = None
    lease_token: str | None = None


def _by_type(*frames: type[Any]) -> Mapping[str, type[Any]]:
    return {frame.model_fields["type"].default: frame for frame in frames}


WORKER_FRAMES: Final[Mapping[str, type[WorkerFrame]]] = _by_type(
    HelloFrame,
    HeartbeatFrame,
    ReadyFrame,
    AcceptFrame,
    RejectFrame,
    CompleteFrame,
    FailFrame,
    ReleaseFrame,
    StoppedFrame,
    LogFrame,
)
SERVER_FRAMES: Final[Mapping[str, type[ServerFrame]]] = _by_type(
    WelcomeFrame,
    SystemFrame,
    OfferFrame,
    AcceptedFrame,
    HeartbeatAckFrame,
    CompleteAckFrame,
    FailAckFrame,
    ReleaseAckFrame,
    StoppedAckFrame,
    LogAckFrame,
    CancelFrame,
    ErrorFrame,
)


def _type_of(raw: str | bytes) -> object:
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidRequest.of(FieldError("frame", "is not valid JSON")) from None
    if not isinstance(plain, dict):
        raise InvalidRequest.of(FieldError("frame", "is not a JSON object"))
    return cast("dict[str, object]", plain).get("type")


def parse_worker_frame(raw: str | bytes) -> tuple[WorkerFrame, list[str]]:
    """A worker's frame, and the fields in it that were ignored. Raises InvalidRequest."""
    model = WORKER_FRAMES.get(str(_type_of(raw)))
    if model is None:
        raise InvalidRequest.of(FieldError("type", f"is none of {', '.join(WORKER_FRAMES)}"))
    return parse_request(model, raw)


_MARKS: Final[Mapping[str, tuple[str, TypeAdapter[Any]]]] = {
    "ref": ("ref", TypeAdapter(RequestId)),
    "jobId": ("job_id", TypeAdapter(UUID)),
    "leaseToken": ("lease_token", TypeAdapter(LeaseToken)),
}


def marks_of(raw: str | bytes) -> dict[str, Any]:
    """By what the sender of a malformed frame knows its answer again: `ref`, `job_id` and `lease_token`, as far as
    they can be read."""
    found: dict[str, Any] = {}
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError):
        return found
    if isinstance(plain, dict):
        for name, (field, kind) in _MARKS.items():
            try:
                found[field] = kind.validate_python(cast("dict[str, Any]", plain)[name])
            except (KeyError, ValidationError):
                continue
    return found


def parse_server_frame(raw: str | bytes) -> ServerFrame | None:
    """A server's frame; None for a type that is newer than this. Raises InvalidRequest, or ValidationError."""
    model = SERVER_FRAMES.get(str(_type_of(raw)))
    return None if model is None else model.model_validate_json(raw)
