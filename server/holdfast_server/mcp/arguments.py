"""Tool arguments: the requests of REST, flat, with `jobId` where REST has it in the path.

Unlike REST, unknown fields are refused also where a worker speaks (CONTRACT, first paragraph): a model
that invents an argument learns of it at once.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field

from holdfast_core.errors import BodyTooLarge, FieldError, InvalidRequest
from holdfast_core.schemas import (
    MAX_LIMIT_SECONDS,
    MAX_PAGE,
    MIN_LIMIT_SECONDS,
    CancelAckRequest,
    CancelRequest,
    ClaimRequest,
    CompleteRequest,
    FailRequest,
    HeartbeatRequest,
    IdempotencyKey,
    LogRequest,
    PersonRequest,
    PresenceRequest,
    Reason,
    ReleaseRequest,
    Request,
    RequeueRequest,
    RetryRequest,
    UploadRequest,
    WaitQuery,
    parse_request,
)
from holdfast_core.states import PauseMode

__all__ = [
    "MAX_ARGUMENT_BYTES",
    "MAX_CLAIM_WAIT_SECONDS",
    "MAX_SYSTEM_WAIT_SECONDS",
    "MAX_UPLOAD_BYTES",
    "CancelAckArguments",
    "CancelArguments",
    "ClaimArguments",
    "CompleteArguments",
    "EventsArguments",
    "FailArguments",
    "GetArguments",
    "HeartbeatArguments",
    "LogArguments",
    "NoArguments",
    "PauseArguments",
    "PresenceArguments",
    "ReleaseArguments",
    "RequeueArguments",
    "ResumeArguments",
    "RetryArguments",
    "UploadArguments",
    "WaitArguments",
    "plain_request",
    "read_arguments",
]

#: As the body of a REST request. Over HTTP the transport refuses earlier; on stdio this is the bound.
MAX_ARGUMENT_BYTES: Final = 1_048_576
#: An artifact that comes in a call's arguments, decoded.
MAX_UPLOAD_BYTES: Final = 700 * 1024
#: A silent tool call is given up after 60 s by some clients (measured), so both waits stay well below.
MAX_CLAIM_WAIT_SECONDS: Final = 25
MAX_SYSTEM_WAIT_SECONDS: Final = 50

_R = TypeVar("_R", bound=Request)


class NoArguments(PersonRequest):
    """A tool that takes nothing."""


class GetArguments(PersonRequest):
    """Which job. The base of all tools about one job."""

    job_id: Annotated[str, Field(min_length=1, max_length=64)]


class CancelArguments(CancelRequest, GetArguments, extra="forbid"):
    """`jobId` and the REST body, as in all that follow."""


class RetryArguments(RetryRequest, GetArguments, extra="forbid"):
    """Retry one job."""


class RequeueArguments(RequeueRequest, GetArguments, extra="forbid"):
    """Requeue one stale job."""


class HeartbeatArguments(HeartbeatRequest, GetArguments, extra="forbid"):
    """Extend the lease of one job."""


class CompleteArguments(CompleteRequest, GetArguments, extra="forbid"):
    """Complete one job."""


class FailArguments(FailRequest, GetArguments, extra="forbid"):
    """Fail one job."""


class ReleaseArguments(ReleaseRequest, GetArguments, extra="forbid"):
    """Release one job."""


class CancelAckArguments(CancelAckRequest, GetArguments, extra="forbid"):
    """Confirm the cancellation of one job."""


class ClaimArguments(ClaimRequest, extra="forbid"):
    """Claim one job; the wait is shorter than over REST."""

    wait_seconds: float = Field(0, ge=0, le=MAX_CLAIM_WAIT_SECONDS)


class PresenceArguments(PresenceRequest, extra="forbid"):
    """Report an idle worker."""


class EventsArguments(GetArguments):
    """Read one job's log."""

    after: int = Field(0, ge=0, le=2**31 - 1)
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class LogArguments(LogRequest, GetArguments, extra="forbid"):
    """Add to one job's log."""


class UploadArguments(UploadRequest, GetArguments, extra="forbid"):
    """Upload one artifact; its bytes are in the arguments."""

    content_base64: Annotated[str, Field(max_length=MAX_UPLOAD_BYTES * 4 // 3 + 4)]


class PauseArguments(PersonRequest):
    """A pause; the action is the tool's name."""

    mode: PauseMode
    reason: Reason
    resume_after_seconds: int | None = Field(None, ge=MIN_LIMIT_SECONDS, le=MAX_LIMIT_SECONDS)
    expected_version: int | None = Field(None, ge=1)
    idempotency_key: IdempotencyKey | None = None


class ResumeArguments(PersonRequest):
    """A resume; the action is the tool's name."""

    reason: Reason
    force_resume: bool | None = None
    expected_version: int | None = Field(None, ge=1)
    idempotency_key: IdempotencyKey | None = None


class WaitArguments(WaitQuery):
    """A wait, shorter than over REST."""

    timeout_seconds: float = Field(25, ge=0, le=MAX_SYSTEM_WAIT_SECONDS)


def read_arguments(model: type[_R], arguments: Mapping[str, Any]) -> _R:
    """Read a call's arguments. Raises InvalidRequest naming each field that is wrong, or BodyTooLarge."""
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest.of(FieldError("arguments", "hold half of a surrogate pair")) from None
    except RecursionError:
        raise InvalidRequest.of(FieldError("arguments", "are nested too deep")) from None
    except ValueError:
        raise InvalidRequest.of(FieldError("arguments", "hold a number that JSON cannot carry")) from None
    if size > MAX_ARGUMENT_BYTES:
        raise BodyTooLarge(f"The arguments are larger than {MAX_ARGUMENT_BYTES:,} bytes.")
    request, _ = parse_request(model, text)  # nothing is ignored: every model here forbids unknown fields
    return request


def plain_request(model: type[_R], arguments: _R) -> _R:
    """The REST request inside a tool's arguments (which derive from it and add `jobId`).

    The service sees exactly what it sees over REST, fields that were left out included.
    """
    names = arguments.model_fields_set & model.model_fields.keys()
    return model.model_validate({name: getattr(arguments, name) for name in names}, by_name=True)
