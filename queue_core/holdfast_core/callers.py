"""Who is asking: made once by a transport, handed to every service call."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast_core.errors import NotAllowed
from holdfast_core.states import Role

__all__ = [
    "CALLER_KEY",
    "DEFAULT_USER_ID",
    "LOCAL_OPERATOR",
    "SCOPE_KEY",
    "WATCHED_KEY",
    "WIDER_KEY",
    "Caller",
    "WorkerBounds",
    "local_operator",
]

DEFAULT_USER_ID: Final = UUID(int=0)
#: Where an HTTP request or a WebSocket carries its caller: in its ASGI scope, put there once.
CALLER_KEY: Final = "holdfast.caller"
#: And the roles that the caller's token would have beside, with wider OAuth scopes; none where there are none.
WIDER_KEY: Final = "holdfast.wider"
#: And, put there by who refuses it with 403, the OAuth scope that would admit it.
SCOPE_KEY: Final = "holdfast.scope"
#: And, for an app that knows which of its requests may last, how to have one of those end when its caller's credential
#: does: called with an ASGI app and what that is to be called with.
WATCHED_KEY: Final = "holdfast.watched"


@dataclass(frozen=True, slots=True)
class WorkerBounds:
    """What a worker's token is bound to: its requests are within this. `types`, `capabilities` None: any."""

    worker_id: str
    types: frozenset[str] | None = None
    capabilities: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `user_id` is the row in `users` that stands behind it (None for a worker token), `name` is what the audit log
    shows, `roles` is what it may do, those contained in others named, too (`policy.effective`).
    """

    user_id: UUID | None
    name: str
    roles: frozenset[Role]
    bounds: WorkerBounds | None = None

    @property
    def principal(self) -> str:
        """What idempotency keys and limits belong to: the user, or the worker where there is none."""
        return f"user {self.user_id}" if self.user_id is not None else f"worker {self.name}"

    def bind(
        self,
        worker_id: str,
        *,
        types: list[str] | None = None,
        capabilities: list[str] | None = None,
    ) -> None:
        """Raises NotAllowed where a request in this worker's name goes beyond what the caller's token is bound to."""
        bounds = self.bounds
        if bounds is None:
            return
        if worker_id != bounds.worker_id:
            raise NotAllowed(
                f"This token is bound to the worker {bounds.worker_id}, and the request names {worker_id}."
            )
        _within("types", types, bounds.types)
        _within("capabilities", capabilities, bounds.capabilities)

    def owns(self, claimed_by: str | None) -> bool:
        """Whether a job with this claimer is one that the caller may see: all for people, its own for a worker."""
        return self.bounds is None or claimed_by == self.bounds.worker_id

    def types_of(self, wanted: list[str] | None) -> list[str] | None:
        """The types that a claim asks for, those of the token where it names none."""
        if wanted is None and self.bounds is not None and self.bounds.types is not None:
            return sorted(self.bounds.types)
        return wanted


def _within(what: str, asked: list[str] | None, bound: frozenset[str] | None) -> None:
    beyond: set[str] = set() if asked is None or bound is None else set(asked) - bound
    if beyond:
        raise NotAllowed(
            f"This token is bound to the {what} {', '.join(sorted(bound or ())) or '(none)'}, and the request names"
            f" {', '.join(sorted(beyond))}, too."
        )


def local_operator(user_id: UUID) -> Caller:
    """The caller of every request while authentication is disabled: it has every role."""
    return Caller(user_id, "local operator", frozenset(Role))


#: The same, under the usual id.
LOCAL_OPERATOR: Final = local_operator(DEFAULT_USER_ID)
