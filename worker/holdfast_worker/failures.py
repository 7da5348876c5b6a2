"""From an answer that says no to a typed exception.

Problem answers (RFC 9457) become the classes of `holdfast_core.errors`, chosen by `code`. Three failures
never come over a wire and live here:

    HoldfastError
    ├── Unavailable
    │   └── ServerUnreachable     no answer: refused, cut off, or too late
    │       └── UntrustedServer   something answers, but its certificate is not trusted
    └── UnexpectedAnswer          an answer, but not one that a Holdfast server gives
"""

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from holdfast_core import errors
from holdfast_core.errors import FieldError, HoldfastError, TooManyRequests, Unavailable
from holdfast_core.schemas import Problem

__all__ = ["ServerUnreachable", "UnexpectedAnswer", "UntrustedServer", "error_of", "failure_of"]

#: Statuses by which a gateway in front says that it did not reach the server.
_GATEWAY_STATUSES: Final = frozenset({502, 503, 504})


class ServerUnreachable(Unavailable):
    """No answer came. `sent` says whether the server may have carried the request out all the same."""

    code = "server_unreachable"
    title = "Server unreachable"

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class UntrustedServer(ServerUnreachable):
    """What answers cannot prove that it is the server: nothing was sent to it.

    `unknown_ca`: its certificate may be in order, but is signed by nobody whom this host knows. Else it is made for
    another name or another time.
    """

    code = "untrusted_server"
    title = "Untrusted server"

    def __init__(self, detail: str, *, unknown_ca: bool) -> None:
        super().__init__(detail, sent=False)
        self.unknown_ca = unknown_ca


class UnexpectedAnswer(HoldfastError):
    """What answers at this address does not speak as a Holdfast server does."""

    code = "unexpected_answer"
    title = "Unexpected answer"


def failure_of(url: str, status: int, headers: Mapping[str, str], body: bytes) -> HoldfastError:
    """The exception that stands for an answer other than 2xx.

    A code that this client does not know (a newer server's) becomes a class of its own below the one
    that its status stands for, so that `except Conflict` catches it and `.code` names it.
    """
    retry_after = headers.get("retry-after", "")
    seconds = int(retry_after) if retry_after.isdecimal() else None
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return _without_problem(url, status, headers, seconds)
    kind = _known_kinds().get(problem.code) or _kind_of(problem.status)
    if kind.code != problem.code:
        kind = type(
            kind.__name__, (kind,), {"code": problem.code, "status": problem.status, "title": problem.title}
        )
    if issubclass(kind, Unavailable | TooManyRequests):
        return kind(problem.detail, retry_after=seconds or 1)
    return kind(
        problem.detail,
        system=problem.system,
        errors=tuple(FieldError(e.field, e.message) for e in problem.errors or ()),
        version=problem.version,
        retry_after=seconds,
    )


def error_of(code: str, detail: str) -> HoldfastError:
    """The exception that stands for a refusal of which only the code and a text came: a frame's or a tool's."""
    kind = _known_kinds().get(code, HoldfastError)
    if kind.code != code:
        kind = type(kind.__name__, (kind,), {"code": code})
    return kind(detail)


def _without_problem(url: str, status: int, headers: Mapping[str, str], seconds: int | None) -> HoldfastError:
    """A refusal that is not ours: a gateway's, or another program's."""
    if status in _GATEWAY_STATUSES:
        return ServerUnreachable(
            f"The gateway at {url} does not reach the server (status {status}).", sent=True
        )
    if 300 <= status < 400:
        where = headers.get("location", "another address")
        return UnexpectedAnswer(f"{url} answers with a redirect to {where}; give that address instead.")
    kind = _kind_of(status)
    said = f"{url} answers with status {status} and without a reason; is a Holdfast server there?"
    return UnexpectedAnswer(said) if kind is HoldfastError else kind(said, retry_after=seconds)


def _kind_of(status: int) -> type[HoldfastError]:
    match status:
        case 401:
            return errors.NotAuthenticated
        case 403:
            return errors.NotAllowed
        case 409:
            return errors.Conflict
        case 422:
            return errors.InvalidRequest
        case 503:
            return errors.Unavailable
        case _:
            return HoldfastError


def _known_kinds() -> dict[str, type[HoldfastError]]:
    """The classes of the public tree by their code."""
    named = (getattr(errors, name) for name in errors.__all__)
    return {kind.code: kind for kind in named if isinstance(kind, type) and issubclass(kind, HoldfastError)}
