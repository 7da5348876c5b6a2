"""Who is asking: made once by a transport, handed to every service call."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from holdfast_core.states import Role

__all__ = ["DEFAULT_USER_ID", "LOCAL_OPERATOR", "Caller", "local_operator"]

DEFAULT_USER_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `user_id` is the row in `users` that stands behind it (None for a worker token without an owner),
    `name` is what the audit log shows, `roles` is what it may do.
    """

    user_id: UUID | None
    name: str
    roles: frozenset[Role]

    @property
    def principal(self) -> str:
        """What idempotency keys belong to: the user, or the worker where there is none."""
        return f"user {self.user_id}" if self.user_id is not None else f"worker {self.name}"

    @property
    def may_toggle(self) -> bool:
        """Whether this caller may pause and resume (SEC-01: a worker never)."""
        return bool(self.roles & {Role.OPERATOR, Role.ADMIN})


def local_operator(user_id: UUID) -> Caller:
    """The caller of every request while authentication is disabled: it has every role."""
    return Caller(user_id, "local operator", frozenset(Role))


#: The same, under the usual id.
LOCAL_OPERATOR: Final = local_operator(DEFAULT_USER_ID)
