"""Every error that Holdfast answers with, one tree.

    HoldfastError                 code, status, detail; becomes a problem+json or a tool error
    ├── InvalidRequest        422 invalid_request       fields that are missing, malformed or unknown
    │   └── KeyReused         422 idempotency_key_reused  the key stands for another request
    ├── NotAuthenticated      401 not_authenticated
    ├── NotAllowed            403 not_allowed           the caller's role does not admit this
    ├── ForeignOrigin         403 foreign_origin        a web page of another site sent this
    ├── NotFound              404 not_found             no such route
    │   ├── JobNotFound       404 job_not_found
    │   ├── ArtifactNotFound  404 artifact_not_found
    │   └── TokenNotFound     404 token_not_found
    ├── MethodNotAllowed      405 method_not_allowed
    ├── Conflict              409
    │   ├── JobNotOwned           job_not_owned         another worker holds the job
    │   ├── LeaseLost             lease_lost            the claim is over
    │   ├── JobStateConflict      job_state_conflict    the job's state does not admit this
    │   ├── NotPaused             not_paused
    │   ├── VersionConflict       version_conflict
    │   ├── IdempotencyStale      idempotency_stale     the pause has moved on since the key was used
    │   └── ResumeNotDrained      resume_not_drained
    ├── BodyTooLarge          413 body_too_large
    ├── UnsupportedMediaType  415 unsupported_media_type
    ├── MisdirectedRequest    421 misdirected_request   the Host header names somebody else
    ├── UpgradeRequired       426 upgrade_required      this address is for WebSockets
    ├── TooManyRequests       429 too_many_requests     with Retry-After
    ├── HeadersTooLarge       431 headers_too_large
    ├── InternalError         500 internal_error        a bug; the log has it, the answer does not
    └── Unavailable           503, with Retry-After
        ├── StoreUnavailable      store_unavailable     the database does not answer
        └── PauseNotConfirmed     pause_not_confirmed   nothing is promised; ask again

`ConfigurationError` stands apart: it ends a process at its start and never goes over a wire.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from holdfast_core.schemas import System

__all__ = [
    "ArtifactNotFound",
    "BodyTooLarge",
    "ConfigurationError",
    "Conflict",
    "FieldError",
    "ForeignOrigin",
    "HeadersTooLarge",
    "HoldfastError",
    "IdempotencyStale",
    "InternalError",
    "InvalidRequest",
    "JobNotFound",
    "JobNotOwned",
    "JobStateConflict",
    "KeyReused",
    "LeaseLost",
    "MethodNotAllowed",
    "MisdirectedRequest",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotPaused",
    "PauseNotConfirmed",
    "ResumeNotDrained",
    "StoreUnavailable",
    "TokenNotFound",
    "TooManyRequests",
    "Unavailable",
    "UnsupportedMediaType",
    "UpgradeRequired",
    "VersionConflict",
    "going_down",
]


class ConfigurationError(Exception):
    """A setting or the surroundings do not allow a start; the text names the setting and the way out."""


#: Refused fields that one answer names.
MAX_FIELDS_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that was refused: its name as the client wrote it (`jobs[3].type`), and why."""

    field: str
    message: str


class HoldfastError(Exception):
    """Base of all errors that a client may see.

    `code` is stable and meant for programs, `detail` is for people and names the way out.
    `system` is set where the answer depends on the pause.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        system: "System | None" = None,
        errors: tuple[FieldError, ...] = (),
        version: int | None = None,
        retry_after: int | None = None,
        scope: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.system = system
        self.errors = errors
        #: The version of the pause that an earlier request with the same key had made, or None.
        self.version = version
        #: Seconds after which a repeat makes sense, or None.
        self.retry_after = retry_after
        #: The OAuth scope that it would take, or None.
        self.scope = scope


class InvalidRequest(HoldfastError):
    """The request itself is wrong; `errors` names each field. Nothing was read or written."""

    code = "invalid_request"
    status = 422
    title = "Invalid request"

    @classmethod
    def of(cls, *errors: FieldError) -> "InvalidRequest":
        """One error from field errors, its detail naming them; of very many only the first."""
        named, more = errors[:MAX_FIELDS_NAMED], len(errors) - MAX_FIELDS_NAMED
        detail = "; ".join(f"{e.field}: {e.message}" for e in named)
        return cls(f"{detail}; and {more} more" if more > 0 else detail, errors=named)


class KeyReused(InvalidRequest):
    """An idempotency key, or a claim's requestId, that stands for something else already. Take a new one."""

    code = "idempotency_key_reused"
    title = "Idempotency key reused"


class NotAuthenticated(HoldfastError):
    """Who is asking is not known."""

    code = "not_authenticated"
    status = 401
    title = "Not authenticated"


class NotAllowed(HoldfastError):
    """Who is asking is known, and may not do this."""

    code = "not_allowed"
    status = 403
    title = "Not allowed"


class ForeignOrigin(HoldfastError):
    """A browser sent this on behalf of a page that is not ours."""

    code = "foreign_origin"
    status = 403
    title = "Foreign origin"


class NotFound(HoldfastError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404
    title = "Not found"


class JobNotFound(NotFound):
    """No job has this id."""

    code = "job_not_found"
    title = "Job not found"


class ArtifactNotFound(NotFound):
    """The job has no artifact with this id."""

    code = "artifact_not_found"
    title = "Artifact not found"


class TokenNotFound(NotFound):
    """No token has this id."""

    code = "token_not_found"
    title = "Token not found"


class MethodNotAllowed(HoldfastError):
    """The address exists, but not for this method."""

    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"


class Conflict(HoldfastError):
    """The request is well formed, but the state of things does not admit it."""

    code = "conflict"
    status = 409
    title = "Conflict"


class JobNotOwned(Conflict):
    """Another worker holds the job."""

    code = "job_not_owned"
    title = "Job held by another worker"


class LeaseLost(Conflict):
    """The claim under which the caller speaks is over: stop working on the job."""

    code = "lease_lost"
    title = "Lease lost"


class JobStateConflict(Conflict):
    """The job is in a state that does not admit the request."""

    code = "job_state_conflict"
    title = "Job state conflict"


class NotPaused(Conflict):
    """A resume of a system that is running."""

    code = "not_paused"
    title = "Not paused"


class VersionConflict(Conflict):
    """`expectedVersion` is not the current one; `system` says what is."""

    code = "version_conflict"
    title = "Version conflict"


class IdempotencyStale(Conflict):
    """A repeat, but the pause has changed since the first: `version` is what that made, `system` what is."""

    code = "idempotency_stale"
    title = "The pause has moved on"


class ResumeNotDrained(Conflict):
    """A resume before the drain ended, where the settings ask for `forceResume`."""

    code = "resume_not_drained"
    title = "Not drained yet"


class BodyTooLarge(HoldfastError):
    """The body is larger than this address takes."""

    code = "body_too_large"
    status = 413
    title = "Body too large"


class UnsupportedMediaType(HoldfastError):
    """The body is not of the content type that this address takes."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class MisdirectedRequest(HoldfastError):
    """The Host header names a host that this server does not answer for."""

    code = "misdirected_request"
    status = 421
    title = "Misdirected request"


class UpgradeRequired(HoldfastError):
    """This address speaks WebSockets, by a subprotocol of ours."""

    code = "upgrade_required"
    status = 426
    title = "Upgrade required"


class TooManyRequests(HoldfastError):
    """The caller asks too often, or holds too many connections; a repeat after `retry_after` seconds makes sense."""

    code = "too_many_requests"
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class HeadersTooLarge(HoldfastError):
    """The headers are larger, or more, than any client of ours sends."""

    code = "headers_too_large"
    status = 431
    title = "Headers too large"


class InternalError(HoldfastError):
    """A bug of ours. The log has the traceback; the answer has none of it."""


class Unavailable(HoldfastError):
    """For now it cannot be done; a repeat after `retry_after` seconds makes sense."""

    code = "unavailable"
    status = 503
    title = "Unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


def going_down() -> Unavailable:
    """The server ends, and with it the calls that are under way."""
    return Unavailable("The server is going down. Repeat this in a moment.")


class StoreUnavailable(Unavailable):
    """The database does not answer, or refused for a reason that passes."""

    code = "store_unavailable"
    title = "Store unavailable"


class PauseNotConfirmed(Unavailable):
    """A toggle whose outcome is not known: nothing is promised, read the status or repeat."""

    code = "pause_not_confirmed"
    title = "Pause not confirmed"
